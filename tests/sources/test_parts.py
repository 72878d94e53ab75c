"""Sources that compare bytes with the digests of a set before they deliver them."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.faults.server import FaultServer
from tests.raising import raises

from libtz._native import lib
from libtz.errors import IntegrityError
from libtz.manifest import PART_SIZE, SetFile
from libtz.options import HttpOptions
from libtz.sources.base import Source
from libtz.sources.http import HttpSource
from libtz.sources.memory import MemorySource
from libtz.sources.parts import PartChecks

DATA = random.Random(5).randbytes(5 * PART_SIZE + 1234)


def described(data: bytes) -> SetFile:
    parts = (data[at : at + PART_SIZE] for at in range(0, len(data), PART_SIZE))
    return SetFile("x", len(data), parts=b"".join(map(lib.blake3, parts)))


class Counting(MemorySource):
    """Remembers the ranges that were read."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.ranges: list[tuple[int, int]] = []

    def read_into(self, offset: int, size: int, buffers: Iterator[memoryview]) -> None:  # type: ignore[override]
        self.ranges.append((offset, size))
        super().read_into(offset, size, buffers)


def opened(inner: Source, file: SetFile | None = None) -> PartChecks:
    source = PartChecks(inner, file or described(DATA))
    front = memoryview(bytearray(100))
    assert source.open(front) == min(100, source.size)
    assert bytes(front[: source.size]) == DATA[: min(100, source.size)]
    return source


def read(source: Source, offset: int, size: int, piece_size: int = 300_000) -> bytes:
    memory = memoryview(bytearray(size))
    pieces = [memory[at : at + piece_size] for at in range(0, size, piece_size)]
    source.read_into(offset, size, iter(pieces))
    return bytes(memory)


def test_any_range_is_that_of_the_file() -> None:
    source = opened(Counting(DATA))
    chance = random.Random(7)
    edges = [0, 1, PART_SIZE - 1, PART_SIZE, PART_SIZE + 1, 5 * PART_SIZE, len(DATA)]
    for _ in range(60):
        begin, end = sorted(chance.choice([*edges, chance.randrange(len(DATA))]) for _ in range(2))
        assert read(source, begin, end - begin) == DATA[begin:end]


@pytest.mark.parametrize("size", [0, 1, PART_SIZE - 1, PART_SIZE, PART_SIZE + 1])
def test_files_of_every_kind_of_size(size: int) -> None:
    source = opened(MemorySource(DATA[:size]), described(DATA[:size]))
    assert read(source, 0, size) == DATA[:size]


def test_a_part_that_ranges_share_is_read_once() -> None:
    inner = Counting(DATA)
    source = opened(inner)
    step = PART_SIZE // 2 + 1
    for offset in range(0, len(DATA) - step, step):
        read(source, offset, step)
    assert sum(size for _, size in inner.ranges) <= len(DATA)


@pytest.mark.parametrize("flipped", [0, PART_SIZE - 1, 3 * PART_SIZE, len(DATA) - 1])
def test_nothing_of_a_wrong_part_is_delivered(flipped: int) -> None:
    data = bytearray(DATA)
    data[flipped] ^= 1
    source = PartChecks(MemorySource(data), described(DATA))
    part = flipped // PART_SIZE
    delivered = memoryview(bytearray(len(DATA)))

    def read_all() -> None:
        source.open(memoryview(bytearray(10)))
        source.read_into(0, len(DATA), [delivered])

    with raises(IntegrityError, code="digest", rule="TZS1-18", offset=part * PART_SIZE):
        read_all()
    assert bytes(delivered[: part * PART_SIZE]) == DATA[: part * PART_SIZE]
    assert not any(delivered[part * PART_SIZE :])


@pytest.mark.parametrize("data", [DATA[:-1], DATA + b"\0", b""])
def test_another_size_is_found_on_opening(data: bytes) -> None:
    source = PartChecks(MemorySource(data), described(DATA))
    with raises(IntegrityError, code="digest", rule="TZS1-17"):
        source.open(memoryview(bytearray(10)))


def test_many_threads() -> None:
    source = opened(MemorySource(DATA))
    gate = threading.Barrier(4)

    def work(seed: int) -> None:
        chance = random.Random(seed)
        gate.wait()
        for _ in range(20):
            begin, end = sorted(chance.randrange(len(DATA)) for _ in range(2))
            assert read(source, begin, end - begin) == DATA[begin:end]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


@pytest.mark.parametrize("has_ranges", [True, False])
def test_over_http(has_ranges: bool) -> None:
    """Without ranges there is one stream, which overlapping reads would restart each time."""
    with FaultServer(DATA, has_ranges=has_ranges) as server:
        source = opened(HttpSource(server.url(), HttpOptions(proxies={})))
        step = PART_SIZE // 2 + 1
        for offset in range(0, len(DATA), step):
            size = min(step, len(DATA) - offset)
            assert read(source, offset, size) == DATA[offset : offset + size]
        assert source.sequential is not has_ranges
        if not has_ranges:
            assert source.stats.requests == 1
        source.close()
