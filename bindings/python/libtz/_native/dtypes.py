"""The functions of tz.h about data types."""

from __future__ import annotations

from typing import NamedTuple

from libtz._native import clib, ffi
from libtz._native.tables import new_struct

__all__ = ["DtypeInfo", "dtype", "dtype_code"]


class DtypeInfo(NamedTuple):
    name: str
    safetensors: str | None
    unit_bits: int
    elements: int


def dtype(code: int) -> DtypeInfo | None:
    """Describes a dtype. None for an unknown code."""
    out = new_struct("tz_dtype_info")
    if clib.tz_dtype(code, out) != clib.TZ_OK:
        return None
    foreign = ffi.string(out.safetensors).decode() if out.safetensors else None
    return DtypeInfo(ffi.string(out.name).decode(), foreign, out.unit_bits, out.elements)


def dtype_code(name: str) -> int:
    """The code of a dtype's name; 0 if there is none."""
    encoded = name.encode()
    return clib.tz_dtype_code(encoded, len(encoded))
