"""Indexing of tensors that are still in their file."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from libtz._native import lib
from libtz.errors import OptionError
from libtz.format import TensorInfo, item_size
from libtz.memory import HostBuffer

__all__ = ["Selection", "TensorSlice", "thin"]


@dataclass(frozen=True)
class Selection:
    """What an index picks of a tensor: every `steps`-th of a box along each dimension, in this
    shape."""

    info: TensorInfo
    box: lib.Box
    steps: tuple[int, ...]
    shape: tuple[int, ...]

    @classmethod
    def of(cls, info: TensorInfo, index: Any) -> Selection:
        """`index` as in PyTorch: integers, slices and `...`."""
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


class TensorSlice:
    """What `File.get_slice` returns. Takes integers, slices and `...`, as PyTorch does; each use
    loads. Steps other than 1 read the box they lie in."""

    def __init__(self, info: TensorInfo, load: Callable[[Selection], Any]) -> None:
        self.info = info
        self._load = load

    @property
    def shape(self) -> tuple[int, ...]:
        return self.info.shape

    @property
    def dtype(self) -> str:
        return self.info.dtype

    def __getitem__(self, index: Any) -> Any:
        return self._load(Selection.of(self.info, index))


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
        if isinstance(part, (bool, np.bool_)):
            raise TypeError
        position = operator.index(part)
    except TypeError:
        raise OptionError(
            f"slices of files take integers, slices and '...'; got {type(part).__name__}"
        ) from None
    if not -size <= position < size:
        raise IndexError(f"index {position} is out of range for dimension {axis} of size {size}")
    return position + size if position < 0 else position


def thin(block: HostBuffer, position: int, part: Selection) -> HostBuffer:
    """Every `steps`-th element along each dimension of a box, in memory of its own."""
    extent = [end - begin for begin, end in zip(*part.box, strict=True)]
    item = item_size(part.info.dtype)
    size = int(np.prod(extent, dtype=np.int64)) * item
    box = np.frombuffer(block.owner, np.uint8, size, block.offset + position)
    every = tuple(slice(None, None, step) for step in part.steps)
    owner = np.array(box.reshape(*extent, item)[every], order="C").reshape(-1)
    return HostBuffer(owner, 0, owner.nbytes, lib.address(owner))
