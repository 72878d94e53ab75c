"""Slices of tensors: the README's tensor parallelism, and the indexes that loaders use."""

import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

path = Path(sys.argv[1]) / "model.safetensors"
embedding = torch.arange(60.0).view(12, 5)
save_file(
    {"embedding": embedding, "cube": torch.arange(24).view(2, 3, 4), "x": torch.ones(3)}, path
)

results = {}
with safe_open(path, framework="pt", device="cpu") as f:
    for rank in range(3):
        tensor_slice = f.get_slice("embedding")
        vocab_size, hidden_dim = tensor_slice.get_shape()
        block = vocab_size // 3
        results[f"rank {rank}"] = tensor_slice[rank * block : (rank + 1) * block, :hidden_dim]
    embedding, cube = f.get_slice("embedding"), f.get_slice("cube")
    indexes = {
        "all": slice(None),
        "dots": ...,
        "tuple": (),
        "row": 1,
        "last": -1,
        "column": (slice(None), 2),
        "step": slice(None, None, 3),
        "columns": (..., slice(1, 3)),
        "empty": slice(3, 3),
        "past": slice(10, 100),
        "negative": slice(-2, None),
        "rows": [0, 3, 7],
        "some columns": (slice(None), [0, 4]),
        "tensor": torch.tensor([2, 2]),
        "none": None,
        "both": (None, 0),
        "scalar": torch.tensor(4),
    }
    for name, index in indexes.items():
        results[name] = embedding[index]
    results["cube"] = [cube[0, :, 1:3], cube[:, 1], cube[..., 0], cube[1, 2, 3], cube[:, :, ::2]]
    results["contiguous"] = embedding[:, :2].contiguous().is_contiguous()
    for index in (12, slice(None, None, -1), slice(None, None, 0), (0, 1, 2)):
        try:
            embedding[index]
            results[f"{index}"] = "fine"
        except (IndexError, ValueError) as error:
            names = [t.__name__ for t in (IndexError, ValueError) if isinstance(error, t)]
            results[f"{index}"] = names
