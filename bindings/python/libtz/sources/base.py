"""The interface between libtz and the sources it reads from.

A source is a range of bytes with a fixed size and an identity. Its callers ask for ranges and
supply the memory; sockets, retries and credentials are its own concern.
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

# Data is checked in pieces of this size. With smaller pieces, the calls become expensive; a larger
# piece has partly left the CPU's cache when it is checked.
PIECE_SIZE = 1 << 20
# For bytes that only have to be copied, one thread per core is enough. Threads that read from a
# disk mostly wait; this many keep its queue full.
LOCAL_THREADS_MAX = 8
# Below this size a second local thread costs more than it saves.
INLINE_SIZE_MAX = 1 << 20


@dataclass(frozen=True)
class Profile:
    """How best to read a range of a source."""

    threads: int  # to begin with
    threads_max: int
    piece_size: int = PIECE_SIZE  # bytes to receive before they are checked
    ramps: bool = False  # requests wait for a server, so more concurrent ones may help


def local_profile(size: int, *, piece_size: int = PIECE_SIZE) -> Profile:
    """For `size` bytes that only have to be copied: up to one thread per core."""
    threads = 1 if size <= INLINE_SIZE_MAX else min(LOCAL_THREADS_MAX, os.cpu_count() or 1)
    return Profile(threads, threads, piece_size)


# Long enough to read the text.
TROUBLE_SHOWN_S = 5.0


class SourceStats:
    """Counters of a source. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests = 0  # requests sent, including retries and redirects
        self.retries = 0  # attempts that failed and were repeated
        self.throttled = 0  # responses that asked us to slow down (429, 503)
        self.repeated_failures = 0  # consecutive failed attempts with nothing received in between
        self.restarts = 0  # requests far slower than others, restarted on another connection
        self.bytes = 0  # bytes delivered into buffers
        self.bytes_direct = 0  # of those, bytes read around the page cache
        self.connections = 0  # connections opened
        self.memory = 0  # bytes of the source's own buffers
        self._trouble = ("", 0.0)  # the reason for a delay, and when it was noted

    def add(self, **counts: int) -> None:
        """Add to the named counters."""
        with self._lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)

    def add_read(self, size: int) -> None:
        """Count a request that delivered `size` bytes: `add`, but faster."""
        with self._lock:
            self.requests += 1
            self.bytes += size

    def note_trouble(self, text: str) -> None:
        """Note the reason for a delay."""
        self._trouble = (text, time.monotonic())

    @property
    def trouble(self) -> str:
        """The current reason for a delay, for the progress bar; "" if there is none."""
        text, noted_s = self._trouble
        return text if time.monotonic() - noted_s < TROUBLE_SHOWN_S else ""


class Source(Protocol):
    """A readable object of fixed size. The constructor does no I/O; `open` does.

    `url` is fit for messages: user name, password, query and fragment are removed. After `open`,
    these are valid too: `size`; `identity` (a strong ETag, a version, or time and size; None if
    there is nothing of the kind); and `sequential`, which says that only ascending,
    non-overlapping ranges read by one thread are efficient.
    """

    url: str
    size: int
    identity: str | None
    sequential: bool
    stats: SourceStats
    # Set before `open` if a pinned digest will prove every byte. Copies on other servers are then
    # accepted, although their ETags differ.
    is_proven: bool = False
    # Whether it compares every byte with a digest before delivering it.
    is_checked: bool = False
    # Whether it owns descriptors or connections, so that leaving it open is a mistake.
    holds_resources: bool = True

    def open(self, front: memoryview) -> int:
        """Read the first min(size, len(front)) bytes in one request; set size and identity.

        `front` must not be empty. Returns the number of bytes filled. Raises `SourceError`.
        """
        ...

    def read_into(self, offset: int, size: int, buffers: Iterable[memoryview]) -> None:
        """Deliver [offset, offset + size) into consecutive writable buffers of `size` bytes in all.

        The iterator is advanced only when the current buffer is full, and once more after the last
        one, so a generator can check each buffer as soon as it is complete. An exception from the
        iterator ends the read and reaches the caller. Thread-safe. Delivers exactly `size` bytes,
        or raises `SourceError`.
        """
        ...

    def read_unchanged(self, offset: int, buffer: memoryview) -> None:
        """Fill one buffer as `read_into` does, then `check_unchanged`. Sources that can be faster
        override it."""
        self.read_into(offset, len(buffer), [buffer])
        self.check_unchanged()

    def profile(self, begin: int, end: int, options: ReadOptions) -> Profile:
        """How to read [begin, end). Valid after `open`."""
        ...

    def resident(self, offset: int, size: int) -> HostBuffer | None:
        """Memory that already holds [offset, offset + size), and that tensors may share. None if
        the bytes have to be read."""
        return None

    def limit(self, seconds: float | None) -> None:
        """Make reads fail that have not ended this many seconds from now; None removes the limit.
        Only network sources need it: other reads cannot hang."""
        return None

    def check_unchanged(self) -> None:
        """Raise `SourceError` if the object is known to have changed since `open`."""
        ...

    def close(self) -> None:
        """Free everything. Reads in other threads fail promptly with `SourceError`. Idempotent."""
        ...


def check_range(offset: int, size: int, source_size: int) -> None:
    """Raise ValueError for a range outside the source: that is the caller's mistake."""
    if offset < 0 or size < 0 or offset + size > source_size:
        end = offset + size
        raise ValueError(f"[{offset}, {end}) is not inside a source of {source_size} bytes")


def source_closed(url: str) -> SourceError:
    """The error of a read during or after `close()`."""
    return SourceError(f"{url} was closed while it was being read", url=url)


class BufferCursor:
    """The position of a read in its buffers. It is kept across retries."""

    def __init__(self, offset: int, size: int, buffers: Iterable[memoryview]) -> None:
        self.offset = offset  # of the next byte in the source
        self.remaining = size
        self._buffers: Iterator[memoryview] = iter(buffers)
        self._free = memoryview(b"")

    def free(self) -> memoryview:
        """The unfilled rest of the current buffer, or the next buffer if that is full."""
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
        """Deliver the range from `data`, the whole contents of the source."""
        while self.remaining:
            free = self.free()
            free[:] = data[self.offset : self.offset + len(free)]
            self.advance(len(free))

    def finish(self) -> None:
        """Advance the iterator once more, so that it knows its last buffer is full."""
        for buffer in self._buffers:
            if buffer.nbytes:
                raise ValueError("the buffers are larger than the range asked for")
