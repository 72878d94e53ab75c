"""Shards with an index, written as in huggingface_hub, and read as in vLLM's iterator."""

import glob
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import _TYPES as _SAFETENSORS_TO_TORCH_DTYPE
from safetensors.torch import load, load_file, safe_open, save_file

folder = Path(sys.argv[1])
torch.manual_seed(1)
state = {f"model.layers.{i}.weight": torch.rand(4, 4).half() for i in range(5)}
shards = [list(state)[:2], list(state)[2:]]
weight_map = {}
for number, names in enumerate(shards, 1):
    file = f"model-{number:05}-of-{len(shards):05}.safetensors"
    save_file({name: state[name] for name in names}, folder / file, metadata={"format": "pt"})
    weight_map |= dict.fromkeys(names, file)
index = {"metadata": {"total_size": 160}, "weight_map": weight_map}
(folder / "model.safetensors.index.json").write_text(json.dumps(index))


def safetensors_weights_iterator(files: list[str]) -> Iterator[tuple[str, torch.Tensor]]:
    for st_file in sorted(files):
        with safe_open(st_file, framework="pt") as f:
            for name in f.keys():
                param = f.get_tensor(name)
                yield name, param


def eager_iterator(files: list[str]) -> Iterator[tuple[str, torch.Tensor]]:
    for st_file in sorted(files):
        with open(st_file, "rb") as f:
            yield from load(f.read()).items()


files = glob.glob(os.path.join(folder, "*.safetensors"))
dtypes = set()
for file in files:
    with safe_open(file, framework="pt") as f:
        for name in f.keys():
            dtypes.add(_SAFETENSORS_TO_TORCH_DTYPE[f.get_slice(name).get_dtype()])

index = json.loads((folder / "model.safetensors.index.json").read_text())
gathered: dict[str, torch.Tensor] = {}
for file in sorted(set(index["weight_map"].values())):
    gathered.update(load_file(os.path.join(folder, file), device="cpu"))

results = {
    "lazy": dict(safetensors_weights_iterator(files)),
    "eager": dict(sorted(eager_iterator(files))),
    "gathered": dict(sorted(gathered.items())),
    "equal": all(torch.equal(gathered[name], tensor) for name, tensor in state.items()),
    "dtypes": dtypes,
}
