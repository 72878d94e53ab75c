"""Slices of files against PyTorch's own indexing."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.files import Tensor, make_file, weights

import libtz
from libtz.errors import OptionError

SHAPES = [
    (),
    (0,),
    (5,),
    (0, 4),
    (3, 0, 2),
    (70_000,),
    (300, 400),
    (7, 11, 13),
    (2, 3, 4, 5),
    (1, 1),
]
ITEM = 2


def tensor(shape: tuple[int, ...], seed: int) -> Tensor:
    return Tensor("bf16", shape, weights(math.prod(shape), seed))


FILES = [
    make_file(
        {str(shape): tensor(shape, seed) for seed, shape in enumerate(SHAPES)},
        chunk_size=64 * 1024,
        compress=compress,
    )
    for compress in (False, True)
]


@st.composite
def indices(draw: st.DrawFn, shape: tuple[int, ...]) -> Any:
    given = draw(st.integers(0, len(shape)))
    dots = draw(st.none() | st.integers(0, given))
    parts: list[Any] = []
    axes = list(range(given))
    if dots is not None:  # those after the dots count from the end
        axes = list(range(dots)) + list(range(len(shape) - given + dots, len(shape)))
    for axis in axes:
        size = shape[axis]
        if size and draw(st.booleans()):
            parts.append(draw(st.integers(-size, size - 1)))
            continue
        bound = st.none() | st.integers(-size - 2, size + 2)
        parts.append(slice(draw(bound), draw(bound), draw(st.none() | st.integers(1, 4))))
    if dots is not None:
        parts.insert(dots, Ellipsis)
    if len(parts) == 1 and draw(st.booleans()):
        return parts[0]
    return tuple(parts)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_slices_are_those_of_torch(data: st.DataObject) -> None:
    file = data.draw(st.sampled_from(FILES))
    shape = data.draw(st.sampled_from(SHAPES))
    index = data.draw(indices(shape))
    whole = np.frombuffer(file.tensors[str(shape)].data, np.int16)
    expected = torch.from_numpy(whole.copy()).view(torch.bfloat16).view(shape)[index]
    with libtz.open(file.data) as f:
        got = f.get_slice(str(shape))[index]
        assert got.dtype == torch.bfloat16
        assert got.shape == expected.shape
        assert torch.equal(got.view(torch.int16), expected.view(torch.int16))
        assert got.is_contiguous()
        assert got.untyped_storage().nbytes() == got.nbytes


def test_a_slice_reads_its_share() -> None:
    size = 8 << 20
    file = make_file({"t": Tensor("u8", (1024, size // 1024), bytes(size))}, chunk_size=64 * 1024)
    with libtz.open(file.data) as f:
        part = f.get_slice("t")
        assert part.shape == (1024, size // 1024)
        assert part.dtype == "u8"
        for begin in range(0, 1024, 256):
            part[begin : begin + 256]
            assert f.stats.bytes_wanted == size // 4
            assert f.stats.bytes_read <= 1.05 * size / 4 + 64 * 1024
        part[3, 5]
        assert f.stats.bytes_read <= 64 * 1024 + 10_000


@pytest.mark.parametrize(
    "index", [(0, 0, 0), 300, -301, (Ellipsis, 400), (Ellipsis, Ellipsis)], ids=str
)
def test_indices_out_of_range(index: Any) -> None:
    with libtz.open(FILES[0].data) as f, pytest.raises(IndexError):
        f.get_slice("(300, 400)")[index]


@pytest.mark.parametrize(
    "index", [None, True, 1.5, [1, 2], slice(None, None, -1), slice(0, 2, 0), slice("a")], ids=str
)
def test_indices_of_other_kinds(index: Any) -> None:
    with libtz.open(FILES[0].data) as f, pytest.raises(OptionError):
        f.get_slice("(300, 400)")[index]


def test_integers_of_other_types() -> None:
    with libtz.open(FILES[0].data) as f:
        part = f.get_slice("(300, 400)")
        for index in (np.int64(3), torch.tensor(3)):
            assert operator.index(index) == 3
            assert torch.equal(part[index].view(torch.int16), part[3].view(torch.int16))


def test_slices_of_names_that_are_not_there() -> None:
    with libtz.open(FILES[0].data) as f, pytest.raises(KeyError):
        f.get_slice("nothing")
