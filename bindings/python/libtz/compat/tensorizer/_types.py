"""Small types that signatures of both directions use."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, TypeAlias

__all__ = ["FilterFuncType", "TensorPath", "TensorType"]

TensorPath: TypeAlias = "tuple[str | int, ...]"
# It gets a name, or a path's steps if the file holds a nested object.
FilterFuncType: TypeAlias = "Callable[[str | TensorPath], bool | Any]"


class TensorType(IntEnum):
    """What a tensor was when it was saved."""

    PARAM = 0
    BUFFER = 1
    STATE_DICT = 2
