"""Writes the same bytes as the safetensors package."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from libtz._native import lib
from libtz.compat._errors import TypeOptionError, ValueOptionError
from libtz.errors import OptionError
from libtz.writing.base import TensorSpec
from libtz.writing.names import check_name
from libtz.writing.safetensors import SafetensorsWriter

__all__ = ["check_names", "write", "written"]

# Files begin with the dtypes at the end of this list. Within a dtype, names are sorted.
_ORDER = [
    *["BOOL", "F4", "F6_E2M3", "F6_E3M2", "U8", "I8"],
    *["F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"],
    *["I16", "U16", "F16", "BF16", "I32", "U32", "F32", "C64", "F64", "I64", "U64"],
]


def check_names(names: Iterable[object]) -> None:
    """Raises TypeError, as the package does, for a name that is not a str: JSON would write 1 and
    "1" alike. Raises ValueError for a name that readers refuse."""
    for name in names:
        if not isinstance(name, str):
            raise TypeOptionError(f"the name of a tensor must be a str; got {name!r}")
        try:
            check_name(name)
        except OptionError as error:
            raise ValueOptionError(error.message) from None


def write(
    target: Any,
    specs: Iterable[TensorSpec],
    pieces: Callable[[str], Iterable[Any]],
    metadata: Mapping[str, str] | None,
) -> None:
    """Writes a .safetensors file. `pieces` returns the bytes of a tensor, in pieces."""
    if metadata is not None and not isinstance(metadata, Mapping):
        found = type(metadata).__name__
        raise TypeOptionError(f"metadata must be a dict of str to str, not {found}")
    for key, value in (metadata or {}).items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeOptionError(f"metadata must map str to str; got {key!r}: {value!r}")
    ordered = sorted(specs, key=_order)
    with SafetensorsWriter(target, ordered, metadata=metadata) as writer:
        for spec in ordered:
            writer.write(spec.name, pieces(spec.name))


def written(
    specs: Sequence[TensorSpec],
    pieces: Callable[[str], Iterable[Any]],
    metadata: Mapping[str, str] | None,
) -> bytes:
    """The same as `write`, but returns the bytes."""
    target = io.BytesIO()
    write(target, specs, pieces, metadata)
    return target.getvalue()


def _order(spec: TensorSpec) -> tuple[int, str]:
    dtype = lib.dtype(lib.dtype_code(spec.dtype))
    name = dtype.safetensors if dtype is not None else None
    # The writer refuses dtypes that are not in the list.
    return -_ORDER.index(name) if name in _ORDER else 0, spec.name
