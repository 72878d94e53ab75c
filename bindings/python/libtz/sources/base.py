"""The seam between libtz and the places bytes come from.

A source is a range of bytes with a fixed size and an identity. Everything above it asks for ranges
and hands out the memory they go to; everything about sockets, retries and credentials stays below.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from libtz.errors import SourceError
from libtz.memory import HostBuffer
from libtz.options import ReadOptions

__all__ = [
    "INLINE_SIZE_MAX",
    "LOCAL_THREADS_MAX",
    "BufferCursor",
    "Profile",
    "Source",
    "SourceStats",
    "check_range",
    "local_profile",
    "source_closed",
]

# How much is received before it is checked. Smaller pieces make the cost of the calls visible; a
# larger piece has partly left the CPU's cache when it is checked.
PIECE_SIZE = 1 << 20
# Where bytes only have to be copied, one thread per core is enough. Where they come from a disk,
# threads mostly wait, and this many keep its queue filled.
LOCAL_THREADS_MAX = 8
# Below this size a second local thread costs more than it saves.
INLINE_SIZE_MAX = 1 << 20


@dataclass(frozen=True)
class Profile:
    """How a range of a source is read best."""

    threads: int  # to begin with
    threads_max: int
    piece_size: int = PIECE_SIZE  # bytes to receive before they are checked
    ramps: bool = False  # requests wait for a server, so more of them at once may help


def local_profile(size: int, *, piece_size: int = PIECE_SIZE) -> Profile:
    """For `size` bytes that only have to be copied: up to one thread per core."""
    threads = 1 if size <= INLINE_SIZE_MAX else min(LOCAL_THREADS_MAX, os.cpu_count() or 1)
    return Profile(threads, threads, piece_size)


# Long enough to be read.
TROUBLE_SHOWN_S = 5.0


class SourceStats:
    """Counts of what a source did so far. Safe to update from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests = 0  # requests sent, repeated and redirected ones included
        self.retries = 0  # tries that failed and were repeated
        self.throttled = 0  # answers that asked us to slow down (429, 503)
        self.starved = 0  # tries that failed in a row, with nothing received between
        self.restarts = 0  # requests so much slower than others that they were begun anew elsewhere
        self.bytes = 0  # bytes delivered into buffers
        self.bytes_direct = 0  # those of them that came past the page cache
        self.connections = 0  # connections opened
        self.memory = 0  # bytes of memory the source has taken to read through
        self._trouble = ("", 0.0)  # why something takes longer, in words, and when that was

    def add(self, **counts: int) -> None:
        """Add to the counters named."""
        with self._lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)

    def note_trouble(self, text: str) -> None:
        """Something takes longer for this reason."""
        self._trouble = (text, time.monotonic())

    @property
    def trouble(self) -> str:
        """What slows things down right now, for whoever watches; "" if nothing does."""
        text, noted_s = self._trouble
        return text if time.monotonic() - noted_s < TROUBLE_SHOWN_S else ""


class Source(Protocol):
    """A readable object of fixed size. Making one does no I/O; `open` does.

    `url` is fit for messages: user name, password, query and fragment are removed. `size` and
    `identity` (strong ETag, version, or time and size; None when the place offers nothing) are
    valid after `open`. `sequential` says that only rising, non-overlapping ranges asked for by one
    thread are efficient; it is valid after `open` too.
    """

    url: str
    size: int
    identity: str | None
    sequential: bool
    stats: SourceStats
    # Set before `open` where a pinned digest will prove every byte: copies of other servers, which
    # give them another ETag, will do then.
    is_proven: bool = False
    # Whether it holds descriptors or connections of its own, so that leaving it open is a mistake.
    holds_resources: bool = True

    def open(self, front: memoryview) -> int:
        """Read the first min(size, len(front)) bytes in one request; set size and identity.

        `front` must not be empty. Returns how many bytes of it were filled.
        """
        ...

    def read_into(self, offset: int, size: int, buffers: Iterable[memoryview]) -> None:
        """Deliver [offset, offset + size) into consecutive writable buffers of `size` bytes in all.

        The next buffer is taken only when the previous one is full, and once more after the last,
        so a generator can check each buffer as soon as it is complete. What it raises ends the read
        and reaches the caller. Many threads may call this at once. Exactly `size` bytes arrive, or
        `SourceError` is raised.
        """
        ...

    def profile(self, begin: int, end: int, options: ReadOptions) -> Profile:
        """How to read [begin, end). Valid after `open`."""
        ...

    def resident(self, offset: int, size: int) -> HostBuffer | None:
        """[offset, offset + size) as memory that already holds it, and that tensors may share;
        None if the bytes have to be read."""
        return None

    def limit(self, seconds: float | None) -> None:
        """Let reads fail that have not ended so many seconds from now. Only those of a network may
        take for ever; None takes the limit away."""
        return None

    def check_unchanged(self) -> None:
        """Raise `SourceError` if the object is known to have changed since `open`."""
        ...

    def close(self) -> None:
        """Free everything; reads of other threads end promptly with `SourceError`. Idempotent."""
        ...


def check_range(offset: int, size: int, source_size: int) -> None:
    """Refuse a range that is not inside the source: a mistake of the caller, not of the source."""
    if offset < 0 or size < 0 or offset + size > source_size:
        end = offset + size
        raise ValueError(f"[{offset}, {end}) is not inside a source of {source_size} bytes")


def source_closed(url: str) -> SourceError:
    """The error of a read that `close()` ended, or that came after it."""
    return SourceError(f"{url} was closed while it was being read", url=url)


class BufferCursor:
    """The place a read has reached in its buffers; survives failed tries."""

    def __init__(self, offset: int, size: int, buffers: Iterable[memoryview]) -> None:
        self.offset = offset  # of the next byte in the source
        self.remaining = size
        self._buffers: Iterator[memoryview] = iter(buffers)
        self._free = memoryview(b"")

    def free(self) -> memoryview:
        """The unfilled rest of the current buffer; takes the next buffer when that is full."""
        while not self._free:
            try:
                buffer = next(self._buffers)
            except StopIteration:
                raise ValueError(f"the buffers end {self.remaining} bytes early") from None
            if buffer.readonly:
                raise ValueError("the buffers must be writable")
            self._free = buffer if buffer.format == "B" and buffer.ndim == 1 else buffer.cast("B")
            if len(self._free) > self.remaining:
                raise ValueError("the buffers are larger than the range asked for")
        return self._free

    def advance(self, count: int) -> None:
        """Note that the first `count` bytes of `free()` are filled."""
        self._free = self._free[count:]
        self.offset += count
        self.remaining -= count

    def fill(self, data: bytes) -> None:
        """Deliver the range out of all of the source's bytes."""
        while self.remaining:
            free = self.free()
            free[:] = data[self.offset : self.offset + len(free)]
            self.advance(len(free))

    def finish(self) -> None:
        """Let the iterator see that its last buffer is full."""
        for buffer in self._buffers:
            if buffer.nbytes:
                raise ValueError("the buffers are larger than the range asked for")
