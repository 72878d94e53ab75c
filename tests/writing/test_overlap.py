"""Ties and overlaps, compared with NumPy's exhaustive search."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from libtz.errors import OptionError
from libtz.writing.overlap import Extent, find_ties

BASE = np.arange(720, dtype=np.int16).reshape(6, 10, 12)


def extent(name: str, array: np.ndarray) -> Extent:
    address = array.__array_interface__["data"][0]
    kind = array.dtype.str
    return Extent(name, "cpu", kind, address, array.itemsize, array.shape, array.strides)


def overlaps(*arrays: np.ndarray) -> bool:
    try:
        find_ties([extent(str(i), a) for i, a in enumerate(arrays)], copy_overlapping=False)
    except OptionError:
        return True
    return False


def test_ties_go_to_the_first_of_the_same_place() -> None:
    arrays = [BASE[1], BASE[2], BASE[1], BASE[2][:], BASE[1].view(np.uint16)]
    extents = [extent(str(i), a) for i, a in enumerate(arrays)]
    assert find_ties(extents, copy_overlapping=True) == [None, None, 0, 1, None]


def test_an_overlap_names_both() -> None:
    extents = [extent("left", BASE[0:3]), extent("other", BASE[4]), extent("right", BASE[2:4])]
    with pytest.raises(OptionError, match=r"'left' and 'right' share memory"):
        find_ties(extents, copy_overlapping=False)
    assert find_ties(extents, copy_overlapping=True) == [None, None, None]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (BASE[:, :, :4], BASE[:, :, 4:], False),
        (BASE[:, :5], BASE[:, 5:], False),
        (BASE[:, :6], BASE[:, 5:], True),
        (BASE[..., 0], BASE[..., 1], False),
        (BASE[::2], BASE[1::2], False),
        (BASE[::-1], BASE[0], True),
        (BASE[3:0:-1], BASE[0], False),
        (BASE[0, :10, :10], BASE[0, :10, :10].T, True),
        (BASE[0:0], BASE, False),
        (BASE.view(np.uint8)[..., 1], BASE.view(np.uint8)[..., 0], False),
        (BASE.view(np.uint8)[..., 2], BASE[..., 1], True),
        (np.broadcast_to(BASE[0, 0, :1], (5,)), BASE[0, 0, :1], True),
        (BASE.copy(), BASE, False),
    ],
)
def test_neighbours(a: np.ndarray, b: np.ndarray, expected: bool) -> None:
    assert overlaps(a, b) is expected


def test_another_device_is_another_memory() -> None:
    here = extent("here", BASE)
    there = Extent("there", "cuda:0", here.content, here.address + 2, 2, here.shape, here.strides)
    assert find_ties([here, there], copy_overlapping=False) == [None, None]


def part(size: int) -> st.SearchStrategy[slice]:
    steps = st.sampled_from([-3, -2, -1, 1, 1, 1, 2, 3])
    return st.builds(slice, st.integers(0, size - 1), st.integers(0, size), steps)


boxes = st.tuples(part(6), part(10), part(12))


def layout(array: np.ndarray) -> tuple[int, list[tuple[int, int]]]:
    """Where the elements are. The stride of a dimension of size 1 has no meaning."""
    steps = zip(array.shape, array.strides, strict=True)
    address = array.__array_interface__["data"][0]
    return address, [(size, stride if size > 1 else 0) for size, stride in steps]


@settings(deadline=None)  # the first call imports
@example((slice(0, 1), slice(1, 0, -3), slice(0, 1)), (slice(0, 1), slice(1, 0, -2), slice(0, 1)))
@given(boxes, boxes)
def test_as_numpy_says(a: tuple[slice, ...], b: tuple[slice, ...]) -> None:
    left, right = BASE[a], BASE[b]
    is_tied = left.size and layout(left) == layout(right)
    expected = np.shares_memory(left, right) and not is_tied
    assert overlaps(left, right) is expected
