"""Types for the signatures of both the serializer and the deserializer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeAlias

__all__ = ["FilterFuncType", "HashType", "TensorHash", "TensorPath", "TensorType"]

TensorPath: TypeAlias = "tuple[str | int, ...]"
# The argument is a name, or a path if the file contains a nested object.
FilterFuncType: TypeAlias = "Callable[[str | TensorPath], bool | Any]"


class TensorType(IntEnum):
    """The role of a tensor when it was saved."""

    PARAM = 0
    BUFFER = 1
    STATE_DICT = 2


class HashType(IntEnum):
    """The algorithm of a TensorHash."""

    CRC32 = 0
    SHA256 = 1


@dataclass(order=True, slots=True)
class TensorHash:
    """A checksum of a tensor."""

    type: HashType
    hash: bytes
