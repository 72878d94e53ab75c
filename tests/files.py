"""Small .tz files for tests of readers, made by the C interface's builder."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from libtz._native import lib

__all__ = ["ALL_DTYPES", "File", "Tensor", "make_file", "random_tensor", "sample", "weights"]

KIB = 1024

# Every code in section 11 of the specification.
ALL_DTYPES = [info for code in range(0x100) if (info := lib.dtype(code)) is not None]


class Tensor(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    data: bytes


class File(NamedTuple):
    data: bytes
    digest: str
    tensors: Mapping[str, Tensor]


def weights(count: int, seed: int = 1) -> bytes:
    """bf16 values like trained weights, which the codec compresses."""
    values = np.random.default_rng(seed).normal(0, 0.02, count).astype(np.float32)
    return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()


def random_tensor(dtype: str, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    info = lib.dtype(lib.dtype_code(dtype))
    assert info is not None
    size = int(np.prod(shape, dtype=np.int64)) * info.unit_bits // 8
    return Tensor(dtype, shape, np.random.default_rng(seed).bytes(size))


def make_file(
    tensors: Mapping[str, Tensor],
    *,
    ties: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
    nodes: Sequence[lib.Node] = (),
    chunk_size: int | None = None,
    compress: bool = False,
) -> File:
    """`ties` maps names to the names of the owners of their data. Both are in `tensors`."""
    ties = ties or {}
    names = list(tensors)
    specs = [
        lib.TensorSpec(
            name,
            tensor.shape,
            lib.dtype_code(tensor.dtype),
            names.index(ties[name]) if name in ties else None,
        )
        for name, tensor in tensors.items()
    ]
    builder = lib.Builder(
        specs, label="test", metadata=metadata, nodes=nodes, chunk_size=chunk_size
    )
    out = bytearray(builder.info.file_size_max)
    for number, tensor in enumerate(tensors.values()):
        if builder.has_data(number):
            _put(builder, number, specs[number].dtype, tensor.data, compress, out)
    header, size, digest = builder.finish()
    out[: len(header)] = header
    return File(bytes(out[:size]), f"blake3:{digest.hex()}", tensors)


def _put(
    builder: lib.Builder, number: int, dtype: int, data: bytes, compress: bool, out: bytearray
) -> None:
    encoded = bytearray(len(data) + 64)
    size, entries = lib.encode_chunks(dtype, builder.info.chunk_size, compress, data, encoded)
    stored: Any = encoded[:size] if size else data
    offset = builder.put_chunks(number, entries)
    out[offset : offset + len(stored)] = stored
    builder.put_content(number, lib.blake3(data))


def sample(*, compress: bool = False) -> File:
    """One of everything: several chunks, slabs, ties, scalars, empties, odd names, odd sizes."""
    seeds = itertools.count()

    def tensor(dtype: str, *shape: int) -> Tensor:
        return random_tensor(dtype, shape, next(seeds))

    tensors = {
        "z.weight": tensor("f32", 30, 50),
        "a.weight": Tensor("bf16", (300, 700), weights(210_000)),
        "empty": tensor("f16", 0, 7),
        "scalar": tensor("i64"),
        "chunks": tensor("u8", 128 * KIB),
        "Gewicht ß \U0001f600": tensor("f8_e4m3fn", 64 * KIB + 1),
        "": tensor("c64", 2),
        "bool": Tensor("bool", (5,), bytes([0, 1, 1, 0, 1])),
        "big": tensor("f64", 100, 1000),
    }
    tensors["a.tied"] = tensors["a.weight"]
    return make_file(
        tensors,
        ties={"a.tied": "a.weight"},
        metadata={"made-by": "tests", "ключ": "значение"},
        chunk_size=64 * KIB,
        compress=compress,
    )
