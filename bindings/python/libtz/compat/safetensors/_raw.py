"""What the safetensors package does without a framework: bytes and addresses instead of tensors."""

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
]

# The types that .safetensors files can hold, but for two that no framework has: as a TensorSpec
# names them, and as libtz does.
DTYPES = {
    "bool": "bool",
    **{
        f"{kind}int{8 * size}": f"{kind or 'i'}{8 * size}"
        for kind in ("u", "")
        for size in (1, 2, 4, 8)
    },
    "float16": "f16",
    "bfloat16": "bf16",
    "float32": "f32",
    "float64": "f64",
    "complex64": "c64",
    **{
        f"float8_{kind}": f"f8_{kind}"
        for kind in ("e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz", "e8m0fnu")
    },
    "float4_e2m1fn_x2": "f4_e2m1fn_x2",
}


class TensorSpec:
    """A tensor in memory: `data_len` bytes at the address `data_ptr`, which stay the caller's and
    must stay there until it is written. `shape` is as the framework has it; afterwards it counts
    numbers, also of packed types."""

    __slots__ = ("_stored", "data_len", "data_ptr", "dtype", "shape")

    def __init__(self, *, dtype: str, shape: Sequence[int], data_ptr: int, data_len: int) -> None:
        known = DTYPES.get(dtype)
        if known is None:
            raise OptionError(f"there is no dtype {dtype!r}; there are {', '.join(DTYPES)}")
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
    """The bytes of a .safetensors file."""
    return written(_specs(tensor_dict), lambda name: _block(tensor_dict[name]), metadata)


def serialize_file(
    tensor_dict: Mapping[str, TensorSpec],
    filename: Any,
    metadata: Mapping[str, str] | None = None,
) -> None:
    write(filename, _specs(tensor_dict), lambda name: _block(tensor_dict[name]), metadata)


def deserialize(bytes: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Each tensor's name with its "dtype", "shape" and "data" (a bytearray)."""
    with open_file(file_bytes(bytes), options=ReadOptions(progress=False)) as file:
        tensors = []
        for name, data in file.iter_buffers():
            info = file.info(name)
            dtype, shape = described(info.dtype, info.shape)
            tensors.append((name, {"dtype": dtype, "shape": shape, "data": bytearray(data)}))
    return tensors


def file_bytes(data: Any) -> Any:
    """The same, if it is the bytes of a file and not its name."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeOptionError(f"load() takes the bytes of a file, not {type(data).__name__}")
    return data


def described(dtype: str, shape: Sequence[int]) -> tuple[str, list[int]]:
    """A type as .safetensors files spell it ("BF16"), and a shape that counts numbers, where
    PyTorch counts bytes of packed types."""
    spelt, elements = _spelling(dtype)
    counts = list(map(int, shape))
    if elements > 1 and counts:
        counts[-1] *= elements
    return spelt, counts


@functools.cache
def _spelling(dtype: str) -> tuple[str, int]:
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


def _block(spec: TensorSpec) -> Iterable[Any]:
    if not spec.data_len:
        return []
    return [memoryview((ctypes.c_ubyte * spec.data_len).from_address(spec.data_ptr)).cast("B")]
