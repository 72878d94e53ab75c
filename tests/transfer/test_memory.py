"""The placement of tensors in memory, and the release of that memory."""

from __future__ import annotations

import gc
import itertools
import mmap
import resource
import sys
from pathlib import Path

import pytest

from libtz._native import lib
from libtz.memory import ALIGNMENT, ARENA_SIZE, HUGE_PAGE, Arena, HostBuffer, allocate

KIB = 1024
MIB = 1024 * KIB
SIZES = [1, 63, 64, 4096, 64 * KIB - 1, 64 * KIB, 1_000_001, 2 * MIB, 3 * MIB + 1, 40 * MIB - 1]


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def fill(block: HostBuffer) -> None:
    view = block.view()
    for begin in range(0, len(view), mmap.PAGESIZE):
        view[begin] = 1


@pytest.mark.parametrize("size", SIZES)
def test_blocks_are_aligned_zeroed_and_writable(size: int) -> None:
    for block in (allocate(size), Arena(size).allocate(size), Arena(100 * MIB).allocate(size)):
        view = block.view()
        assert len(view) == block.size == size
        assert block.address % ALIGNMENT == 0
        assert lib.address(view) == block.address
        assert view[0] == view[size - 1] == 0
        view[0] = view[size - 1] = 7
        if size >= 64 * KIB:
            assert block.address % mmap.PAGESIZE == 0
        if size >= 16 * MIB:
            assert block.address % HUGE_PAGE == 0


@pytest.mark.parametrize("size", [1 << 62, (1 << 63) - 1])
def test_a_size_beyond_all_memory_is_a_memory_error(size: int) -> None:
    with pytest.raises(MemoryError, match=r"no memory for [\d,]+ bytes"):
        allocate(size)


def test_blocks_of_an_arena_do_not_overlap() -> None:
    arena = Arena(10 * ARENA_SIZE)
    blocks = [arena.allocate(size) for size in [300_000, 5 * MIB, 64 * KIB, 15 * MIB] * 8]
    spans = sorted((block.address, block.address + block.size) for block in blocks)
    for (_, end), (begin, _) in itertools.pairwise(spans):
        assert end <= begin


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_each_block_gives_its_memory_back() -> None:
    gc.collect()
    before = resident()
    arena = Arena(100 * MIB)
    blocks = [arena.allocate(5 * MIB) for _ in range(20)]
    for block in blocks:
        fill(block)
    del block
    full = resident()
    assert full - before >= 100 * MIB
    del blocks[1:11]
    assert full - resident() >= 49 * MIB
    assert blocks[0].view()[0] == blocks[-1].view()[0] == 1  # the neighbours are untouched
    blocks.clear()
    assert resident() - before <= MIB
    del arena


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_view_keeps_its_block() -> None:
    view = Arena(10 * MIB).allocate(MIB).view()
    view[:] = b"x" * MIB
    gc.collect()
    assert view == b"x" * MIB


@pytest.mark.skipif(sys.platform != "linux", reason="huge pages are Linux's")
def test_large_blocks_ask_for_huge_pages() -> None:
    block = allocate(20 * MIB)
    smaps = Path("/proc/self/smaps").read_text().splitlines()
    inside = False
    for line in smaps:
        head = line.split(maxsplit=1)[0]
        if "-" in head and not head.endswith(":"):
            begin, end = (int(part, 16) for part in head.split("-"))
            inside = begin <= block.address < end
        elif inside and head == "VmFlags:":
            assert "hg" in line.split()
            return
    raise AssertionError("the block is in no mapping")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has huge pages")
def test_a_kernel_without_huge_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 4242)  # EINVAL, as from a kernel without huge pages
    block = allocate(HUGE_PAGE)
    block.view()[-1] = 1
