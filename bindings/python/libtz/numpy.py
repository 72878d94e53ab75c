"""Tensors as NumPy arrays. Dtypes that NumPy does not have (bf16, 8-bit floats) are refused."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libtz.arrays.numpy_arrays import DTYPES, NumpyFramework, dtype_name
from libtz.checkpoint.base import Checkpoint
from libtz.checkpoint.selection import Names
from libtz.errors import OptionError
from libtz.locations import SourceLike, TargetLike
from libtz.opening import open_as
from libtz.options import ReadOptions, WriteOptions
from libtz.writing.base import TensorSpec
from libtz.writing.overlap import Extent, find_ties
from libtz.writing.tz import Writer

__all__ = ["load_file", "open", "save_file"]


def open(
    source: SourceLike,
    *,
    digest: str | None = None,
    signature: str | os.PathLike[str] | None = None,
    public_key: str | os.PathLike[str] | bytes | None = None,
    options: ReadOptions | None = None,
) -> Checkpoint[NDArray[Any]]:
    """The same as `libtz.open`, but always with NumPy arrays, which own their memory. Raises the
    errors of `libtz.open`."""
    return open_as(
        NumpyFramework(),
        source,
        digest=digest,
        signature=signature,
        public_key=public_key,
        options=options,
    )


def load_file(
    source: SourceLike,
    *,
    names: Names = None,
    digest: str | None = None,
    options: ReadOptions | None = None,
) -> dict[str, NDArray[Any]]:
    """Loads the tensors of a file as arrays, which own their memory. For `source`, `digest` and the
    errors raised, see `libtz.open`; for `names`, see `Checkpoint.load`. Raises OptionError for
    dtypes that NumPy does not have."""
    with open(source, digest=digest, options=options) as file:
        return file.load(names)


def save_file(
    arrays: Mapping[str, NDArray[Any]],
    target: TargetLike,
    *,
    metadata: Mapping[str, str] | None = None,
    copy_overlapping: bool = False,
    options: WriteOptions | None = None,
) -> str:
    """Writes arrays to a .tz file, in their order. Returns the file digest, to pin the file with.

    Arrays that share memory and have the same dtype, shape and strides are stored once. Any other
    overlap raises an OptionError that names both arrays, unless `copy_overlapping` is set, which
    stores a copy of each. Raises OptionError for names and dtypes that the format cannot hold, and
    SourceError if the target cannot be written.

    An array over freed memory, or one made with as_strided() beyond its base, crashes the process,
    as any access to it does.
    """
    if not isinstance(arrays, Mapping):
        raise OptionError(f"arrays must be a dict by name, not {type(arrays).__name__}")
    dtypes = {name: dtype_name(name, array) for name, array in arrays.items()}
    extents = [_extent(name, array) for name, array in arrays.items()]
    ties = find_ties(extents, copy_overlapping=copy_overlapping)
    names = list(arrays)
    specs = [
        TensorSpec(name, dtypes[name], arrays[name].shape, None if tie is None else names[tie])
        for name, tie in zip(names, ties, strict=True)
    ]
    writer = Writer(target, specs, metadata=metadata, options=options)
    with writer:
        for name in writer.pending:
            array = arrays[name]
            is_stored = array.flags.c_contiguous and array.dtype == DTYPES[dtypes[name]]
            writer.write_later(name, array if is_stored else _converted(array))
    return writer.digest


def _extent(name: str, array: NDArray[Any]) -> Extent:
    return Extent(
        name=name,
        space="host",
        content=array.dtype.str,
        address=array.__array_interface__["data"][0],
        itemsize=array.itemsize,
        shape=array.shape,
        strides=array.strides,
    )


def _converted(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The array as row-major and little-endian. It is consumed at once, so there is only one copy
    at a time."""
    yield np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
