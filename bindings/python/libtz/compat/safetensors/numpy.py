"""`safetensors.numpy`, implemented with libtz. See `libtz.compat.safetensors` for differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libtz import numpy as libtz_numpy
from libtz.arrays.numpy_arrays import dtype_name
from libtz.compat.safetensors import safe_open
from libtz.compat.safetensors._raw import file_bytes
from libtz.compat.safetensors._writing import check_names, write, written
from libtz.writing.base import TensorSpec

__all__ = ["load", "load_file", "safe_open", "save", "save_file"]


def save(
    tensor_dict: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """The bytes of a .safetensors file. Raises SafetensorError if it cannot hold the arrays."""
    return written(_specs(tensor_dict), lambda name: _pieces(tensor_dict[name]), metadata)


def save_file(
    tensor_dict: Mapping[str, NDArray[Any]],
    filename: Any,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a .safetensors file. Raises SafetensorError."""
    write(filename, _specs(tensor_dict), lambda name: _pieces(tensor_dict[name]), metadata)


def load(data: bytes) -> dict[str, NDArray[Any]]:
    """Loads the arrays in the bytes of a file. They own their memory. Raises SafetensorError."""
    return libtz_numpy.load_file(file_bytes(data))


def load_file(filename: Any, *, backend: str = "mmap") -> dict[str, NDArray[Any]]:
    """Loads the arrays of a file. With the backend "mmap", they may be private mappings of it.
    Raises SafetensorError."""
    with safe_open(filename, framework="np", backend=backend) as file:
        return file.get_tensors()


def _specs(arrays: Mapping[str, Any]) -> list[TensorSpec]:
    check_names(arrays.keys())
    return [
        TensorSpec(name, dtype_name(name, array), array.shape) for name, array in arrays.items()
    ]


def _pieces(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    yield np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
