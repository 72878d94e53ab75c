"""Host memory for tensors.

The page size decides how fast memory can be filled: page faults of 4 KiB pages cost more than the
copy into them, those of 2 MiB pages a fraction of it. So all but small allocations lie in mappings
that ask for huge pages and begin at a multiple of 2 MiB. Nothing is touched here: the thread that
fills a page takes the page fault, so faults run in parallel.

- 16 MiB and more: a mapping of its own, freed with its last tensor.
- 64 KiB and more: a part of an arena, since a few MiB on their own would get many small pages. Each
  part returns its pages when its last tensor goes.
- less: ordinary heap memory.
"""

from __future__ import annotations

import functools
import mmap
from dataclasses import dataclass
from typing import Any, NamedTuple

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
# Filling a longer tail of small pages takes longer than filling a whole huge page.
TAIL_MAX = 512 * KIB
# This fraction of the host memory, 1/16, is for direct reads.
BOUNCE_SHARE = 16
# Not checked against the machine's memory: asking takes longer than loading a small tensor.
SURELY_THERE = 64 * MIB


class HostBuffer(NamedTuple):  # made for every tensor: a frozen dataclass takes ten times as long
    """`size` bytes of `owner`, a writable buffer, which keeps them alive.

    They begin at `offset` in the owner, at `address` in the process.
    """

    owner: Any
    offset: int
    size: int
    address: int

    def view(self) -> memoryview:
        """The bytes, writable."""
        return memoryview(self.owner)[self.offset : self.offset + self.size]

    def part(self, begin: int, size: int) -> HostBuffer:
        """Bytes [begin, begin + size). They keep the whole buffer alive."""
        return HostBuffer(self.owner, self.offset + begin, size, self.address + begin)


@dataclass(frozen=True)
class MemoryBudget:
    """How `ReadOptions.host_memory_max` is divided among the uses of memory beyond the result, in
    bytes."""

    bounce: int  # aligned memory for direct reads of data that is not aligned in the file
    staging: int  # data that is received and checked here, then moved on
    window: int  # in an iteration: complete tensors that the consumer has not yet taken

    @classmethod
    def split(cls, options: ReadOptions, *, is_streamed: bool = False) -> MemoryBudget:
        bounce = options.host_memory_max // BOUNCE_SHARE
        rest = options.host_memory_max - bounce
        staging = rest // 2 if is_streamed else rest
        return cls(bounce, staging, rest - staging)


def allocate(size: int) -> HostBuffer:
    """New memory, zeroed, aligned to ALIGNMENT or more.

    Raises MemoryError if there is not enough: a file of a few KiB can claim a tensor of any size.
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
            # Newer kernels align by themselves. On older ones the unaligned start is never touched.
            mapping = map_pages(length + HUGE_PAGE)
            start = lib.address(mapping)
            offset = -start % HUGE_PAGE
        ask_for_huge_pages(mapping)
    return HostBuffer(mapping, offset, size, start + offset)


def check_decoded_size(size: int, options: ReadOptions, label: str) -> None:
    """Refuses to decode more than `decoded_size_max`: a file of a few KiB can claim any size.

    Raises OptionError if the option is given, MemoryError if it is not and the machine has less.
    """
    if options.decoded_size_max is not None:
        if size > options.decoded_size_max:
            raise OptionError(
                f"{label}: this load would decode {size} bytes, but ReadOptions.decoded_size_max is"
                f" {options.decoded_size_max}; raise it, or load fewer tensors or slices"
            )
    elif size > SURELY_THERE and size > memory_size():
        raise MemoryError(
            f"{label}: there is no memory for {size:,} bytes: this machine or its container has"
            f" {memory_size():,} in all; load fewer tensors, or slices"
        )


class Arena:
    """Hands out memory for one load. Not thread-safe."""

    def __init__(self, expected: int) -> None:
        """`expected` is an estimate of the total, in bytes."""
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
