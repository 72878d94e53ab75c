"""Ten thousand damaged files: each is refused, or loads exactly what was written."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Mapping

import pytest
from tests.files import File, Tensor, sample
from tests.kept import keep

import libtz
from libtz.options import ReadOptions

pytestmark = pytest.mark.slow

SEED = 20261123
CASES = 10_000
PARTS = 10
# Far more than the file's size, and far less than a damaged size can claim.
MEMORY_MAX = 16 << 20


@pytest.fixture(scope="module", params=["raw", "compressed"])
def file(request: pytest.FixtureRequest) -> File:
    return sample(compress=request.param == "compressed")


def damaged(data: bytes, case: int) -> bytes:
    """The number of the case is the seed, so a failing case can be repeated alone."""
    chance = random.Random(SEED + case)
    if case % 10 == 0:
        return data[: chance.randrange(len(data))]
    changed = bytearray(data)
    # Headers are a small part of a file, but the more critical one.
    end = chance.choice([128, 448, 3000, len(data)])
    for _ in range(chance.choice([1, 1, 1, 2, 8])):
        changed[chance.randrange(end)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def assert_refused_or_equal(
    data: bytes, tensors: Mapping[str, Tensor], options: ReadOptions
) -> bool:
    """Returns whether the file was refused."""
    try:
        with libtz.open(data, options=options) as f:
            loaded = {name: bytes(view) for name, view in f.iter_buffers()}
            infos = {name: f.info(name) for name in loaded}
    except libtz.Error as error:
        keep(error)
        return True
    assert loaded == {name: tensor.data for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        assert (infos[name].dtype, infos[name].shape) == (tensor.dtype, tensor.shape)
    return False


@pytest.mark.parametrize("part", range(PARTS))
def test_damage_is_found_or_harmless(file: File, part: int) -> None:
    options = ReadOptions(progress=False)
    refused = 0
    tracemalloc.start()
    try:
        for case in range(part, CASES // 2, PARTS):
            data = damaged(file.data, case)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            refused += assert_refused_or_equal(data, file.tensors, options)
            assert tracemalloc.get_traced_memory()[1] - before < MEMORY_MAX, f"case {case}"
    finally:
        tracemalloc.stop()
    # Changed padding in the data may pass: only whole-file operations check it.
    assert refused > 0.9 * CASES / 2 / PARTS


def test_bytes_after_the_end(file: File) -> None:
    assert assert_refused_or_equal(file.data + b"\0", file.tensors, ReadOptions())
