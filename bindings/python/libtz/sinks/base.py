"""The interface between libtz and the targets it writes to.

The data region is written first, in ascending order, and the header last, when everything is known.
Nothing is visible at the target before `commit`, or after `abort`.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

__all__ = ["Extent", "Sink"]


class Extent(NamedTuple):
    """Sizes that are known before the first byte is written, in bytes."""

    header_size: int
    file_size_max: int


class Sink(Protocol):
    """A target for one file. The constructor does no I/O. Used by one thread at a time."""

    def write_at(self, offset: int, data: memoryview) -> None:
        """Write bytes. The caller may reuse `data` as soon as this returns.

        Offsets ascend from call to call, but the header's bytes, [0, header_size), may be written
        at any time. Bytes that are never written are zero. Raises SourceError.
        """
        ...

    def commit(self, size: int) -> None:
        """Make the file of `size` bytes durable, and visible at the target. Raises SourceError."""
        ...

    def abort(self) -> None:
        """Leave nothing behind. Does nothing after `commit` or an earlier `abort`."""
        ...
