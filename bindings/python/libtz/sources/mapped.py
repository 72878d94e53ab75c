"""A local file mapped into memory, so that tensors can be views of the mapping.

The mapping is private: writing to such a tensor changes a copy of its pages, never the file. But if
others write to the file, the tensors show it, checked or not; and if they truncate the file,
accessing the missing part kills the process.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable

from libtz._native import lib
from libtz.memory import HostBuffer
from libtz.options import ReadOptions
from libtz.sources.base import Profile, Source, check_range, local_profile
from libtz.sources.file import FileSource

__all__ = ["MappedSource"]

# Mapped bytes need not be received, so only the cost of the calls matters.
PIECE_SIZE = 1 << 24


class MappedSource(Source):
    """A local file that is mapped into memory.

    A buffer that is part of the mapping needs no read: checking it faults in its pages. Prefetching
    them was measured to be no faster. Any other buffer is read as usual.
    """

    size: int = 0
    identity: str | None = None
    sequential: bool = False

    def __init__(self, file: FileSource) -> None:
        self._file = file
        self.url = file.url
        self.stats = file.stats
        self._mapping: mmap.mmap | None = None
        self._address = 0

    def open(self, front: memoryview) -> int:
        count = self._file.open(front)
        self.size, self.identity = self._file.size, self._file.identity
        if self.size:
            # Private, and writable since PyTorch has no read-only tensors.
            self._mapping = mmap.mmap(self._file.fileno(), self.size, access=mmap.ACCESS_COPY)
            self._address = lib.address(self._mapping)
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

    def read_unchanged(self, offset: int, buffer: memoryview) -> None:
        self._file.read_unchanged(offset, buffer)

    def profile(self, begin: int, end: int, options: ReadOptions) -> Profile:
        return local_profile(end - begin, piece_size=PIECE_SIZE)

    def resident(self, offset: int, size: int) -> HostBuffer | None:
        check_range(offset, size, self.size)
        mapping = self._mapping
        return (
            None if mapping is None else HostBuffer(mapping, offset, size, self._address + offset)
        )

    def check_unchanged(self) -> None:
        self._file.check_unchanged()

    def close(self) -> None:
        self._mapping = None
        self._file.close()
