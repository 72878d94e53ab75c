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

__all__ = ["ModuleEntry", "load_into", "module_entries"]


class MissingModuleError(ValueOptionError, KeyError):
    __str__ = Exception.__str__


@dataclass(frozen=True)
class ModuleEntry:
    """A parameter or buffer of a module, which may be None."""

    owner: torch.nn.Module
    key: str
    is_parameter: bool
    tensor: torch.Tensor | None

    @property
    def is_saved(self) -> bool:
        return self.is_parameter or self.key not in self.owner._non_persistent_buffers_set


def module_entries(module: torch.nn.Module) -> dict[str, ModuleEntry]:
    """The parameters and buffers by name; those of a module with several names, under each name."""
    targets: dict[str, ModuleEntry] = {}
    for prefix, owner in module.named_modules(remove_duplicate=False):
        dot = f"{prefix}." if prefix else ""
        for key, parameter in owner._parameters.items():
            targets[dot + key] = ModuleEntry(owner, key, True, parameter)
        for key, buffer in owner._buffers.items():
            targets[dot + key] = ModuleEntry(owner, key, False, buffer)
    return targets


def load_into(
    module: torch.nn.Module,
    entries: Sequence[Entry],
    fetch: Callable[[Iterable[Entry]], Mapping[str, torch.Tensor]],
    *,
    is_all: bool,
) -> None:
    """Reports all mismatches in one error before the module is modified. `is_all`: nothing was
    filtered out, so tensors of the module that are not in the file cause a warning."""
    targets = module_entries(module)
    fitting = {entry.name: targets[entry.name] for entry in entries if entry.name in targets}
    new = [entry for entry in entries if entry.name not in targets]
    _check(module, entries, targets, new)
    tensors = fetch(entries)
    made: dict[object, list[torch.Tensor]] = {}
    for name, target in fitting.items():
        made.setdefault(_tie(target), []).append(tensors[name])
    broken = {tie for tie, group in made.items() if not _all_equal(group)}
    kept = {
        tie: _fitted(target, made[tie][0])
        for target in targets.values()
        if (tie := _tie(target)) in made
    }
    for name, target in targets.items():
        tie = _tie(target)
        if tie not in made:
            continue
        if tie in broken and name in fitting:
            _put(target, _fitted(target, tensors[name]))
        else:
            _put(target, kept[tie])
    for entry in new:
        _register(module, entry, tensors[entry.name])
    _warn(targets, made, broken, fitting, new, is_all)


def _tie(target: ModuleEntry) -> object:
    return (id(target.owner), target.key) if target.tensor is None else id(target.tensor)


def _check(
    module: torch.nn.Module,
    entries: Sequence[Entry],
    targets: Mapping[str, ModuleEntry],
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
        target = targets.get(entry.name)
        if target is None or target.tensor is None or is_lazy(target.tensor):
            continue
        if tuple(target.tensor.shape) != entry.shape:
            shape = tuple(target.tensor.shape)
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


def _fitted(target: ModuleEntry, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor to assign: a detached buffer, or a parameter with the attributes of the old
    one."""
    if not target.is_parameter:
        return tensor.detach()
    old = target.tensor
    can_learn = tensor.is_floating_point() or tensor.is_complex()
    wants = can_learn if old is None else old.requires_grad and can_learn
    parameter = torch.nn.Parameter(tensor.detach(), requires_grad=wants)
    if old is not None and not is_lazy(old):
        parameter.__dict__.update(old.__dict__)
    return parameter


def _put(target: ModuleEntry, tensor: torch.Tensor) -> None:
    if isinstance(tensor, torch.nn.Parameter):
        target.owner._parameters[target.key] = tensor
    else:
        target.owner._buffers[target.key] = tensor


def _register(module: torch.nn.Module, entry: Entry, tensor: torch.Tensor) -> None:
    """Adds a tensor that the module does not have, as Tensorizer does."""
    path, _, key = entry.name.rpartition(".")
    owner = module.get_submodule(path)
    if entry.tensor_type is TensorType.PARAM:
        owner.register_parameter(key, torch.nn.Parameter(tensor.detach(), tensor.requires_grad))
    else:
        owner.register_buffer(key, tensor.detach())


def _warn(
    targets: Mapping[str, ModuleEntry],
    made: Mapping[object, Sequence[torch.Tensor]],
    broken: set[object],
    fitting: Mapping[str, ModuleEntry],
    new: Sequence[Entry],
    is_all: bool,
) -> None:
    reports = []
    if new:
        reports.append(("were not in the module and were added", [entry.name for entry in new]))
    untied = [name for name, target in fitting.items() if _tie(target) in broken]
    if untied:
        reports.append(("were tied in the module, but differ in the file, and were untied", untied))
    missing = [
        name
        for name, target in targets.items()
        if target.tensor is not None
        and _tie(target) not in made
        and (target.is_saved or target.tensor.is_meta)
    ]
    if missing and is_all:
        reports.append(("of the module are not in the file and were not loaded", missing))
    for reason, names in reports:
        listed = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
        warnings.warn(f"{len(names)} tensors {reason}: {listed}", stacklevel=5)
