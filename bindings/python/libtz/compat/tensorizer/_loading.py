"""Assigns tensors of a file to a module by name. Keeps the module's ties, dtypes of buffers and
`requires_grad`. Assigns either all tensors or none."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn.parameter import is_lazy

from libtz.compat._errors import ValueOptionError
from libtz.compat.tensorizer._arrays import bits
from libtz.compat.tensorizer._entries import Entry
from libtz.compat.tensorizer._types import TensorType

__all__ = ["Slot", "load_into", "slots_of"]


class MissingModuleError(ValueOptionError, KeyError):
    __str__ = Exception.__str__


@dataclass(frozen=True)
class Slot:
    """A parameter or buffer of a module, which may be None."""

    owner: torch.nn.Module
    key: str
    is_parameter: bool
    tensor: torch.Tensor | None

    @property
    def identity(self) -> object:
        """Equal for slots that share a tensor."""
        return id(self.owner), self.key if self.tensor is None else id(self.tensor)

    @property
    def is_saved(self) -> bool:
        return self.is_parameter or self.key not in self.owner._non_persistent_buffers_set


def slots_of(module: torch.nn.Module) -> dict[str, Slot]:
    """The slots by name. The slots of a module with several names appear under each of them."""
    slots: dict[str, Slot] = {}
    for prefix, owner in module.named_modules(remove_duplicate=False):
        dot = f"{prefix}." if prefix else ""
        for key, parameter in owner._parameters.items():
            slots[dot + key] = Slot(owner, key, True, parameter)
        for key, buffer in owner._buffers.items():
            slots[dot + key] = Slot(owner, key, False, buffer)
    return slots


def load_into(
    module: torch.nn.Module,
    entries: Sequence[Entry],
    fetch: Callable[[Iterable[Entry]], Mapping[str, torch.Tensor]],
    *,
    is_all: bool,
) -> None:
    """Reports all mismatches in one error before the module is modified. `is_all`: nothing was
    filtered out, so tensors of the module that are not in the file cause a warning."""
    slots = slots_of(module)
    fitting = {entry.name: slots[entry.name] for entry in entries if entry.name in slots}
    new = [entry for entry in entries if entry.name not in slots]
    _check(module, entries, slots, new)
    tensors = fetch(entries)
    made: dict[object, list[torch.Tensor]] = {}
    for name, slot in fitting.items():
        made.setdefault(_tie(slot), []).append(tensors[name])
    broken = {tie for tie, group in made.items() if not _all_equal(group)}
    kept = {
        tie: _fitted(slot, made[tie][0]) for slot in slots.values() if (tie := _tie(slot)) in made
    }
    for name, slot in slots.items():
        tie = _tie(slot)
        if tie not in made:
            continue
        if tie in broken and name in fitting:
            _put(slot, _fitted(slot, tensors[name]))
        else:
            _put(slot, kept[tie])
    for entry in new:
        _register(module, entry, tensors[entry.name])
    _warn(slots, made, broken, fitting, new, is_all)


def _tie(slot: Slot) -> object:
    return (id(slot.owner), slot.key) if slot.tensor is None else id(slot.tensor)


def _check(
    module: torch.nn.Module,
    entries: Sequence[Entry],
    slots: Mapping[str, Slot],
    new: Sequence[Entry],
) -> None:
    problems = []
    owners = {name for name, _ in module.named_modules(remove_duplicate=False)}
    for entry in new:
        owner = entry.name.rpartition(".")[0]
        if owner not in owners:
            problems.append(f"{entry.name!r}: there is no module {owner!r}")
        elif entry.tensor_type is TensorType.STATE_DICT:
            problems.append(f"{entry.name!r}: the module has no such parameter or buffer")
    if problems:
        raise MissingModuleError(_mismatches(module, problems))
    for entry in entries:
        slot = slots.get(entry.name)
        if slot is None or slot.tensor is None or is_lazy(slot.tensor):
            continue
        if tuple(slot.tensor.shape) != entry.shape:
            shape = tuple(slot.tensor.shape)
            problems.append(
                f"{entry.name!r} has shape {entry.shape} in the file and {shape} in the module"
            )
    if problems:
        raise ValueOptionError(_mismatches(module, problems))


def _mismatches(module: torch.nn.Module, problems: Sequence[str]) -> str:
    listed = "".join(f"\n  - {problem}" for problem in problems)
    return f"the file does not match {type(module).__name__}; nothing was changed:{listed}"


def _all_equal(group: Sequence[torch.Tensor]) -> bool:
    first, *rest = (bits(tensor) for tensor in group)
    return all(torch.equal(first, other) for other in rest)


def _fitted(slot: Slot, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor to assign: a detached buffer, or a parameter with the attributes of the old
    one."""
    if not slot.is_parameter:
        return tensor.detach()
    old = slot.tensor
    can_learn = tensor.is_floating_point() or tensor.is_complex()
    wants = can_learn if old is None else old.requires_grad and can_learn
    parameter = torch.nn.Parameter(tensor.detach(), requires_grad=wants)
    if old is not None and not is_lazy(old):
        parameter.__dict__.update(old.__dict__)
    return parameter


def _put(slot: Slot, tensor: torch.Tensor) -> None:
    if isinstance(tensor, torch.nn.Parameter):
        slot.owner._parameters[slot.key] = tensor
    else:
        slot.owner._buffers[slot.key] = tensor


def _register(module: torch.nn.Module, entry: Entry, tensor: torch.Tensor) -> None:
    """Adds a tensor that the module does not have, as Tensorizer does."""
    path, _, key = entry.name.rpartition(".")
    owner = module.get_submodule(path)
    if entry.tensor_type is TensorType.PARAM:
        owner.register_parameter(key, torch.nn.Parameter(tensor.detach(), tensor.requires_grad))
    else:
        owner.register_buffer(key, tensor.detach())


def _warn(
    slots: Mapping[str, Slot],
    made: Mapping[object, Sequence[torch.Tensor]],
    broken: set[object],
    fitting: Mapping[str, Slot],
    new: Sequence[Entry],
    is_all: bool,
) -> None:
    reports = []
    if new:
        reports.append(("were not in the module and were added", [entry.name for entry in new]))
    untied = [name for name, slot in fitting.items() if _tie(slot) in broken]
    if untied:
        reports.append(("were tied in the module, but differ in the file, and were untied", untied))
    missing = [
        name
        for name, slot in slots.items()
        if slot.tensor is not None
        and _tie(slot) not in made
        and (slot.is_saved or slot.tensor.is_meta)
    ]
    if missing and is_all:
        reports.append(("of the module are not in the file and were not loaded", missing))
    for reason, names in reports:
        listed = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
        warnings.warn(f"{len(names)} tensors {reason}: {listed}", stacklevel=5)
