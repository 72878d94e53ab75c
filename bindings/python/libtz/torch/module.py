"""Loads files into modules."""

from __future__ import annotations

import torch

from libtz.arrays.torch_arrays import TorchFramework
from libtz.checkpoint.base import Checkpoint
from libtz.errors import OptionError
from libtz.locations import SourceLike
from libtz.opening import open_as
from libtz.options import ReadOptions
from libtz.torch.cast import check_dtype, load_as
from libtz.torch.filling import Filling
from libtz.torch.fit import fit_of, refuse
from libtz.torch.load_hooks import HookedLoad, has_load_hooks
from libtz.torch.module_entries import Target
from libtz.torch.names import FileNames, Rename, strangers

__all__ = ["load_model"]


def load_model(
    module: torch.nn.Module,
    source: SourceLike,
    *,
    strict: bool = True,
    rename: Rename = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    digest: str | None = None,
    options: ReadOptions | None = None,
) -> tuple[list[str], list[str]]:
    """Loads a file into a module. Returns the names in the module that are missing in the file, and
    the names in the file that the module does not have; both lists are empty if `strict`.

    The module's tensors are written in place. Tensors on the meta device are replaced by real ones,
    on `device` or the CPU, each with memory of its own. With `device`, the whole module is moved
    there. With `dtype`, floating-point tensors from the file get this type, also in the module, and
    all others stay; without it, types must match, but weights on the meta device take the file's
    type if both are f16, bf16, f32 or f64. Shapes must match. Ties of the module are kept, tensors
    from the meta device are tied as in the file, and `requires_grad` is kept. Non-persistent
    buffers are loaded if the file has them, and are not reported as missing if it does not.

    `rename` maps a name in the file to the name in the module: a function, or a mapping of the
    names that differ, as in `rename=lambda name: name.removeprefix("module.")`.

    A module that customises loading, with `load_state_dict` hooks or methods of its own, is loaded
    through them: the whole file is then read into memory first, and hooks see what PyTorch would
    show them. Other modules are filled as the bytes arrive.

    All mismatches are reported in one OptionError before anything is modified: names, shapes,
    types, freed memory, and tensors that cannot be filled, such as DTensors. Also raises what
    `libtz.open` and `Checkpoint.load` raise. If loading fails, tensors on the meta device stay as
    they were; the error's `changed` names the tensors that may have been written to.
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
        error = OptionError(f"{file.url} does not fit the module, its hooks included:{listed}")
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
        raise OptionError("tensors on the meta device hold no values; load to another device")
    return found.device
