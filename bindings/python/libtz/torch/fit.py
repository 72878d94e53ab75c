"""Matches a module with a file, and lists every mismatch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from libtz.arrays.torch_dtypes import TORCH_DTYPES
from libtz.checkpoint.base import Checkpoint
from libtz.errors import OptionError
from libtz.torch.cast import is_cast
from libtz.torch.module_entries import Group, Target, groups_of, problem_of
from libtz.torch.names import FileNames, cut, strangers

__all__ = ["EXTRA_STATE", "Fit", "fit_of", "refuse"]

EXTRA_STATE = "_extra_state"  # PyTorch's name for what get_extra_state() returns


@dataclass
class Fit:
    groups: list[Group] = field(default_factory=list)  # those in the file
    others: list[Group] = field(default_factory=list)
    # Modules whose extra state is a tensor in the file, by its name there.
    extras: dict[str, torch.nn.Module] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def fit_of(module: torch.nn.Module, names: FileNames, strict: bool, target: Target) -> Fit:
    fit = Fit()
    known: set[str] = set()
    for group in groups_of(module):
        own = [entry.name for entry in group.entries]
        known.update(own)
        group.infos = [names.info(name) for name in own if name in names]
        if group.infos:
            fit.groups.append(group)
            fit.problems += _mismatches(group, target)
            continue
        fit.others.append(group)
        saved = [entry.name for entry in group.entries if not entry.is_volatile]
        fit.missing += saved
        if target.is_moved(group) and (problem := problem_of(group.tensor, is_written=True)):
            fit.problems.append(f"{group.name!r} {problem}")
        if strict and not saved and group.tensor.is_meta:
            fit.problems.append(
                f"{group.name!r}, a non-persistent buffer on the meta device, is not in the file,"
                " so it has no values; build the module under libtz.torch.no_init(), or save it"
                " with non_persistent=True"
            )
    for name, owner in _extra_states(module).items():
        known.add(name)
        if name in names:
            fit.extras[names.info(name).name] = owner
        else:
            fit.missing.append(name)
    fit.problems = cut(fit.problems)
    fit.unexpected = [name for name in names if name not in known]
    if strict:
        fit.problems += strangers(fit.missing, fit.unexpected)
    return fit


def refuse(file: Checkpoint[Any], problems: Sequence[str]) -> None:
    if problems:
        listed = "".join(f"\n  - {problem}" for problem in problems)
        raise OptionError(f"{file.url} does not fit the module; nothing was changed:{listed}")


def _extra_states(module: torch.nn.Module) -> dict[str, torch.nn.Module]:
    return {
        f"{prefix}.{EXTRA_STATE}" if prefix else EXTRA_STATE: owner
        for prefix, owner in module.named_modules(remove_duplicate=False)
        if type(owner).set_extra_state is not torch.nn.Module.set_extra_state
    }


def _mismatches(group: Group, target: Target) -> Iterator[str]:
    tensor = group.tensor
    problem = problem_of(tensor, is_written=False)
    if problem is not None:
        yield f"{group.name!r} {problem}"
        return
    fits = True
    for info in group.infos:
        if info.shape != tuple(tensor.shape):
            shape = tuple(tensor.shape)
            yield f"{info.name!r} has shape {info.shape} in the file and {shape} in the module"
        own = tensor.dtype
        is_converted = is_cast(info.dtype) and own.is_floating_point
        is_taken = target.dtype is not None and is_converted
        if not is_taken and TORCH_DTYPES.get(info.dtype) != target.dtype_of(group):
            fits = False
            hint = "; dtype= converts" if is_converted else ""
            yield f"{info.name!r} has dtype {info.dtype} in the file and {own} in the module{hint}"
    if fits and not target.is_replaced(group):
        problem = problem_of(tensor, is_written=True)
        if problem is not None:
            yield f"{group.name!r} {problem}"
    digests = {info.content_digest for info in group.infos}
    if len(digests) > 1:
        listed = " and ".join(repr(info.name) for info in group.infos)
        yield f"{listed} are tied in the module, but differ in the file"
