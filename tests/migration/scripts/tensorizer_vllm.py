"""vLLM's loader: streams by partial(open_stream), a key file, load_into_module, LoRA."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tensorizer import DecryptionParams, EncryptionParams, TensorDeserializer, TensorSerializer
from tensorizer.stream_io import open_stream
from tensorizer.utils import convert_bytes, no_init_or_tensor

_read_stream, _write_stream = (partial(open_stream, mode=mode) for mode in ("rb", "wb+"))

folder = Path(sys.argv[1])
uri = str(folder / "vllm" / "model.tensors")
keyfile = folder / "keyfile"


class Model(torch.nn.Module):
    def __init__(self, dtype: Any = torch.bfloat16) -> None:
        super().__init__()
        self.embed_tokens = torch.nn.Embedding(40, 16, dtype=dtype)
        self.layers = torch.nn.ModuleList(
            torch.nn.Linear(16, 16, bias=False, dtype=dtype) for _ in range(3)
        )
        self.norm = torch.nn.LayerNorm(16, dtype=dtype)


def serialize_vllm_model(model: torch.nn.Module) -> torch.nn.Module:
    encryption_params = EncryptionParams.random()
    keyfile.write_bytes(encryption_params.key)
    with _write_stream(uri) as stream:
        serializer = TensorSerializer(stream, encryption=encryption_params)
        serializer.write_module(model)
        serializer.close()
    return model


def deserialize(model: torch.nn.Module, **kwargs: Any) -> tuple[int, str]:
    with open_stream(str(keyfile)) as stream:
        decryption_params = DecryptionParams.from_key(stream.read())
    with (
        _read_stream(uri) as stream,
        TensorDeserializer(
            stream,
            dtype=torch.bfloat16,
            device="cpu",
            verify_hash=True,
            encryption=decryption_params,
            **kwargs,
        ) as deserializer,
    ):
        count = deserializer.load_into_module(model)
        total = convert_bytes(deserializer.total_tensor_bytes)
    return count, total


torch.manual_seed(1)
with torch.no_grad():
    served = serialize_vllm_model(Model().requires_grad_(False))
with no_init_or_tensor():
    loaded = Model()
told = deserialize(loaded, num_readers=1)

# An adapter is a state dict and a JSON file.
lora = {f"layers.{i}.lora_A.weight": torch.rand(4, 16) for i in range(2)}
with _write_stream(folder / "lora" / "adapter_model.tensors") as stream:
    adapter = TensorSerializer(stream)
    adapter.write_state_dict(lora)
    adapter.close()
with _write_stream(str(folder / "lora" / "adapter_config.json")) as stream:
    stream.write(json.dumps({"r": 4}).encode())
with open_stream(str(folder / "lora" / "adapter_config.json"), mode="rb") as stream:
    config = json.load(stream)
with _read_stream(folder / "lora" / "adapter_model.tensors") as stream:
    tensors = dict(TensorDeserializer(stream, dtype=torch.float16, device="cpu"))

results = {
    "told": told,
    "loaded": dict(loaded.named_parameters()),
    "equal": all(
        torch.equal(a, b) for a, b in zip(loaded.parameters(), served.parameters(), strict=True)
    ),
    "lora": tensors,
    "config": config,
}
