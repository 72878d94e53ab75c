"""Local files that are not in the page cache."""

from __future__ import annotations

import mmap
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.files import File, Tensor, make_file, random_tensor, weights

import libtz
from libtz._native import lib
from libtz.memory import allocate
from libtz.sources import direct
from libtz.sources.base import SourceStats
from libtz.sources.direct import BLOCK_SIZE, SIZE_MIN, DirectFile
from libtz.sources.file import FileSource

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="direct I/O is Linux's")

MIB = 1 << 20
DATA = random.Random(1).randbytes(8 * MIB + 1234)


def evict(path: Path, begin: int = 0, size: int = 0) -> None:
    """Evict the file from the page cache; skip the test if the kernel does not."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), begin, size, os.POSIX_FADV_DONTNEED)


def is_cold(path: Path, begin: int, size: int) -> bool:
    with path.open("rb") as file:
        reader = DirectFile.of(file.fileno(), path.stat().st_size, SourceStats(), 8 * MIB)
        if reader is None:
            return False
        try:
            return reader.is_faster(begin, size)
        finally:
            reader.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    evict(path)
    if not is_cold(path, 0, 8 * MIB):
        pytest.skip("the temporary folder's file system has no direct I/O, or keeps its cache")
    return path


@pytest.fixture
def source(path: Path) -> Iterator[FileSource]:
    source = FileSource(path)
    source.open(memoryview(bytearray(10)))
    yield source
    source.close()


def read(source: FileSource, begin: int, end: int, buffer: memoryview) -> bytes:
    source.read_into(begin, end - begin, [buffer[: end - begin]])
    return bytes(buffer[: end - begin])


def test_a_cold_file_is_read_past_the_page_cache_and_stays_cold(
    path: Path, source: FileSource
) -> None:
    buffer = allocate(len(DATA)).view()
    assert read(source, 0, 8 * MIB, buffer) == DATA[: 8 * MIB]
    assert source.stats.bytes_direct == 8 * MIB
    assert source.stats.memory == 0  # straight into place
    assert is_cold(path, MIB, 7 * MIB)


def test_a_warm_file_is_read_through_the_page_cache(path: Path, source: FileSource) -> None:
    path.read_bytes()
    assert read(source, 0, len(DATA), allocate(len(DATA)).view()) == DATA
    assert source.stats.bytes_direct == 0


def test_each_range_is_read_where_it_is(path: Path, source: FileSource) -> None:
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # no reading ahead
        file.seek(4 * MIB)
        file.read(2 * MIB)
    buffer = allocate(2 * MIB).view()
    for begin in range(0, 8 * MIB, 2 * MIB):
        assert read(source, begin, begin + 2 * MIB, buffer) == DATA[begin : begin + 2 * MIB]
    assert source.stats.bytes_direct == 6 * MIB


def test_any_place_in_file_and_memory(path: Path, source: FileSource) -> None:
    chance = random.Random(2)
    memory = allocate(9 * MIB).view()
    for _ in range(20):
        begin = chance.choice([0, 1, 4095, 4096, chance.randrange(6 * MIB)])
        end = chance.choice([len(DATA), len(DATA) - 1, begin + SIZE_MIN + chance.randrange(MIB)])
        place = chance.choice([0, 1, 64, 4095, 4096])
        evict(path)
        assert read(source, begin, end, memory[place:]) == DATA[begin:end]
    assert source.stats.bytes_direct > 20 * SIZE_MIN * 0.9
    assert 0 < source.stats.memory <= direct.BOUNCE_SIZE


def test_a_kernel_without_huge_pages(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 4242)  # EINVAL, as from a kernel without huge pages
    source = FileSource(path)
    source.open(memoryview(bytearray(64)))
    source.close()


def test_without_any_memory_to_spare_a_file_is_read_as_usual(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def map_pages(length: int) -> None:
        raise MemoryError

    monkeypatch.setattr(direct, "map_pages", map_pages)
    before = len(list(Path("/proc/self/fd").iterdir()))
    source = FileSource(path)
    data = memoryview(bytearray(64))
    source.open(data)
    assert data == path.read_bytes()[:64]
    source.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_without_memory_to_spare_only_what_lies_aligned_is_read_directly(path: Path) -> None:
    source = FileSource(path, bounce_memory_max=0)
    source.open(memoryview(bytearray(10)))
    buffer = allocate(len(DATA)).view()
    assert read(source, 1, 3 * MIB, buffer) == DATA[1 : 3 * MIB]
    assert source.stats.bytes_direct == 0
    evict(path)
    assert read(source, 0, 3 * MIB + 5, buffer) == DATA[: 3 * MIB + 5]
    assert source.stats.bytes_direct == 3 * MIB
    assert source.stats.memory == 0
    source.close()


def test_small_reads_fill_the_page_cache(path: Path, source: FileSource) -> None:
    assert read(source, 5, SIZE_MIN + 4, memoryview(bytearray(SIZE_MIN))) == DATA[5 : SIZE_MIN + 4]
    assert source.stats.bytes_direct == 0


def test_a_file_system_that_refuses_is_read_as_usual(
    path: Path, source: FileSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    preadv = os.preadv
    own = source.fileno()

    def refuse(fd: int, buffers: list[memoryview], offset: int) -> int:
        if fd != own:
            raise OSError(22, "Invalid argument")
        return preadv(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", refuse)
    assert read(source, 0, len(DATA), allocate(len(DATA)).view()) == DATA
    assert source.stats.bytes_direct == 0


def test_a_system_without_direct_files(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(22, "Invalid argument")

    with path.open("rb") as file, monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        assert DirectFile.of(file.fileno(), len(DATA), SourceStats(), 8 * MIB) is None


def descriptor_count() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_descriptor_stays(path: Path) -> None:
    before = descriptor_count()
    for _ in range(3):
        source = FileSource(path)
        source.open(memoryview(bytearray(10)))
        evict(path)
        read(source, 1, 3 * MIB, memoryview(bytearray(3 * MIB)))
        source.close()
    assert descriptor_count() == before


@pytest.fixture(scope="module")
def model() -> File:
    tensors = {f"{i}": random_tensor("u8", (3 * MIB + i,), i) for i in range(8)}
    tensors |= {f"small.{i}": random_tensor("f32", (i,), i) for i in range(100)}
    tensors["weights"] = Tensor("bf16", (4 * MIB,), weights(4 * MIB))
    return make_file(tensors, compress=True)


def test_a_cold_model_loads_directly_and_a_warm_one_does_not(path: Path, model: File) -> None:
    path.write_bytes(model.data)
    for expected in ("direct", "copy"):
        if expected == "direct":
            evict(path)
        else:
            path.read_bytes()
        with libtz.open(path) as f:
            loaded = {name: bytes(data) for name, data in f.iter_buffers()}
            assert loaded == {name: tensor.data for name, tensor in model.tensors.items()}
            assert f.stats.path == expected
            assert (f.stats.bytes_direct > 0) == (expected == "direct")
            assert f.stats.threads <= 8
            assert f.stats.host_memory <= libtz.ReadOptions().host_memory_max
            wanted = sum(len(tensor.data) for tensor in model.tensors.values())
            assert f.stats.bytes_wanted == wanted
            assert f.stats.bytes_stored < wanted  # compressed


def test_addresses_of_large_tensors_allow_it() -> None:
    assert allocate(MIB).address % BLOCK_SIZE == 0
    assert lib.address(allocate(MIB).view()[BLOCK_SIZE:]) % BLOCK_SIZE == 0
