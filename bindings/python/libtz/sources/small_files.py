"""Reads small files whole: indexes and configurations next to the weights."""

from __future__ import annotations

from libtz.errors import FormatError
from libtz.sources.base import Source

__all__ = ["read_whole"]

FIRST_SIZE = 1 << 20  # most such files arrive with the first request


def read_whole(source: Source, *, size_max: int) -> bytes:
    """Open a source, read all of it, and close it. Raises FormatError if it has more than
    `size_max` bytes."""
    try:
        front = memoryview(bytearray(min(FIRST_SIZE, size_max + 1)))
        filled = source.open(front)
        if source.size > size_max:
            raise FormatError(
                f"{source.url} has {source.size} bytes, more than the limit of {size_max} for"
                " such files",
                code="too-large",
            )
        data = bytearray(source.size)
        data[:filled] = front[:filled]
        if filled < source.size:
            rest = memoryview(data)[filled:]
            source.read_into(filled, len(rest), [rest])
        source.check_unchanged()
        return bytes(data)
    finally:
        source.close()
