"""The seam between libtz and the places bytes go to.

A file is written from its data region on, in rising offsets, and its header last, when everything
is known. Until `commit` nothing is to be seen at the target; after `abort` nothing was.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

__all__ = ["Extent", "Sink"]


class Extent(NamedTuple):
    """What is known of a file's size before its first byte is written, in bytes."""

    header_size: int
    file_size_max: int


class Sink(Protocol):
    """A place for one file. Making one does no I/O. Used by one thread at a time."""

    def write_at(self, offset: int, data: memoryview) -> None:
        """Write bytes; they may be changed as soon as this returns.

        Offsets rise from call to call, but the header's bytes, [0, header_size), may come at any
        time. Bytes never written are zero.
        """
        ...

    def commit(self, size: int) -> None:
        """Make the file of `size` bytes durable, and visible at the target."""
        ...

    def abort(self) -> None:
        """Leave nothing behind. After `commit`, or a second time, this does nothing."""
        ...
