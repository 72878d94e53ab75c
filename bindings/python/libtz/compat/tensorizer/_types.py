"""Small types that signatures of both directions use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeAlias

__all__ = ["FilterFuncType", "HashType", "TensorHash", "TensorPath", "TensorType"]

TensorPath: TypeAlias = "tuple[str | int, ...]"
# It gets a name, or a path's steps if the file holds a nested object.
FilterFuncType: TypeAlias = "Callable[[str | TensorPath], bool | Any]"


class TensorType(IntEnum):
    """What a tensor was when it was saved."""

    PARAM = 0
    BUFFER = 1
    STATE_DICT = 2


class HashType(IntEnum):
    """What a TensorHash was made with."""

    CRC32 = 0
    SHA256 = 1


@dataclass(order=True, slots=True)
class TensorHash:
    """A checksum of a tensor."""

    type: HashType
    hash: bytes
