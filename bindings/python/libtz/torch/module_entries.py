"""The tensors of a module: where they are held, which are tied, and which can be written to."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from libtz.arrays.torch_dtypes import TORCH_DTYPES
from libtz.arrays.torch_memory import memory_of
from libtz.errors import OptionError
from libtz.format import TensorInfo
from libtz.torch.cast import is_cast

__all__ = ["Group", "ModuleEntry", "Target", "groups_of", "overlapping", "problem_of"]

PLAIN_TYPES = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)

# Weights in these types mean the same numbers; those in 8 bits come with scales.
UNSCALED_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class ModuleEntry:
    """A parameter or buffer of a module, by name."""

    name: str
    owner: torch.nn.Module
    key: str
    is_parameter: bool
    is_volatile: bool  # a buffer that is not saved

    @property
    def registry(self) -> dict[str, Any]:
        return self.owner._parameters if self.is_parameter else self.owner._buffers

    def put(self, tensor: torch.Tensor) -> None:
        self.registry[self.key] = tensor


@dataclass
class Group:
    """A tensor of the module with all its entries: more than one if it is tied."""

    tensor: torch.Tensor
    entries: list[ModuleEntry] = field(default_factory=list)
    # The file's tensors for it. More than one if the file stores a tie as copies.
    infos: list[TensorInfo] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.entries[0].name

    @property
    def objects(self) -> list[torch.Tensor]:
        """The distinct tensor objects in the entries: a parameter and its detach() are two."""
        found = [entry.registry[entry.key] for entry in self.entries]
        return list({id(tensor): tensor for tensor in found}.values())


@dataclass(frozen=True)
class Target:
    """The device and type to load to; None keeps those of the module."""

    device: torch.device | None
    dtype: torch.dtype | None

    def device_of(self, group: Group) -> torch.device:
        if self.device is None:
            return torch.device("cpu") if group.tensor.is_meta else group.tensor.device
        if self.device.type == "cuda" and self.device.index is None:
            return torch.device("cuda", torch.cuda.current_device())
        return self.device

    def dtype_of(self, group: Group) -> torch.dtype:
        own, stored = group.tensor.dtype, group.infos[0].dtype
        if self.dtype is not None and is_cast(stored):
            return self.dtype
        new = TORCH_DTYPES.get(stored)
        is_free = group.tensor.is_meta and own in UNSCALED_TYPES
        return new if is_free and new in UNSCALED_TYPES else own

    def is_replaced(self, group: Group) -> bool:
        """Whether the group gets new memory."""
        return self.has_other_place(group) or group.tensor.dtype != self.dtype_of(group)

    def has_other_place(self, group: Group) -> bool:
        """Whether it gets new memory regardless of its type."""
        tensor = group.tensor
        is_moved = tensor.is_meta or tensor.device != self.device_of(group)
        return is_moved or _has_own_overlap(tensor)

    def is_moved(self, group: Group) -> bool:
        """Whether a group that is not in the file has to be moved to the device."""
        return (
            self.device is not None
            and not is_lazy(group.tensor)
            and not group.tensor.is_meta
            and group.tensor.device != self.device_of(group)
        )


def groups_of(module: torch.nn.Module) -> list[Group]:
    """All tensors of a module."""
    groups: dict[Any, Group] = {}
    for prefix, owner in module.named_modules(remove_duplicate=False):
        dot = f"{prefix}." if prefix else ""
        parameters = [(key, tensor, True) for key, tensor in owner._parameters.items()]
        buffers = [(key, tensor, False) for key, tensor in owner._buffers.items()]
        for key, tensor, is_parameter in parameters + buffers:
            if tensor is None:
                continue
            is_volatile = not is_parameter and key in owner._non_persistent_buffers_set
            group = groups.setdefault(_identity(tensor), Group(tensor))
            group.entries.append(ModuleEntry(dot + key, owner, key, is_parameter, is_volatile))
    return list(groups.values())


def _identity(tensor: torch.Tensor) -> Any:
    if is_lazy(tensor) or not _has_plain_memory(tensor) or not tensor.numel():
        return id(tensor)
    place = memory_of(tensor)[0], tensor.stride()
    return tensor.device, tensor.dtype, tensor.shape, place


def _has_plain_memory(tensor: torch.Tensor) -> bool:
    if type(tensor) not in PLAIN_TYPES or tensor.layout != torch.strided or tensor.is_meta:
        return False
    try:
        memory_of(tensor)
    except OptionError:
        return False
    return True


def problem_of(tensor: torch.Tensor, *, is_written: bool) -> str | None:
    """Why a tensor cannot be filled or, unless `is_written`, replaced; text to follow its name."""
    kind = type(tensor).__qualname__
    if is_lazy(tensor):
        return "has no shape yet; run the module once before loading into it"
    if isinstance(tensor, _dtensor_types()):
        return (
            f"is a {kind}, split over several ranks; load before fully_shard(),"
            " distribute_tensor() or parallelize_module(), or load_file() and pass the tensors to"
            " torch.distributed.checkpoint.state_dict.set_model_state_dict(), with"
            " StateDictOptions(full_state_dict=True)"
        )
    if hasattr(tensor, "__tensor_flatten__"):
        return f"is a {kind}, which wraps other tensors; load before the module is converted to it"
    if tensor.is_quantized:
        return "is quantized; load before the module is quantized"
    if tensor.is_nested:
        return "is nested; make it dense first, with to_padded_tensor()"
    if tensor.layout != torch.strided:
        return f"is not dense ({tensor.layout}); make it dense first"
    if not tensor.is_meta and (is_written or type(tensor) not in PLAIN_TYPES):
        try:
            memory_of(tensor)
        except OptionError as error:
            return error.message
    return None


def _dtensor_types() -> tuple[type, ...]:
    # If there is a DTensor, this has been imported; importing it takes a second.
    module = sys.modules.get("torch.distributed.tensor")
    return () if module is None else (module.DTensor,)


def _has_own_overlap(tensor: torch.Tensor) -> bool:
    """Whether elements share memory, as after expand(): then it cannot be written in place."""
    if type(tensor) not in PLAIN_TYPES or tensor.layout != torch.strided or not tensor.numel():
        return False
    pairs = zip(tensor.stride(), tensor.shape, strict=True)
    reach = 0  # extent of the dimensions so far, shortest stride first
    for stride, count in sorted(pair for pair in pairs if pair[1] > 1):
        if stride <= reach:
            return True
        reach += stride * (count - 1)
    return False


def overlapping(groups: Sequence[Group]) -> set[int]:
    """The ids of groups that may share memory with others. These are written one after the other:
    data must not change while it is checked in place."""
    areas = []
    for group in groups:
        tensor = group.tensor
        if _has_plain_memory(tensor) and tensor.numel():
            areas.append((str(tensor.device), *memory_of(tensor), id(group)))
    found: set[int] = set()
    device, reached, holder = "", 0, 0
    for place, begin, end, group_id in sorted(areas):
        if place == device and begin < reached:
            found |= {holder, group_id}
        if place != device or end > reached:
            device, reached, holder = place, end, group_id
    return found
