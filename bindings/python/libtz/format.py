"""Facts about a file and its tensors, as immutable values."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Literal

from libtz._native import lib
from libtz.errors import OptionError

__all__ = [
    "Format",
    "TensorInfo",
    "Verified",
    "digest_text",
    "dtype_code",
    "dtype_name",
    "is_known",
    "item_size",
    "parse_digest",
]

Format = Literal["tz", "safetensors", "tensors", "pickle"]
Verified = Literal["pinned", "checksum", "none"]

_EXTENSIBLE = re.compile("0x01[0-9a-f]{2}")
_DIGEST = re.compile(r"(blake3|sha256):([0-9a-f]{64})")


@dataclass(frozen=True)
class TensorInfo:
    """The description of a tensor in its file.

    `dtype` is a name from section 11 of the specification, such as "bf16". `shape` counts storage
    units, as PyTorch does. `nbytes` is the size in memory in bytes. `stored_nbytes` is the size in
    the file: 0 for a tensor that is empty or tied to another. `tied_to` is the name of that other
    tensor. `content_digest` is the BLAKE3 of the bytes in memory; None in formats that do not store
    one.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    stored_nbytes: int
    content_digest: str | None
    tied_to: str | None


@functools.cache
def dtype_name(code: int) -> str:
    """The name from section 11, or a number such as "0x0100" for an unknown code."""
    info = lib.dtype(code)
    return f"{code:#06x}" if info is None else info.name


def is_known(dtype: str) -> bool:
    """Whether this version knows the dtype. An unknown one is given as a number."""
    return not dtype.startswith("0x")


@functools.cache
def dtype_code(name: str) -> int:
    """The code of a name from section 11, or of a number such as "0x0100" from the extensible
    range; 0 if there is none."""
    return int(name, 16) if _EXTENSIBLE.fullmatch(name) else lib.dtype_code(name)


@functools.cache
def item_size(dtype: str) -> int:
    """The size of a storage unit in bytes; 1 for an unknown dtype."""
    info = lib.dtype(lib.dtype_code(dtype))
    return 1 if info is None else info.unit_bits // 8


def digest_text(digest: bytes) -> str:
    return f"blake3:{digest.hex()}"


def parse_digest(text: str) -> tuple[str, bytes]:
    """The algorithm and the bytes of a digest. Raises OptionError if the text is invalid."""
    match = _DIGEST.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise OptionError(
            f"{text!r} is not a digest: it must be 'blake3:' (the digest of a .tz file) or"
            " 'sha256:' (the hash of a whole file in another format), followed by 64 lower-case"
            " hexadecimal digits"
        )
    return match[1], bytes.fromhex(match[2])
