"""PyTorch: files to and from dicts of tensors, modules and nested objects."""

from __future__ import annotations

from typing import Any

import torch

from libtz._structure import unflatten
from libtz._torch_module import load_model, no_init
from libtz._torch_save import save, save_file, save_model
from libtz.options import ReadOptions
from libtz.reader import open as open_file

__all__ = ["load", "load_file", "load_model", "no_init", "save", "save_file", "save_model"]

_DEFAULTS = ReadOptions()


def load_file(
    source: Any,
    *,
    device: torch.device | str = "cpu",
    digest: str | None = None,
    options: ReadOptions = _DEFAULTS,
) -> dict[str, torch.Tensor]:
    """All tensors of a file, in the writer's order. `source`, `digest`: see `libtz.open`."""
    with open_file(source, digest=digest, options=options) as file:
        return file.load(device=device)


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
