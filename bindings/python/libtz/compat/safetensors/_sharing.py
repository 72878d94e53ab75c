"""Finds tensors that share memory. Converters import these functions from `safetensors.torch`,
including the private ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch

from libtz.compat._errors import RuntimeOptionError

__all__ = [
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
    tensors without memory are in no group."""
    storages: dict[object, list[tuple[int, int, str]]] = {}
    for name, tensor in state_dict.items():
        if storage_ptr(tensor) and storage_size(tensor):
            memory = (tensor.device, storage_ptr(tensor))
            storages.setdefault(memory, []).append((*_extent(tensor), name))
    groups: list[set[str]] = []
    for areas in storages.values():
        reached = -1
        for begin, end, name in sorted(areas):
            if begin < reached:
                groups[-1].add(name)
            else:
                groups.append({name})
            reached = max(reached, end)
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
    discarded."""
    ties: dict[str, list[str]] = {}
    for group in _find_shared_tensors(state_dict):
        if len(group) < 2:
            continue
        complete = sorted(name for name in group if _is_complete(state_dict[name]))
        if not complete:
            raise RuntimeOptionError(
                f"{', '.join(map(repr, sorted(group)))} share memory, and none of them covers all"
                " of it, so none can replace the others"
            )
        preferred = [name for name in complete if name in (preferred_names or ())]
        remaining = [name for name in complete if name not in (discard_names or ())]
        kept = (preferred or remaining or complete)[0]
        ties[kept] = sorted(group - {kept})
    return ties


def _extent(tensor: torch.Tensor) -> tuple[int, int]:
    size = tensor.element_size()
    begin = tensor.data_ptr()
    if not tensor.numel():
        return begin, begin
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    return begin, begin + size * (1 + sum((count - 1) * stride for count, stride in pairs))
