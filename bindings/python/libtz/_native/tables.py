"""Helpers of this package: C structs as NumPy records, text, nodes."""

from __future__ import annotations

import functools
import struct
from typing import Any, NamedTuple

import numpy as np

from libtz._native import clib, ffi

__all__ = [
    "INT_MAX",
    "INT_MIN",
    "Node",
    "new_struct",
    "read_node",
    "record_dtype",
    "text",
    "view",
    "write_node",
]


_new = ffi.new

# What a TZ_NODE_INT or TZ_KEY_INT holds.
INT_MIN, INT_MAX = -(1 << 63), (1 << 63) - 1


def new_struct(name: str) -> Any:
    """A struct with its struct_size set and everything else zero."""
    pointer, size = _struct_type(name)
    out = _new(pointer)
    out.struct_size = size
    return out


@functools.cache
def _struct_type(name: str) -> tuple[Any, int]:
    """The pointer type and the size of a struct. Cached, because parsing the name is the slowest
    step."""
    return ffi.typeof(f"{name} *"), ffi.sizeof(name)


def record_dtype(name: str) -> np.dtype[Any]:
    """The NumPy record type of a struct. Pointers become addresses."""
    fields = ffi.typeof(name).fields
    return np.dtype(
        {
            "names": [field_name for field_name, _ in fields],
            "formats": [_format(field.type) for _, field in fields],
            "offsets": [field.offset for _, field in fields],
            "itemsize": ffi.sizeof(name),
        }
    )


def _format(ctype: Any) -> Any:
    if ctype.kind == "array":
        return _format(ctype.item), ctype.length
    return f"u{ffi.sizeof(ctype)}"


def view(pointer: Any, count: int, dtype: np.dtype[Any], owner: Any) -> Any:
    """A read-only array over `count` records in the library's memory. It keeps `owner` alive."""
    if count == 0:
        return np.empty(0, dtype)
    # The array keeps this pointer alive, and the pointer's destructor keeps the owner alive.
    pointer = ffi.gc(pointer, lambda _, owner=owner: None)
    array = np.frombuffer(ffi.buffer(pointer, count * dtype.itemsize), dtype)
    array.flags.writeable = False
    return array


def text(pointer: Any, size: int) -> str:
    return ffi.unpack(pointer, size).decode() if size else ""


class Node(NamedTuple):
    """A node of a nested structure. `kind` is a `NodeKind`. `value` is the value of a leaf, the
    name (or index) of a tensor, or the number of a container's children."""

    kind: int
    key: str | int | None
    value: Any


def read_node(node: Any) -> Node:
    key: str | int | None = None
    if node.key_kind == clib.TZ_KEY_STR:
        key = bytes(ffi.buffer(node.key_bytes, node.key)).decode() if node.key else ""
    elif node.key_kind == clib.TZ_KEY_INT:
        key = _signed(node.key)
    elif node.key_kind == clib.TZ_KEY_LARGE_INT:
        key = int.from_bytes(ffi.buffer(node.key_bytes, node.key), "little", signed=True)
    value: Any = node.value
    if node.kind == clib.TZ_NODE_NONE:
        value = None
    elif node.kind == clib.TZ_NODE_BOOL:
        value = bool(value)
    elif node.kind == clib.TZ_NODE_INT:
        value = _signed(value)
    elif node.kind == clib.TZ_NODE_LARGE_INT:
        value = int.from_bytes(ffi.buffer(node.value_bytes, value), "little", signed=True)
    elif node.kind == clib.TZ_NODE_FLOAT:
        value = struct.unpack("<d", struct.pack("<Q", value))[0]
    elif node.kind in (clib.TZ_NODE_STR, clib.TZ_NODE_BYTES):
        data = bytes(ffi.buffer(node.value_bytes, value)) if value else b""
        value = data.decode() if node.kind == clib.TZ_NODE_STR else data
    return Node(node.kind, key, value)


def write_node(out: Any, node: Node, keep: list[Any]) -> None:
    """Fills a tz_node. The objects that it points to are appended to `keep`."""
    kind, key, value = node
    out.kind = kind
    if isinstance(key, str):
        out.key_kind = clib.TZ_KEY_STR
        out.key, out.key_bytes = _bytes(key.encode(), keep)
    elif key is not None and INT_MIN <= key <= INT_MAX:
        out.key_kind = clib.TZ_KEY_INT
        out.key = key & 0xFFFF_FFFF_FFFF_FFFF
    elif key is not None:
        out.key_kind = clib.TZ_KEY_LARGE_INT
        out.key, out.key_bytes = _bytes(_large_int(key), keep)
    if kind == clib.TZ_NODE_STR:
        out.value, out.value_bytes = _bytes(value.encode(), keep)
    elif kind == clib.TZ_NODE_BYTES:
        out.value, out.value_bytes = _bytes(value, keep)
    elif kind == clib.TZ_NODE_LARGE_INT:
        out.value, out.value_bytes = _bytes(_large_int(value), keep)
    elif kind == clib.TZ_NODE_FLOAT:
        out.value = struct.unpack("<Q", struct.pack("<d", value))[0]
    elif kind != clib.TZ_NODE_NONE:
        out.value = int(value) & 0xFFFF_FFFF_FFFF_FFFF


def _bytes(data: bytes, keep: list[Any]) -> tuple[int, Any]:
    pointer = ffi.new("uint8_t[]", data)
    keep.append(pointer)
    return len(data), pointer


def _large_int(value: int) -> bytes:
    """The fewest bytes that hold the two's complement of `value`."""
    magnitude = value if value >= 0 else ~value
    return value.to_bytes(magnitude.bit_length() // 8 + 1, "little", signed=True)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
