"""The README's example, and typical code of training scripts."""

import json
import struct
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

folder = Path(sys.argv[1])
path = folder / "model.safetensors"
torch.manual_seed(0)
tensors = {
    "weight1": torch.zeros((16, 24)),
    "weight2": torch.rand(3, 5).to(torch.bfloat16),
    "step": torch.tensor(7),
    "empty": torch.empty(0, 4),
    "mask": torch.tensor([True, False]),
}
returned = save_file(tensors, str(path), metadata={"format": "pt", "epoch": "3"})

opened = {}
with safe_open(str(path), framework="pt", device="cpu") as f:
    metadata = f.metadata() or {}
    for key in f.keys():
        opened[key] = f.get_tensor(key)
    order = f.offset_keys()
    some = f.get_tensors()
    slices = {key: (f.get_slice(key).get_shape(), f.get_slice(key).get_dtype()) for key in opened}

# Without a with block, as in many scripts.
handle = safe_open(path, "pt")
again = {key: handle.get_tensor(key).clone() for key in handle.keys()}
del handle

# The header by hand, as in viewers.
with path.open("rb") as file:
    (size,) = struct.unpack("<Q", file.read(8))
    header = json.loads(file.read(size))

# A checkpoint that is saved over itself.
loaded = load_file(str(path))
loaded["weight1"] = loaded["weight1"] + 1
save_file(loaded, path)
final = load_file(path, device="cpu")
with safe_open(path, framework="pt") as f:
    bare = f.metadata()

results = {
    "returned": returned,
    "metadata": metadata,
    "opened": opened,
    "order": order,
    "some": some,
    "slices": slices,
    "again": again,
    "header": header,
    "final": final,
    "bare": bare,
    "writable": [loaded["weight2"].add_(1).shape, final["step"].add_(1)],
}
