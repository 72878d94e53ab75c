"""PyTorch: files to and from dicts of tensors, modules and nested objects."""

from __future__ import annotations

from typing import Any

import torch

from libtz.checkpoint.selection import Names
from libtz.opening import open as open_file
from libtz.options import ReadOptions
from libtz.structure import unflatten
from libtz.torch.cast import check_dtype, load_as
from libtz.torch.module import load_model
from libtz.torch.no_init import no_init
from libtz.torch.saving import save, save_file, save_model

__all__ = ["load", "load_file", "load_model", "no_init", "save", "save_file", "save_model"]

_DEFAULTS = ReadOptions()


def load_file(
    source: Any,
    *,
    names: Names = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    digest: str | None = None,
    options: ReadOptions = _DEFAULTS,
) -> dict[str, torch.Tensor]:
    """The tensors of a file: all in the writer's order, or some. With `dtype`, floating-point
    tensors become this type; all others stay. `source`, `digest`: see `libtz.open`; `names`: see
    `File.load`.
    """
    check_dtype(dtype)
    with open_file(source, digest=digest, options=options) as file:
        return load_as(file, names, device, dtype)


def load(
    source: Any,
    *,
    device: torch.device | str = "cpu",
    digest: str | None = None,
    options: ReadOptions = _DEFAULTS,
) -> Any:
    """The object that `save` wrote; of other files, what `load_file` returns."""
    with open_file(source, digest=digest, options=options) as file:
        tensors = file.load(device=device)
        nodes = file.structure()
    return unflatten(nodes, lambda name: tensors[str(name)]) if nodes else tensors
