"""Finds tensors that share memory. Converters import these functions from `safetensors.torch`,
including the private ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch

from libtz.compat._errors import RuntimeOptionError

__all__ = [
    "_end_ptr",
    "_find_shared_tensors",
    "_is_complete",
    "_remove_duplicate_names",
    "storage_ptr",
    "storage_size",
]


def storage_ptr(tensor: torch.Tensor) -> int:
    """The address of the tensor's storage; 0 on the meta device."""
    return 0 if tensor.is_meta else tensor.untyped_storage().data_ptr()


def storage_size(tensor: torch.Tensor) -> int:
    """The size of the tensor's storage, in bytes."""
    return tensor.untyped_storage().nbytes()


def _find_shared_tensors(state_dict: Mapping[str, torch.Tensor]) -> list[set[str]]:
    """Groups names of tensors that share memory. A tensor that shares none is a group of its own;
    tensors without memory are in no group. The groups are those of the package, which compares
    each tensor with the one before it: they decide which tensors a file has."""
    storages: dict[object, list[tuple[int, int, str]]] = {}
    for name, tensor in state_dict.items():
        if storage_ptr(tensor) and (size := storage_size(tensor)):
            memory = (tensor.device, storage_ptr(tensor), size)
            storages.setdefault(memory, []).append((*_extent(tensor), name))
    groups: list[set[str]] = []
    for areas in storages.values():
        last_end = -1
        for begin, end, name in sorted(areas):
            if begin < last_end:
                groups[-1].add(name)
            else:
                groups.append({name})
            last_end = end
    return groups


def _is_complete(tensor: torch.Tensor) -> bool:
    """Whether the tensor covers its whole storage."""
    is_whole = tensor.numel() * tensor.element_size() == storage_size(tensor)
    return is_whole and tensor.data_ptr() == storage_ptr(tensor)


def _remove_duplicate_names(
    state_dict: Mapping[str, torch.Tensor],
    *,
    preferred_names: Collection[str] | None = None,
    discard_names: Collection[str] | None = None,
) -> dict[str, list[str]]:
    """For each group that shares memory, the name to store, and the others. The stored tensor
    covers the whole storage. It has a preferred name if possible, otherwise one not to be
    discarded. Raises RuntimeError if no tensor of a group, which may be a single one, covers its
    storage."""
    ties: dict[str, list[str]] = {}
    for group in _find_shared_tensors(state_dict):
        complete = sorted(name for name in group if _is_complete(state_dict[name]))
        if not complete:
            raise RuntimeOptionError(
                "Error while trying to find names to remove to save state dict, but found no"
                f" suitable name to keep for saving amongst: {sorted(group)}. None is covering the"
                " entire storage. Refusing to save/load the model since you could be storing much"
                " more memory than needed; give the module clones of these tensors"
            )
        if len(group) < 2:
            continue
        preferred = [name for name in complete if name in (preferred_names or ())]
        remaining = [name for name in complete if name not in (discard_names or ())]
        kept = (preferred or remaining or complete)[0]
        ties[kept] = sorted(group - {kept})
    return ties


def _end_ptr(tensor: torch.Tensor) -> int:
    """The address after the last element."""
    return _extent(tensor)[1]


def _extent(tensor: torch.Tensor) -> tuple[int, int]:
    size = tensor.element_size()
    begin = tensor.data_ptr()
    if not tensor.numel():
        return begin, begin
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    return begin, begin + size * (1 + sum((count - 1) * stride for count, stride in pairs))
