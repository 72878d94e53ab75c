"""Tensors as NumPy arrays. Types that NumPy does not have (bf16, the 8-bit floats) are refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libtz.errors import OptionError
from libtz.options import ReadOptions
from libtz.reader import open as open_file
from libtz.transfer.memory import Block

__all__ = ["load_file"]

_DTYPES = {
    "bool": np.dtype("bool"),
    **{f"u{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    **{f"i{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"f{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
    **{f"c{8 * size}": np.dtype(f"<c{size}") for size in (8, 16)},
}

_DEFAULTS = ReadOptions()


def load_file(
    source: Any, *, digest: str | None = None, options: ReadOptions = _DEFAULTS
) -> dict[str, NDArray[Any]]:
    """All tensors of a file, in the writer's order. `source`, `digest`: see `libtz.open`."""
    with open_file(source, digest=digest, options=options) as file:
        return file.load_with(NumpyMaker())


class NumpyMaker:
    """See reader.Maker."""

    def require(self, dtype: str, name: str) -> None:
        if dtype not in _DTYPES:
            raise OptionError(f"tensor {name!r}: NumPy has no type for {dtype}; load it with torch")

    def make(
        self, block: Block | None, position: int, dtype: str, shape: Sequence[int]
    ) -> NDArray[Any]:
        kind = _DTYPES[dtype]
        if block is None:
            return np.empty(shape, kind)
        count = int(np.prod(shape, dtype=np.int64))
        return np.frombuffer(block.owner, kind, count, block.offset + position).reshape(shape)
