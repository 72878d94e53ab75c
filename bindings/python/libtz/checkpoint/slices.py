"""Parts of tensors: what an index selects of a tensor that is still in its file."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from libtz._native import lib
from libtz.errors import OptionError
from libtz.format import TensorInfo, item_size
from libtz.memory import HostBuffer

__all__ = ["Described", "ReadItem", "Region", "TensorSlice", "cut", "thin"]


T = TypeVar("T")


class Described(Protocol):
    """What has to be known of a tensor to index it."""

    @property
    def name(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...


class Region(NamedTuple):
    """What an index selects of a tensor: along each dimension every `steps`-th of a box, as a
    tensor of this shape."""

    info: Described
    box: lib.Box
    steps: tuple[int, ...]
    shape: tuple[int, ...]

    @classmethod
    def of(cls, info: Described, index: Any) -> Region:
        """`index` as in PyTorch: integers, slices and `...`."""
        if index is Ellipsis or (info.shape and _is_full(index)):  # a scalar has no [:]
            rank = len(info.shape)
            return cls(info, ([0] * rank, list(info.shape)), (1,) * rank, info.shape)
        begins: list[int] = []
        ends: list[int] = []
        steps: list[int] = []
        shape: list[int] = []
        for axis, (part, size) in enumerate(_per_axis(index, info.shape)):
            if isinstance(part, slice):
                begin, end, step = _bounds(part, size)
                shape.append(len(range(begin, end, step)))
            else:
                begin = _position(part, size, axis)
                end, step = begin + 1, 1
            begins.append(begin)
            ends.append(end)
            steps.append(step)
        return cls(info, (begins, ends), tuple(steps), tuple(shape))

    @property
    def is_thinned(self) -> bool:
        return any(step > 1 for step in self.steps)

    @property
    def is_whole(self) -> bool:
        return self.shape == self.info.shape and not self.is_thinned


class ReadItem(NamedTuple):
    """A tensor to read, or a region of one."""

    name: str
    region: Region | None = None


class TensorSlice(Generic[T]):
    """What `Checkpoint.get_slice` returns. Index it with integers, slices and `...` as a tensor of
    PyTorch. Each use reads, and returns a tensor that owns its memory. Steps other than 1 read the
    box that they lie in. Raises IndexError and OptionError for an index that does not fit, and
    what loading raises."""

    def __init__(self, info: TensorInfo, load: Callable[[Region], T]) -> None:
        """Called by `Checkpoint.get_slice`."""
        self.info = info
        self._load = load

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole tensor."""
        return self.info.shape

    @property
    def dtype(self) -> str:
        """The format's name for it, such as "bf16"."""
        return self.info.dtype

    def __getitem__(self, index: Any) -> T:
        return self._load(Region.of(self.info, index))


def _is_full(index: Any) -> bool:
    """Whether it is [:]. Compared by parts, since those of some slices are arrays."""
    return isinstance(index, slice) and index.start is index.stop is index.step is None


def _per_axis(index: Any, shape: Sequence[int]) -> list[tuple[Any, int]]:
    """The index of each axis, with its size."""
    parts = list(index) if isinstance(index, tuple) else [index]
    dots = [place for place, part in enumerate(parts) if part is Ellipsis]
    if len(dots) > 1:
        raise IndexError("an index can have only one '...'")
    given = len(parts) - len(dots)
    if given > len(shape):
        raise IndexError(f"too many indices: {given} for a tensor of {len(shape)} dimensions")
    place = dots[0] if dots else len(parts)
    fill = [slice(None)] * (len(shape) - given)
    return list(zip(parts[:place] + fill + parts[place + 1 :], shape, strict=True))


def _bounds(part: slice, size: int) -> tuple[int, int, int]:
    try:
        begin, end, step = part.indices(size)
    except (TypeError, ValueError) as error:  # not integers, or a step of 0
        raise OptionError(f"{part} cannot index a tensor: {error}") from error
    if step < 0:
        raise OptionError(f"{part} cannot index a tensor: the step is negative")
    return begin, max(begin, end), step


def _position(part: Any, size: int, axis: int) -> int:
    try:
        # One element of a vector, or a truth value, would pass as an index of another meaning.
        if isinstance(part, (bool, np.bool_)) or _rank_or_mask(part):
            raise TypeError
        position = operator.index(part)
    except TypeError:
        raise OptionError(
            f"slices of files take integers, slices and '...'; got {type(part).__name__}. Load the"
            " tensor, or a box of it, and index that"
        ) from None
    if not -size <= position < size:
        raise IndexError(f"index {position} is out of range for dimension {axis} of size {size}")
    return position + size if position < 0 else position


def _rank_or_mask(part: Any) -> bool:
    return bool(getattr(part, "ndim", 0)) or str(getattr(part, "dtype", "")).endswith("bool")


def thin(buffer: HostBuffer, position: int, region: Region) -> HostBuffer:
    """The elements of a region from its box, in memory of their own."""
    extent = [end - begin for begin, end in zip(*region.box, strict=True)]
    item = item_size(region.info.dtype)
    size = math.prod(extent) * item
    box = np.frombuffer(buffer.owner, np.uint8, size, buffer.offset + position)
    every = tuple(slice(None, None, step) for step in region.steps)
    return _owned(box.reshape(*extent, item)[every])


def cut(data: memoryview, region: Region) -> HostBuffer:
    """The elements of a region from its whole tensor's bytes, in memory of their own."""
    units = np.frombuffer(data, np.uint8).reshape(*region.info.shape, item_size(region.info.dtype))
    bounds = zip(*region.box, region.steps, strict=True)
    return _owned(units[tuple(slice(*each) for each in bounds)])


def _owned(units: NDArray[np.uint8]) -> HostBuffer:
    owner = np.array(units, order="C").reshape(-1)
    return HostBuffer(owner, 0, owner.nbytes, lib.address(owner))
