"""Indexing of tensors that are still in their file."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from libtz._native import lib
from libtz.errors import OptionError
from libtz.format import TensorInfo
from libtz.transfer.memory import Block

__all__ = ["TensorSlice", "thin"]

LoadBox = Callable[[str, lib.Box, Sequence[int], Sequence[int]], Any]


class TensorSlice:
    """What `File.get_slice` returns. Takes integers, slices and `...`, as PyTorch does; each use
    loads. Steps other than 1 read the box they lie in."""

    def __init__(self, info: TensorInfo, load: LoadBox) -> None:
        self.info = info
        self._load = load

    @property
    def shape(self) -> tuple[int, ...]:
        return self.info.shape

    @property
    def dtype(self) -> str:
        return self.info.dtype

    def __getitem__(self, index: Any) -> Any:
        begins: list[int] = []
        ends: list[int] = []
        steps: list[int] = []
        shape: list[int] = []
        for axis, (part, size) in enumerate(_per_axis(index, self.shape)):
            if isinstance(part, slice):
                begin, end, step = _bounds(part, size)
                shape.append(len(range(begin, end, step)))
            else:
                begin = _position(part, size, axis)
                end, step = begin + 1, 1
            begins.append(begin)
            ends.append(end)
            steps.append(step)
        return self._load(self.info.name, (begins, ends), steps, shape)


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


def thin(block: Block, position: int, extent: Sequence[int], steps: Sequence[int]) -> Block:
    """Every `steps`-th part along each dimension of a box, in memory of its own."""
    count = int(np.prod(extent, dtype=np.int64))
    # The box is alone in its block, so the rest of it is the box.
    item = (block.size - position) // count
    box = np.frombuffer(block.owner, np.uint8, count * item, block.offset + position)
    picked = box.reshape(*extent, item)[tuple(slice(None, None, step) for step in steps)]
    owner = np.ascontiguousarray(picked).reshape(-1)
    return Block(owner, 0, owner.nbytes, lib.address(owner))
