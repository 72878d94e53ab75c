"""Loads files into modules."""

from __future__ import annotations

from typing import Any

import torch

from libtz.arrays.torch_arrays import TorchFramework
from libtz.checkpoint.base import Checkpoint
from libtz.errors import OptionError
from libtz.opening import open_as
from libtz.options import ReadOptions
from libtz.torch.cast import check_dtype, load_as
from libtz.torch.filling import Filling
from libtz.torch.fit import fit_of, refuse
from libtz.torch.load_hooks import HookedLoad, has_load_hooks
from libtz.torch.names import FileNames, Rename, strangers
from libtz.torch.slots import Target

__all__ = ["load_model"]


def load_model(
    module: torch.nn.Module,
    source: Any,
    *,
    strict: bool = True,
    rename: Rename = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    digest: str | None = None,
    options: ReadOptions | None = None,
) -> tuple[list[str], list[str]]:
    """Loads a file into a module. Returns the names in the module that the file does not have, and
    those of the file that the module does not have; both are empty if `strict`.

    Tensors are written where the module has them, and stay the module's. Those on the meta device
    become real, on `device` or the CPU, in memory that is theirs alone. With `device` the whole
    module ends up there. With `dtype`, floating-point tensors of the file become this type, also in
    the module, and all others stay; without it, types must be the same, but weights on the meta
    device take the file's type if both are f16, bf16, f32 or f64. Shapes must be the same. Ties of
    the module stay, ties of the file come to be between tensors that were meta, and `requires_grad`
    stays. Non-persistent buffers are loaded if the file has them, and never missed.

    `rename` gives the name in the module for a name in the file: a function, or a mapping of those
    that differ, as in `rename=lambda name: name.removeprefix("module.")`.

    A module that changes how it is loaded, with hooks of `load_state_dict` or methods of its own,
    is loaded through them: the whole file is then read into memory first, and hooks see what
    PyTorch would show them. Other modules are filled as the bytes arrive.

    Whatever does not fit is reported in one OptionError before anything is changed: names, shapes,
    types, memory that was freed, and tensors that cannot be filled, such as DTensors. Everything
    that `libtz.open` and `Checkpoint.load` raise is raised too. An error while loading leaves
    tensors on the meta device as they were; if others were being written, the error's `changed`
    names them.
    """
    check_dtype(dtype)
    target = Target(_device(device), dtype)
    with open_as(TorchFramework(), source, digest=digest, options=options) as file:
        names = FileNames(file, rename)
        if has_load_hooks(module, names.__contains__):
            return _load_by_hooks(module, file, names, strict, target)
        fit = fit_of(module, names, strict, target)
        refuse(file, fit.problems)
        Filling(file, fit, target).run()
    return fit.missing, fit.unexpected


def _load_by_hooks(
    module: torch.nn.Module,
    file: Checkpoint[torch.Tensor],
    names: FileNames,
    strict: bool,
    target: Target,
) -> tuple[list[str], list[str]]:
    load = HookedLoad(module, target, is_converting=False)
    device = "cpu" if target.device is None else target.device
    stored = load_as(file, None, device, target.dtype)
    load.rehearse({name: stored[names.info(name).name] for name in names})
    refuse(file, load.problems)
    if strict and not load.has_post_hooks:
        refuse(file, strangers(load.missing, load.unexpected))
    load.apply()
    if strict and (lines := strangers(load.missing, load.unexpected)):
        listed = "".join(f"\n  - {line}" for line in lines)
        error = OptionError(f"{file!r} does not fit the module, its hooks included:{listed}")
        error.changed = load.changed
        raise error
    return load.missing, load.unexpected


def _device(device: torch.device | str | None) -> torch.device | None:
    if device is None:
        return None
    found = TorchFramework().device(device)  # raises if it cannot be used
    if found is None:
        return torch.device("cpu")
    if found.device.type == "meta":
        raise OptionError("device='meta': tensors there have no values to be loaded")
    return found.device
