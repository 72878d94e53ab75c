"""Host memory for tensors.

Where the pages come from decides how fast they can be filled: fresh 4 KiB pages cost more than the
copy into them, 2 MiB pages a fraction of it. So all but small allocations lie in mappings that ask
for huge pages and begin at a multiple of 2 MiB. Nothing is touched here: the thread that
fills a page also makes the kernel supply it, so faults run in parallel.

- 16 MiB and more: a mapping of its own, gone with its last tensor.
- 64 KiB and more: side by side in arenas, since a few MiB alone would end in many small pages. Each
  gives its own pages back when its last tensor goes.
- less: ordinary heap memory.
"""

from __future__ import annotations

import functools
import mmap
from dataclasses import dataclass
from typing import Any

from libtz._native import lib
from libtz.errors import OptionError
from libtz.machine import memory_size
from libtz.options import ReadOptions
from libtz.pages import HAS_HUGE_PAGES, ask_for_huge_pages, map_pages

__all__ = [
    "ALIGNMENT",
    "HUGE_PAGE",
    "Arena",
    "HostBuffer",
    "MemoryBudget",
    "allocate",
    "check_decoded_size",
]

KIB = 1024
MIB = 1024 * KIB

ALIGNMENT = 64  # a cache line, and what libtz asks of allocations
HUGE_PAGE = 2 * MIB
HEAP_MAX = 64 * KIB
ARENA_SIZE = 64 * MIB
MAPPING_MIN = 16 * MIB
# A tail of small pages longer than this takes longer to fill than a whole huge page.
TAIL_MAX = 512 * KIB
# One part in this many of the host memory is for direct reads.
BOUNCE_SHARE = 16
# No machine is asked whether it has this much: that takes longer than loading a small tensor.
SURELY_THERE = 64 * MIB


@dataclass(frozen=True)
class HostBuffer:
    """`size` bytes of memory that live as long as anything holds `owner`, a writable buffer.

    They begin at `offset` in it, at `address` in the process.
    """

    owner: Any
    offset: int
    size: int
    address: int

    def view(self) -> memoryview:
        return memoryview(self.owner)[self.offset : self.offset + self.size]

    def part(self, begin: int, size: int) -> HostBuffer:
        """Bytes [begin, begin + size) of it, which keep all of it alive."""
        return HostBuffer(self.owner, self.offset + begin, size, self.address + begin)


@dataclass(frozen=True)
class MemoryBudget:
    """How `ReadOptions.host_memory_max` is divided among those that take memory beyond the result,
    in bytes."""

    bounce: int  # aligned memory for direct reads of what does not lie aligned in the file
    staging: int  # bytes that are received here, and go elsewhere when they are checked
    window: int  # of an iteration: tensors that are complete, and wait for the consumer

    @classmethod
    def split(cls, options: ReadOptions, *, is_streamed: bool = False) -> MemoryBudget:
        bounce = options.host_memory_max // BOUNCE_SHARE
        rest = options.host_memory_max - bounce
        staging = rest // 2 if is_streamed else rest
        return cls(bounce, staging, rest - staging)


def allocate(size: int) -> HostBuffer:
    """Memory of its own, zeroed, aligned to ALIGNMENT or more.

    MemoryError if there is none: a file of a few KiB can claim a tensor of any size.
    """
    if size < HEAP_MAX:
        owner: Any = bytearray(size + ALIGNMENT - 1)
        start = lib.address(owner)
        offset = -start % ALIGNMENT
        return HostBuffer(owner, offset, size, start + offset)
    return _map(size)


def _map(size: int) -> HostBuffer:
    length = size
    if HAS_HUGE_PAGES and -size % HUGE_PAGE < HUGE_PAGE - TAIL_MAX:
        length += -size % HUGE_PAGE
    mapping = map_pages(length)
    start = lib.address(mapping)
    offset = 0
    if HAS_HUGE_PAGES and length >= HUGE_PAGE:
        if start % HUGE_PAGE:
            # Newer kernels align by themselves. Elsewhere the part before is never touched.
            mapping = map_pages(length + HUGE_PAGE)
            start = lib.address(mapping)
            offset = -start % HUGE_PAGE
        ask_for_huge_pages(mapping)
    return HostBuffer(mapping, offset, size, start + offset)


def check_decoded_size(size: int, options: ReadOptions, label: str) -> None:
    """Refuses to decode more than `decoded_size_max`: a file of a few KiB can claim any size.

    OptionError when the option is given, MemoryError when it is not and the machine has less.
    """
    if options.decoded_size_max is not None:
        if size > options.decoded_size_max:
            raise OptionError(
                f"{label}: {size} bytes are to be decoded, more than ReadOptions.decoded_size_max"
                f" allows ({options.decoded_size_max}); load fewer tensors, or slices"
            )
    elif size > SURELY_THERE and size > memory_size():
        raise MemoryError(
            f"{label}: there is no memory for {size:,} bytes, and {memory_size():,} are all that"
            " this machine or its container has; load fewer tensors, or slices"
        )


class Arena:
    """Hands out memory of one load. Not safe to use by two threads at once."""

    def __init__(self, expected: int) -> None:
        """`expected` is how much will be asked for in all, as far as known."""
        self._size = min(ARENA_SIZE, expected + -expected % HUGE_PAGE)
        self._region: HostBuffer | None = None
        self._used = 0

    def allocate(self, size: int) -> HostBuffer:
        if not HAS_HUGE_PAGES or size < HEAP_MAX or size >= MAPPING_MIN or size > self._size:
            return allocate(size)
        if self._region is None or self._used + size > self._region.size:
            self._region = _map(self._size)
            self._used = 0
        region = self._region
        offset = region.offset + self._used
        length = size + -size % mmap.PAGESIZE
        self._used += length
        release = functools.partial(_release, region.owner, offset, length)
        address = region.address + offset - region.offset
        return HostBuffer(lib.owned_buffer(address, size, region.owner, release), 0, size, address)


def _release(mapping: mmap.mmap, offset: int, length: int) -> None:
    mapping.madvise(mmap.MADV_DONTNEED, offset, length)
