"""NumPy arrays over host memory, and the types that NumPy supports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libtz.arrays.base import require_known
from libtz.errors import OptionError
from libtz.memory import HostBuffer

__all__ = ["DTYPES", "NAMES", "NumpyFramework", "dtype_name"]

DTYPES = {
    "bool": np.dtype("bool"),
    **{f"u{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    **{f"i{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"f{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
    **{f"c{8 * size}": np.dtype(f"<c{size}") for size in (8, 16)},
}

NAMES: dict[np.dtype[Any], str] = {dtype: name for name, dtype in DTYPES.items()}


def dtype_name(name: str, array: Any) -> str:
    """The format's name for the array's dtype, in either byte order. Raises OptionError if it has
    none. `name` is the tensor's name, for the message."""
    if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
        raise OptionError(f"tensor {name!r} is not a plain array but {type(array).__qualname__}")
    known = NAMES.get(array.dtype.newbyteorder("<"))
    if known is None:
        raise OptionError(
            f"tensor {name!r} has dtype {array.dtype}, which the format does not support"
        )
    return known


class NumpyFramework:
    """See arrays.base.Framework."""

    def require(self, dtype: str, name: str) -> None:
        require_known(dtype, name)
        if dtype not in DTYPES:
            raise OptionError(f"tensor {name!r}: NumPy has no type for {dtype}; load it with torch")

    def make(
        self, buffer: HostBuffer | None, position: int, dtype: str, shape: Sequence[int]
    ) -> NDArray[Any]:
        if buffer is None:
            return np.empty(shape, DTYPES[dtype])
        count = math.prod(shape)
        start = buffer.offset + position
        return np.frombuffer(buffer.owner, DTYPES[dtype], count, start).reshape(shape)

    def device(self, device: Any) -> None:
        if device != "cpu":
            raise OptionError(
                f"device {device!r} needs PyTorch: NumPy arrays are in host memory ('cpu')"
            )
