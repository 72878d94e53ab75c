"""A widely copied converter: from a .bin file, with shared tensors, and a check of the result."""

import os
import sys
from collections import defaultdict
from pathlib import Path

import torch
from safetensors.torch import (
    _find_shared_tensors,
    _is_complete,
    _remove_duplicate_names,
    load_file,
    save_file,
    storage_ptr,
    storage_size,
)

folder = Path(sys.argv[1])
torch.manual_seed(2)
table = torch.rand(8, 4)
everything = torch.rand(10)
torch.save(
    {
        "lm_head.weight": table,
        "transformer.wte.weight": table,
        "bias": torch.rand(4),
        "part.a": everything[:5],
        "whole": everything,
        "apart.a": torch.rand(2, 3)[0],
        "t": torch.rand(3, 2).t(),
    },
    folder / "pytorch_model.bin",
)


def find_duplicates(state_dict, preferred_names=()):
    to_remove = defaultdict(list)
    for shared in _find_shared_tensors(state_dict):
        complete_names = {name for name in shared if _is_complete(state_dict[name])}
        if not complete_names:
            if len(shared) == 1:
                name = next(iter(shared))
                state_dict[name] = state_dict[name].clone()
                complete_names = {name}
            else:
                raise RuntimeError("no suitable name to keep")
        keep_name = min(complete_names)
        preferred = set(preferred_names) & complete_names
        if preferred:
            keep_name = min(preferred)
        for name in sorted(shared):
            if name != keep_name:
                to_remove[keep_name].append(name)
    return to_remove


loaded = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
shared = sorted(sorted(names) for names in _find_shared_tensors(loaded))
complete = {name: _is_complete(tensor) for name, tensor in loaded.items()}
sizes = {name: storage_size(tensor) for name, tensor in loaded.items()}
pointers = [storage_ptr(loaded["whole"]) == storage_ptr(loaded["part.a"])]
duplicates = _remove_duplicate_names({n: loaded[n] for n in loaded if "apart" not in n})
preferred = _remove_duplicate_names(
    {n: loaded[n] for n in ("lm_head.weight", "transformer.wte.weight")},
    preferred_names=["transformer.wte.weight"],
)
discarded = _remove_duplicate_names(
    {n: loaded[n] for n in ("lm_head.weight", "transformer.wte.weight")},
    discard_names=["lm_head.weight"],
)

metadata = {"format": "pt"}
for kept_name, to_remove_group in find_duplicates(loaded).items():
    for to_remove in to_remove_group:
        metadata.setdefault(to_remove, kept_name)
        del loaded[to_remove]
loaded = {name: tensor.contiguous() for name, tensor in loaded.items()}
sf_filename = str(folder / "out" / "model.safetensors")
os.makedirs(os.path.dirname(sf_filename), exist_ok=True)
save_file(loaded, sf_filename, metadata=metadata)
reloaded = load_file(sf_filename)
for k, pt_tensor in loaded.items():
    assert torch.equal(pt_tensor, reloaded[k]), f"The output tensors do not match for key {k}"

results = {
    "shared": shared,
    "complete": complete,
    "sizes": sizes,
    "pointers": pointers,
    "duplicates": dict(duplicates),
    "preferred": [dict(preferred), dict(discarded)],
    "metadata": metadata,
    "reloaded": reloaded,
    "size": os.stat(sf_filename).st_size,
}
