"""Memory on both sides of the border: buffers as pointers for C, and C's memory as buffers.

A buffer is exported for the length of a call, and never longer. An export that outlives its call,
in the frame of an exception that somebody keeps, say, can become garbage together with the
memoryview it exports. CPython before 3.12.7 then clears the memoryview first and crashes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from libtz._native import ffi

__all__ = ["address", "exported", "owned_buffer"]


def exported(data: Any, ctype: str = "uint8_t[]", *, writable: bool = False) -> Any:
    """For `with exported(data) as pointer:`. The pointer has the length of the buffer; both are
    gone after the block, however it is left."""
    return ffi.from_buffer(ctype, data, require_writable=writable)


def address(buffer: Any) -> int:
    """Where the memory of a buffer lies. The caller keeps it alive."""
    with exported(buffer) as pointer:
        return int(ffi.cast("uintptr_t", pointer))


def owned_buffer(
    start: int, size: int, owner: Any, release: Callable[[], None] = lambda: None
) -> Any:
    """A writable buffer over memory at an address. It keeps `owner` alive, which the memory belongs
    to; `release` is called when nothing holds the buffer any more."""
    pointer = ffi.gc(ffi.cast("char *", start), lambda _, owner=owner: release())
    return ffi.buffer(pointer, size)
