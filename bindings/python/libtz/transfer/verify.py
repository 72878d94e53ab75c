"""Reads a whole file once, which checks every part of it."""

from __future__ import annotations

from collections.abc import Callable

from libtz._native.lib import Header
from libtz._native.verifying import Verifier
from libtz.sources.base import Source

__all__ = ["read_through", "verify_file"]

# Chunk entries are read tensor by tensor; reading ahead this far makes that few requests.
READ_AHEAD = 1 << 20
STEP_SIZE = 16 << 20


def verify_file(
    source: Source, header: Header, *, progress: Callable[[int], None] | None = None
) -> None:
    """Raises the first fault in the file, in the order of the specification (section 13).

    `progress` is called with the number of bytes that were just checked. Memory: one range (16 MiB,
    one chunk or one tensor's chunk entries, whichever is largest).
    """
    verifier = Verifier(header)
    entries = _ReadAhead(source, header.info.header_size)
    while True:
        offset, size = verifier.next()
        if size == 0:
            break
        if offset < header.info.header_size:
            verifier.put(entries.read(offset, size))
        else:
            verifier.put(_read(source, offset, size))
        if progress is not None:
            progress(size)
    verifier.finish()


def read_through(source: Source, *, progress: Callable[[int], None] | None = None) -> None:
    """Reads all of an open source that checks its bytes itself. `progress` as above."""
    memory = memoryview(bytearray(min(STEP_SIZE, source.size)))
    for offset in range(0, source.size, STEP_SIZE):
        part = memory[: min(STEP_SIZE, source.size - offset)]
        source.read_into(offset, len(part), [part])
        if progress is not None:
            progress(len(part))
    source.check_unchanged()


def _read(source: Source, offset: int, size: int) -> memoryview:
    buffer = memoryview(bytearray(size))
    source.read_into(offset, size, [buffer])
    return buffer


class _ReadAhead:
    """Small reads that mostly ascend, served from larger ones that end at `end`."""

    def __init__(self, source: Source, end: int) -> None:
        self._source = source
        self._end = end
        self._offset = 0
        self._block = memoryview(b"")

    def read(self, offset: int, size: int) -> memoryview:
        begin = offset - self._offset
        if begin < 0 or begin + size > len(self._block):
            length = max(size, min(READ_AHEAD, self._end - offset))
            self._block = _read(self._source, offset, length)
            self._offset = offset
            begin = 0
        return self._block[begin : begin + size]
