"""Loads files into modules."""

from __future__ import annotations

from typing import Any

import torch

from libtz.arrays.torch_arrays import TorchFramework
from libtz.errors import OptionError
from libtz.opening import open_as
from libtz.options import ReadOptions
from libtz.torch.cast import check_dtype
from libtz.torch.filling import Filling
from libtz.torch.fit import fit_of, refuse
from libtz.torch.names import FileNames, Rename
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

    Whatever does not fit is reported in one OptionError before anything is changed: names, shapes,
    types, memory that was freed, and tensors that cannot be filled, such as DTensors. Everything
    that `libtz.open` and `Checkpoint.load` raise is raised too. An error while loading leaves tensors on
    the meta device as they were; if others were being written, the error's `changed` names them.
    """
    check_dtype(dtype)
    target = Target(_device(device), dtype)
    with open_as(TorchFramework(), source, digest=digest, options=options) as file:
        fit = fit_of(module, FileNames(file, rename), strict, target)
        refuse(file, fit.problems)
        Filling(file, fit, target).run()
    return fit.missing, fit.unexpected


def _device(device: torch.device | str | None) -> torch.device | None:
    if device is None:
        return None
    found = TorchFramework().device(device)  # raises if it cannot be used
    if found is None:
        return torch.device("cpu")
    if found.device.type == "meta":
        raise OptionError("device='meta': tensors there have no values to be loaded")
    return found.device
