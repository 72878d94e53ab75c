"""Parts of models: filters by prefix, buffers, tensors that are removed while writing."""

import sys
from pathlib import Path

import torch
from tensorizer import TensorDeserializer, TensorSerializer

folder = Path(sys.argv[1])


class HostBuffer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = torch.nn.Linear(4, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.register_buffer("mask", torch.ones(4, 4).tril(), persistent=False)


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(7, 4)
        self.blocks = torch.nn.ModuleList(HostBuffer() for _ in range(2))
        self.shared = self.blocks[0]  # a module under two names is written once


torch.manual_seed(5)
model = Model()
expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
serializer = TensorSerializer(folder / "model.tensors")
serializer.write_module(model)
serializer.close()
serializer = TensorSerializer(folder / "lean.tensors")
serializer.write_module(model, include_non_persistent_buffers=False)
serializer.close()

with TensorDeserializer(folder / "model.tensors", device="cpu") as deserializer:
    keys = list(deserializer.keys())
    verified = deserializer.verify_module(model)[0]
with TensorDeserializer(folder / "lean.tensors", device="cpu") as deserializer:
    lean = list(deserializer.keys())

part = Model()
before = {name: tensor.clone() for name, tensor in part.state_dict().items()}
with TensorDeserializer(
    folder / "model.tensors", device="cpu", filter_func=lambda name: name.startswith("blocks.1")
) as deserializer:
    count = deserializer.load_into_module(part)
with TensorDeserializer(folder / "model.tensors", device="cpu", lazy_load=True) as deserializer:
    second = deserializer.load_into_module(part, filter_func=lambda name: "embed" in name)
changed = [n for n, t in before.items() if not torch.equal(part.state_dict()[n], t)]

# One part of the model, as a module of its own.
block = HostBuffer()
with TensorDeserializer(folder / "model.tensors", device="cpu") as deserializer:
    prefix = "blocks.1."
    block.load_state_dict(
        {k[len(prefix) :]: v for k, v in deserializer.items() if k.startswith(prefix)}, strict=False
    )

written = TensorSerializer(folder / "removed.tensors")
written.write_module(model, remove_tensors=True)
written.close()
removed = [model.embed.weight, model.blocks[1].norm.running_mean]
again = Model()
with TensorDeserializer(folder / "removed.tensors", device="cpu") as deserializer:
    deserializer.load_into_module(again)

results = {
    "keys": keys,
    "lean": lean,
    "counts": [count, second],
    "changed": changed,
    "verified": verified,
    "block": dict(block.state_dict()),
    "removed": removed,
    "again": {name: tensor for name, tensor in again.state_dict().items() if "mask" not in name},
    "equal": all(torch.equal(again.state_dict()[name], expected[name]) for name in expected),
    "written": written.total_tensor_bytes,
}
