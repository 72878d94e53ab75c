"""PyTorch: loads and saves dicts of tensors, modules and nested objects."""

from __future__ import annotations

import os
from typing import Any

import torch

from libtz.arrays.torch_arrays import TorchFramework
from libtz.checkpoint.base import Checkpoint
from libtz.checkpoint.selection import Names
from libtz.locations import SourceLike
from libtz.opening import open_as
from libtz.options import ReadOptions
from libtz.structure import unflatten
from libtz.torch.cast import check_dtype, load_as
from libtz.torch.module import load_model
from libtz.torch.names import Rename
from libtz.torch.no_init import no_init
from libtz.torch.saving import save, save_file, save_model

__all__ = [
    "Rename",
    "load",
    "load_file",
    "load_model",
    "no_init",
    "open",
    "save",
    "save_file",
    "save_model",
]


def open(
    source: SourceLike,
    *,
    digest: str | None = None,
    signature: str | os.PathLike[str] | None = None,
    public_key: str | os.PathLike[str] | bytes | None = None,
    options: ReadOptions | None = None,
) -> Checkpoint[torch.Tensor]:
    """The same as `libtz.open`, but always with PyTorch tensors, which own their memory. Raises the
    errors of `libtz.open`."""
    return open_as(
        TorchFramework(),
        source,
        digest=digest,
        signature=signature,
        public_key=public_key,
        options=options,
    )


def load_file(
    source: SourceLike,
    *,
    names: Names = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    digest: str | None = None,
    options: ReadOptions | None = None,
) -> dict[str, torch.Tensor]:
    """Loads the tensors of a file, which own their memory: all of them in the writer's order, or
    some. With `dtype`, floating-point tensors are converted to it; all others stay as they are. For
    `source` and `digest`, see `libtz.open`; for `names`, see `Checkpoint.load`.

    Raises the errors of `libtz.open`, and OptionError for an invalid `device` or `dtype`.
    """
    check_dtype(dtype)
    with open(source, digest=digest, options=options) as file:
        return load_as(file, names, device, dtype)


def load(
    source: SourceLike,
    *,
    device: torch.device | str = "cpu",
    digest: str | None = None,
    options: ReadOptions | None = None,
) -> Any:
    """Loads the object that `save` wrote. For other files, returns a dict, as `load_file` does. The
    tensors own their memory. Raises the errors of `load_file`."""
    with open(source, digest=digest, options=options) as file:
        tensors = file.load(device=device)
        nodes = file.structure()
    return unflatten(nodes, tensors.__getitem__) if nodes else tensors
