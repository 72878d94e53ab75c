"""A pipeline of several models, each a state dict with its configuration, and a filter."""

import json
import sys
from pathlib import Path

import torch
from tensorizer import TensorDeserializer, TensorSerializer, utils

folder = Path(sys.argv[1])


def make(width: int) -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, width, 3), torch.nn.BatchNorm2d(width), torch.nn.Conv2d(width, 3, 1)
    )


torch.manual_seed(2)
pipeline = {"unet": make(8), "vae": make(4)}
for name, part in pipeline.items():
    (folder / f"{name}-config.json").write_text(json.dumps({"width": len(part[0].bias)}))
    serializer = TensorSerializer(folder / f"{name}.tensors", limit_cpu_concurrency=2)
    serializer.write_state_dict(part.state_dict())
    serializer.close()

loaded = {}
for name in pipeline:
    config = json.loads((folder / f"{name}-config.json").read_text())
    with utils.no_init_or_tensor():
        part = make(**config)
    deserializer = TensorDeserializer(folder / f"{name}.tensors", device=torch.device("cpu"))
    part.load_state_dict(deserializer, assign=True)
    loaded[name] = dict(part.state_dict())
    deserializer.close()

path = folder / "unet.tensors"
only = TensorDeserializer(path, device="cpu", filter_func=lambda key: key.startswith("1."))
lazy = TensorDeserializer(path, device="cpu", lazy_load=True)
results = {
    "loaded": loaded,
    "filtered": dict(only.items()),
    "keys": list(lazy.keys()),
    "values": [tuple(value.shape) for value in lazy.values()],
    "one": lazy["0.weight"],
    "same": lazy["0.weight"] is lazy["0.weight"],
    "get": [lazy.get("0.bias"), lazy.get("nothing"), lazy.get("nothing", 7)],
    "in": ["0.weight" in lazy, "nothing" in lazy, len(lazy)],
    "bytes": [only.total_tensor_bytes, lazy.total_tensor_bytes],
    "learn": {key: lazy[key].requires_grad for key in lazy},
    "kind": [type(lazy[key]).__name__ for key in lazy],
}
lazy.close()
only.close()
