"""Zero-copy loading of local files: tensors are views of a mapping of the file.

The mapping is private: writing to such a tensor changes a copy of its pages, never the file. What
others write into the file shows in the tensors, checked or not, and if they cut the file, touching
what is gone kills the process.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable

import numpy as np

from libtz._native import lib
from libtz.sources.file import FileSource
from libtz.transfer.memory import HostBuffer
from libtz.transfer.schedule import Schedule

__all__ = ["MappedSource", "mapped_blocks"]


class MappedSource:
    """A local file as a source whose bytes are in memory already.

    A buffer of the mapping itself needs nothing: checking it brings its pages. (Asking the kernel
    for them beforehand was measured to be no faster.) Any other is read as usual.
    """

    size: int = 0
    identity: str | None = None
    sequential: bool = False

    def __init__(self, file: FileSource) -> None:
        self._file = file
        self.url = file.url
        self.stats = file.stats
        self._mapping: mmap.mmap | None = None

    @property
    def unmapped(self) -> FileSource:
        """The same file, to be read only."""
        return self._file

    def open(self, front: memoryview) -> int:
        count = self._file.open(front)
        self.size, self.identity = self._file.size, self._file.identity
        if self.size:
            # Private, and writable since PyTorch has no read-only tensors.
            self._mapping = mmap.mmap(self._file.fileno(), self.size, access=mmap.ACCESS_COPY)
        return count

    def read_into(self, offset: int, size: int, buffers: Iterable[memoryview]) -> None:
        done = 0
        for buffer in buffers:
            if buffer.obj is self._mapping:
                self.stats.add(bytes=len(buffer))
            else:
                self._file.read_into(offset + done, len(buffer), [buffer])
            done += len(buffer)
        if done != size:
            raise ValueError(f"buffers of {done} bytes for a range of {size}")

    def block(self, offset: int, size: int) -> HostBuffer:
        """A part of the mapping."""
        if self._mapping is None:
            raise ValueError("the source is not open, or empty")
        return HostBuffer(self._mapping, offset, size, lib.address(self._mapping) + offset)

    def check_unchanged(self) -> None:
        self._file.check_unchanged()

    def close(self) -> None:
        self._mapping = None
        self._file.close()


def mapped_blocks(
    source: MappedSource, schedule: Schedule, offsets: list[int], item_sizes: list[int]
) -> dict[int, HostBuffer]:
    """Which allocations can be parts of the mapping: raw throughout, and aligned for their dtype.

    Every want is a whole tensor with an allocation of its own.
    """
    segments = schedule.plan.segments
    received = np.zeros(len(schedule.unit_sizes), np.int64)
    places = segments["allocation"]
    is_direct = places < len(received)
    np.add.at(received, places[is_direct], segments["size"][is_direct].astype(np.int64))
    blocks = {}
    for want, unit in enumerate(schedule.unit_of_want.tolist()):
        if unit < 0 or offsets[want] % item_sizes[want]:
            continue
        # The chunks of a raw tensor lie one after another: only the last is no multiple of 64.
        size = int(schedule.unit_sizes[unit])
        if received[unit] == size:
            blocks[unit] = source.block(offsets[want], size)
    return blocks
