"""Parts of tensors: what an index selects from a tensor that is still in its file."""

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
from libtz.memory import HostBuffer, allocate

__all__ = ["Described", "ReadItem", "Region", "TensorSlice", "cut", "thin"]


T = TypeVar("T")


class Described(Protocol):
    """The facts about a tensor that indexing needs."""

    @property
    def name(self) -> str:
        """The tensor's name."""
        ...

    @property
    def dtype(self) -> str:
        """The format's name of the dtype, such as "bf16"."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in storage units."""
        ...


class Region(NamedTuple):
    """What an index selects from a tensor: every `steps`-th element of a box along each dimension.
    `shape` is that of the result."""

    info: Described
    box: tuple[Sequence[int], Sequence[int]]  # begin and end, per dimension
    steps: tuple[int, ...]
    shape: tuple[int, ...]

    @classmethod
    def of(cls, info: Described, index: Any) -> Region:
        """`index` as in PyTorch: integers, slices and `...`. Raises IndexError and OptionError."""
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
        """Whether elements of the box are left out."""
        return max(self.steps, default=1) > 1

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole tensor."""
        return self.shape == self.info.shape and not self.is_thinned


class ReadItem(NamedTuple):
    """A tensor to read, or a region of one."""

    name: str
    region: Region | None = None


class TensorSlice(Generic[T]):
    """A tensor that is read by indexing, from `Checkpoint.get_slice`. Index it with integers,
    slices and `...`, as in PyTorch. Each use reads from the source, and returns a tensor that owns
    its memory. With a step other than 1, the whole range of the slice is read. Raises IndexError
    and OptionError for an invalid index, and the errors of `Checkpoint.load`."""

    def __init__(self, info: TensorInfo, load: Callable[[Region], T]) -> None:
        """Called by `Checkpoint.get_slice`."""
        self.info = info
        self._load = load

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole tensor."""
        return self.info.shape

    @property
    def dtype(self) -> str:
        """The format's name of the dtype, such as "bf16"."""
        return self.info.dtype

    def __getitem__(self, index: Any) -> T:
        """Reads a part of the tensor. See the class for `index` and the errors raised."""
        return self._load(Region.of(self.info, index))


def _is_full(index: Any) -> bool:
    """Whether it is [:]. Compared by parts, since those of some slices are arrays."""
    return isinstance(index, slice) and index.start is index.stop is index.step is None


def _per_axis(index: Any, shape: Sequence[int]) -> list[tuple[Any, int]]:
    """The index along each axis, with the size of the axis."""
    parts = list(index) if isinstance(index, tuple) else [index]
    dots = [position for position, part in enumerate(parts) if part is Ellipsis]
    if len(dots) > 1:
        raise IndexError("an index can have only one '...'")
    given = len(parts) - len(dots)
    if given > len(shape):
        raise IndexError(f"too many indices: {given} for a tensor of {len(shape)} dimensions")
    dot = dots[0] if dots else len(parts)
    fill = [slice(None)] * (len(shape) - given)
    return list(zip(parts[:dot] + fill + parts[dot + 1 :], shape, strict=True))


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
        # A boolean, or a vector of one element, can be an integer, but would mean something else.
        if isinstance(part, (bool, np.bool_)) or _rank_or_mask(part):
            raise TypeError
        position = operator.index(part)
    except TypeError:
        raise OptionError(
            f"a tensor in a file can be indexed with integers, slices and '...'; got"
            f" {type(part).__name__}. Load the tensor, or a part of it, and index that"
        ) from None
    if not -size <= position < size:
        raise IndexError(f"index {position} is out of range for dimension {axis} of size {size}")
    return position + size if position < 0 else position


def _rank_or_mask(part: Any) -> bool:
    return bool(getattr(part, "ndim", 0)) or str(getattr(part, "dtype", "")).endswith("bool")


def thin(buffer: HostBuffer, position: int, region: Region) -> HostBuffer:
    """A copy of the elements of a region, taken from its box."""
    extent = [end - begin for begin, end in zip(*region.box, strict=True)]
    item = item_size(region.info.dtype)
    size = math.prod(extent) * item
    box = np.frombuffer(buffer.owner, np.uint8, size, buffer.offset + position)
    every = tuple(slice(None, None, step) for step in region.steps)
    return _owned(box.reshape(*extent, item)[every])


def cut(data: memoryview, region: Region) -> HostBuffer:
    """A copy of the elements of a region, taken from the bytes of the whole tensor."""
    (begins, ends), shape = region.box, region.info.shape
    is_rows = begins and not any(begins[1:]) and tuple(ends[1:]) == shape[1:]
    if is_rows and not region.is_thinned:
        row = data.nbytes // shape[0]
        rows = data[begins[0] * row : ends[0] * row]
        buffer = allocate(rows.nbytes)
        buffer.view()[:] = rows
        return buffer
    units = np.frombuffer(data, np.uint8).reshape(*region.info.shape, item_size(region.info.dtype))
    bounds = zip(*region.box, region.steps, strict=True)
    return _owned(units[tuple(slice(*each) for each in bounds)])


def _owned(units: NDArray[np.uint8]) -> HostBuffer:
    owner = np.array(units, order="C").reshape(-1)
    return HostBuffer(owner, 0, owner.nbytes, lib.address(owner))
