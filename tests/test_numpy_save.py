"""Files of libtz.numpy, read by the reference implementation and by libtz.numpy."""

from __future__ import annotations

import importlib
import io
from typing import Any

import numpy as np
import pytest

import libtz.numpy
from libtz.arrays.numpy_arrays import DTYPES, NAMES
from libtz.errors import OptionError

reference: Any = importlib.import_module("tz_reference")

RANDOM = np.random.default_rng(0)


def test_every_dtype_in_every_layout() -> None:
    arrays: dict[str, Any] = {}
    for dtype in DTYPES.values():
        bits = RANDOM.integers(0, 2, 60 * dtype.itemsize, np.uint8)
        plain = bits.view(dtype).reshape(6, 10)
        arrays[f"{dtype} plain"] = plain
        arrays[f"{dtype} transposed"] = plain.copy().T
        arrays[f"{dtype} reversed"] = plain.copy()[::-1, ::3]
        arrays[f"{dtype} big-endian"] = plain.astype(dtype.newbyteorder(">"))
        arrays[f"{dtype} scalar"] = plain.copy()[0, 0:1].reshape(())
        arrays[f"{dtype} empty"] = plain[:0]
    target = io.BytesIO()
    digest = libtz.numpy.save_file(arrays, target, metadata={"k": "v"})
    file = reference.File(target.getvalue())
    file.verify()
    assert file.digest == digest
    assert file.metadata == {"k": "v"}
    for name, array in arrays.items():
        dtype = array.dtype.newbyteorder("<")
        expected = (NAMES[dtype], array.shape, array.astype(dtype).tobytes())
        assert file.load(name) == expected, name
    loaded = libtz.numpy.load_file(target.getvalue(), digest=digest)
    assert list(loaded) == list(arrays)
    for name, array in arrays.items():
        assert np.array_equal(loaded[name], array, equal_nan=array.dtype.kind in "fc"), name


def test_ties_and_overlaps() -> None:
    base = np.arange(12.0)
    target = io.BytesIO()
    libtz.numpy.save_file({"b": base, "a": base[:]}, target)
    tied = [e.name for e in reference.File(target.getvalue()).header.entries if e.is_tied]
    assert tied == ["b"]
    overlapping = {"all": base, "some": base[3:5]}
    with pytest.raises(OptionError, match="'all' and 'some' share memory"):
        libtz.numpy.save_file(overlapping, io.BytesIO())
    libtz.numpy.save_file(overlapping, target, copy_overlapping=True)
    assert reference.File(target.getvalue()).load("some").data == base[3:5].tobytes()


@pytest.mark.parametrize(
    "bad",
    [
        np.array(["text"]),
        np.array([object()]),
        np.zeros(2, "M8[s]"),
        np.zeros(2, [("a", "f4")]),
        np.zeros(1, np.longdouble),
        np.ma.masked_array([1.0, 2.0], [True, False]),
        [1.0, 2.0],
        np.float32(1),
    ],
    ids=["text", "objects", "dates", "fields", "long double", "masked", "list", "scalar"],
)
def test_what_cannot_be_saved_is_named(bad: Any) -> None:
    with pytest.raises(OptionError, match="tensor 'bad'"):
        libtz.numpy.save_file({"fine": np.ones(1), "bad": bad}, io.BytesIO())
