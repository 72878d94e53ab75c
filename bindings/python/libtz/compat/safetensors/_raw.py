"""The functions of the safetensors package that use bytes and addresses instead of tensors."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from libtz._native import lib
from libtz.compat._errors import TypeOptionError
from libtz.compat.safetensors._writing import check_names, write, written
from libtz.errors import OptionError
from libtz.opening import open as open_file
from libtz.options import ReadOptions
from libtz.writing import base as writer

__all__ = [
    "DTYPES",
    "TensorSpec",
    "described",
    "deserialize",
    "file_bytes",
    "serialize",
    "serialize_file",
    "spelling",
]

# The dtypes of .safetensors files, except two that no framework has: the name in a TensorSpec, and
# libtz's name.
DTYPES = {
    "bool": "bool",
    **{
        f"{prefix}int{8 * size}": f"{prefix or 'i'}{8 * size}"
        for prefix in ("u", "")
        for size in (1, 2, 4, 8)
    },
    "float16": "f16",
    "bfloat16": "bf16",
    "float32": "f32",
    "float64": "f64",
    "complex64": "c64",
    **{
        f"float8_{layout}": f"f8_{layout}"
        for layout in ("e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz", "e8m0fnu")
    },
    "float4_e2m1fn_x2": "f4_e2m1fn_x2",
}


class TensorSpec:
    """A tensor in memory: `data_len` bytes at the address `data_ptr`. The caller owns them and must
    keep them until they are written. The argument `shape` is the framework's shape; the attribute
    counts elements, also for packed dtypes."""

    __slots__ = ("_stored", "data_len", "data_ptr", "dtype", "shape")

    def __init__(self, *, dtype: str, shape: Sequence[int], data_ptr: int, data_len: int) -> None:
        known = DTYPES.get(dtype)
        if known is None:
            raise OptionError(f"unknown dtype {dtype!r}; the known ones are {', '.join(DTYPES)}")
        self._stored = writer.TensorSpec("", known, tuple(map(int, shape)))
        self.dtype, self.shape = described(known, shape)
        self.data_ptr = data_ptr
        self.data_len = data_len

    def __repr__(self) -> str:
        return (
            f"TensorSpec(dtype={self.dtype!r}, shape={self.shape}, data_ptr={self.data_ptr},"
            f" data_len={self.data_len})"
        )


def serialize(
    tensor_dict: Mapping[str, TensorSpec], metadata: Mapping[str, str] | None = None
) -> bytes:
    """The bytes of a .safetensors file. Raises SafetensorError if it cannot hold the tensors."""
    return written(_specs(tensor_dict), lambda name: _pieces(tensor_dict[name]), metadata)


def serialize_file(
    tensor_dict: Mapping[str, TensorSpec],
    filename: Any,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a .safetensors file. Raises SafetensorError."""
    write(filename, _specs(tensor_dict), lambda name: _pieces(tensor_dict[name]), metadata)


def deserialize(bytes: bytes) -> list[tuple[str, dict[str, Any]]]:
    """The tensors in the bytes of a file: each name with its "dtype", "shape" and "data" (a
    bytearray). Raises SafetensorError."""
    with open_file(file_bytes(bytes), options=ReadOptions(progress=False)) as file:
        tensors = []
        for name, data in file.iter_buffers():
            info = file.info(name)
            dtype, shape = described(info.dtype, info.shape)
            tensors.append((name, {"dtype": dtype, "shape": shape, "data": bytearray(data)}))
    return tensors


def file_bytes(data: Any) -> Any:
    """Returns `data`. Raises TypeError if it is not bytes, for example the name of a file."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeOptionError(f"data must be the bytes of a file, not {type(data).__name__}")
    return data


def described(dtype: str, shape: Sequence[int]) -> tuple[str, list[int]]:
    """A type as .safetensors files spell it ("BF16"), and a shape that counts numbers, where
    PyTorch counts bytes of packed types."""
    spelt, elements = spelling(dtype)
    counts = list(map(int, shape))
    if elements > 1 and counts:
        counts[-1] *= elements
    return spelt, counts


@functools.cache
def spelling(dtype: str) -> tuple[str, int]:
    """As .safetensors files have the type, and how many numbers PyTorch counts as one."""
    info = lib.dtype(lib.dtype_code(dtype))
    if info is None or info.safetensors is None:
        return dtype.upper(), 1  # of a .tz file, a type that .safetensors files have not
    return info.safetensors, info.elements


def _specs(tensors: Mapping[str, TensorSpec]) -> list[writer.TensorSpec]:
    check_names(tensors)
    for name, spec in tensors.items():
        if not isinstance(spec, TensorSpec):
            raise TypeOptionError(f"tensor {name!r} is a {type(spec).__name__}, not a TensorSpec")
    return [
        writer.TensorSpec(name, spec._stored.dtype, spec._stored.shape)
        for name, spec in tensors.items()
    ]


def _pieces(spec: TensorSpec) -> Iterable[Any]:
    if not spec.data_len:
        return []
    return [memoryview((ctypes.c_ubyte * spec.data_len).from_address(spec.data_ptr)).cast("B")]
