"""Memory across the language boundary: Python buffers as pointers, and C memory as buffers.

A buffer is exported for the duration of a call, and no longer. An export that outlives its call,
for example in the frame of a stored exception, can become garbage together with the memoryview it
exports. CPython before 3.12.7 then clears the memoryview first and crashes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from libtz._native import ffi

__all__ = ["address", "exported", "owned_buffer", "pointer_to"]

# Types by name are looked up at each use, which takes longer than the use.
_ADDRESS = ffi.typeof("uintptr_t")
_BYTES = ffi.typeof("uint8_t[]")
_POINTER = ffi.typeof("uint8_t *")
_cast, _from_buffer = ffi.cast, ffi.from_buffer


def exported(data: Any, ctype: Any = _BYTES, *, writable: bool = False) -> Any:
    """For `with exported(data) as pointer:`. `len(pointer)` is the length of the buffer. The export
    ends with the block."""
    return ffi.from_buffer(ctype, data, require_writable=writable)


def address(buffer: Any) -> int:
    """The address of a buffer's memory. The caller keeps it alive."""
    # No variable holds the export, so it ends here. `with` would take twice as long.
    return int(_cast(_ADDRESS, _from_buffer(_BYTES, buffer)))


def pointer_to(start: int) -> Any:
    """A pointer for the duration of a call. The caller keeps the memory alive."""
    return _cast(_POINTER, start)


def owned_buffer(
    start: int, size: int, owner: Any, release: Callable[[], None] = lambda: None
) -> Any:
    """A writable buffer over memory at an address. It keeps `owner`, which owns the memory, alive.
    `release` is called when the buffer is no longer referenced."""
    pointer = ffi.gc(ffi.cast("char *", start), lambda _, owner=owner: release())
    return ffi.buffer(pointer, size)
