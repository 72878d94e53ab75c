"""A small module, and its saved form."""

from __future__ import annotations

import io
from typing import Any

from torch import nn

from libtz.torch import save_model

__all__ = ["stored", "two_layers"]


def two_layers() -> Any:
    return nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))


def stored(module: nn.Module) -> io.BytesIO:
    target = io.BytesIO()
    save_model(module, target)
    return target
