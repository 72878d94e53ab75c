"""Direct reads, around the page cache: faster for files that are not in it, and without evicting
others.

mincore, on a mapping that is never touched, tells how much of a range is cached. If it does not
work, or the file system has no direct I/O, reads go through the cache.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import sys
from typing import Any

from libtz._native import lib
from libtz.pages import ask_for_huge_pages, map_pages
from libtz.sources.base import SourceStats

__all__ = ["SIZE_MIN", "DirectFile"]

# Alignment of direct reads, in the file and in memory: no file system needs more.
BLOCK_SIZE = 4096
# Smaller reads gain nothing and are often repeated, so they should fill the page cache.
SIZE_MIN = 1 << 20
# Copying from the cache is three times as fast as the disk, but filling the cache is slower than
# reading directly. With the speeds in docs/ARCHITECTURE.md, both break even at a third cached.
CACHED_SHARE_MAX = 1 / 3
# One piece of the engine, plus the partial blocks at both ends: with less, each piece would take a
# second, tiny read.
BOUNCE_SIZE = (1 << 20) + 2 * BLOCK_SIZE
SAMPLES = 16


class DirectFile:
    """A second descriptor of an open file. Reads are thread-safe."""

    def __init__(
        self, fd: int, mapping: mmap.mmap, stats: SourceStats, bounces: list[memoryview]
    ) -> None:
        """See `of`."""
        self._fd = fd
        self._mapping = mapping
        self._address = lib.address(mapping)
        self._stats = stats
        self._bounces: list[memoryview] = []
        self._untouched = bounces
        self._is_refused = False

    @staticmethod
    def of(fd: int, size: int, stats: SourceStats, bounce_memory_max: int) -> DirectFile | None:
        """For a file opened as `fd`; None if it cannot be read directly. Unaligned reads go through
        bounce buffers of at most `bounce_memory_max` bytes."""
        if sys.platform != "linux" or size < SIZE_MIN:
            return None
        try:
            # By descriptor: the path may name another file by now.
            direct = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            mapping = mmap.mmap(fd, size, access=mmap.ACCESS_READ)
            bounces = _cut(bounce_memory_max)
        except (OSError, ValueError, MemoryError):
            os.close(direct)
            return None
        return DirectFile(direct, mapping, stats, bounces)

    def is_faster(self, offset: int, size: int) -> bool:
        """Whether a direct read of [offset, offset + size) is faster."""
        if self._is_refused or size < SIZE_MIN:
            return False
        return self._cached_share(offset, size) < CACHED_SHARE_MAX

    def is_cold(self, begin: int, end: int) -> bool:
        """Whether most of [begin, end) would be read from the disk."""
        return not self._is_refused and self._cached_share(begin, end - begin) < 1 / 2

    def _cached_share(self, offset: int, size: int) -> float:
        """An estimate from samples: checking every page would cost an eighth of copying it."""
        step = max(mmap.PAGESIZE, size // SAMPLES)
        samples = range(offset + step // 2, offset + size, step)
        is_cached = ctypes.create_string_buffer(len(samples))
        for index, sample in enumerate(samples):
            page = self._address + sample - sample % mmap.PAGESIZE
            if _mincore()(page, 1, ctypes.addressof(is_cached) + index):
                return 1.0  # the kernel does not say
        return sum(byte & 1 for byte in is_cached.raw) / max(1, len(samples))

    def read(self, offset: int, buffer: memoryview) -> int:
        """Reads some bytes into the front of the buffer, and returns their number: 0 at the end of
        the file, -1 if they have to be read through the cache."""
        skip = offset % BLOCK_SIZE
        size = len(buffer) - len(buffer) % BLOCK_SIZE
        try:
            if skip == 0 and size and lib.address(buffer) % BLOCK_SIZE == 0:
                count = os.preadv(self._fd, [buffer[:size]], offset)
            else:
                count = self._read_bounced(offset, skip, buffer)
        except OSError:
            # EINVAL if the file system needs another alignment or refuses. If the disk is at fault,
            # reading through the cache reports it.
            self._is_refused = True
            return -1
        self._stats.add(bytes_direct=max(0, count))
        return count

    def _read_bounced(self, offset: int, skip: int, buffer: memoryview) -> int:
        """An unaligned read, through an aligned bounce buffer."""
        try:
            bounce = self._bounces.pop()
        except IndexError:
            if not self._untouched:
                return -1
            bounce = self._untouched.pop()
            self._stats.add(memory=BOUNCE_SIZE)
        try:
            wanted = min(skip + len(buffer), BOUNCE_SIZE)
            wanted += -wanted % BLOCK_SIZE
            count = min(os.preadv(self._fd, [bounce[:wanted]], offset - skip) - skip, len(buffer))
            if count > 0:
                buffer[:count] = bounce[skip : skip + count]
            return max(0, count)
        finally:
            self._bounces.append(bounce)

    def close(self) -> None:
        """To be called when no thread is reading."""
        os.close(self._fd)
        self._mapping.close()


def _cut(size: int) -> list[memoryview]:
    """Bounce buffers, `size` bytes in all. They share huge pages: with small pages, 256 per
    megabyte, direct reads run at a third of the speed."""
    count = size // BOUNCE_SIZE
    if not count:
        return []
    mapping = map_pages(count * BOUNCE_SIZE)
    ask_for_huge_pages(mapping)
    view = memoryview(mapping)
    return [view[index * BOUNCE_SIZE :][:BOUNCE_SIZE] for index in range(count)]


@functools.cache
def _mincore() -> Any:
    """int mincore(void *addr, size_t length, unsigned char *vec)"""
    # PyDLL keeps the GIL: a call for one page is cheaper than reacquiring it.
    function = ctypes.PyDLL(None).mincore
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    return function
