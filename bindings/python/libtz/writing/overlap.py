"""Finds tensors that share memory: ties are returned, other overlaps are refused [TZ1-66].

It only uses addresses and strides, so it serves both PyTorch and NumPy.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from libtz.errors import OptionError

__all__ = ["Extent", "find_ties"]

# With more candidate distances than this, two tensors count as overlapping. Slices of one base, the
# case that matters, never have more than two per dimension.
MEETINGS_MAX = 64


@dataclass(frozen=True)
class Extent:
    """The memory of a tensor's elements. `strides` are in bytes and may be zero or negative."""

    name: str
    space: Hashable  # the address space: tensors on different devices never overlap
    content: Hashable  # how to interpret the bytes: dtype, and pending conjugation
    address: int  # of the first element
    itemsize: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class _Span:
    """An extent as a set of addresses, without negative or zero strides."""

    index: int
    name: str
    begin: int
    end: int
    dimensions: dict[int, int]  # the largest multiple of each stride


def find_ties(extents: Sequence[Extent], *, copy_overlapping: bool) -> list[int | None]:
    """For each extent, the index of the earlier one that it is tied to, or None.

    Tensors are tied if their dtype, shape, strides and address are equal. For any other overlap,
    raises an OptionError that names both tensors, unless `copy_overlapping`.
    """
    ties: list[int | None] = []
    first: dict[Hashable, int] = {}
    for index, extent in enumerate(extents):
        if 0 in extent.shape:
            ties.append(None)
            continue
        moving = tuple(s if n > 1 else 0 for n, s in zip(extent.shape, extent.strides, strict=True))
        key = (extent.space, extent.content, extent.address, extent.shape, moving)
        owner = first.setdefault(key, index)
        ties.append(None if owner == index else owner)
    if not copy_overlapping:
        _refuse_overlaps(extents, sorted(first.values()))
    return ties


def _refuse_overlaps(extents: Sequence[Extent], indices: Sequence[int]) -> None:
    spaces: dict[Hashable, list[_Span]] = {}
    for index in indices:
        extent = extents[index]
        spaces.setdefault(extent.space, []).append(_span(index, extent))
    for spans in spaces.values():
        spans.sort(key=lambda span: span.begin)
        open_spans: list[_Span] = []
        for span in spans:
            open_spans = [other for other in open_spans if other.end > span.begin]
            for other in open_spans:
                if _meet(other, span):
                    a, b = sorted((other, span), key=lambda s: s.index)
                    raise OptionError(
                        f"{a.name!r} and {b.name!r} share memory, but differ in dtype, shape,"
                        " strides or address, so they cannot be stored as one; pass"
                        " copy_overlapping=True to store a copy of each"
                    )
            open_spans.append(span)


def _span(index: int, extent: Extent) -> _Span:
    begin = extent.address
    size = extent.itemsize
    # The bytes of an element are one more dimension.
    dimensions = {1: extent.itemsize - 1}
    for count, stride in zip(extent.shape, extent.strides, strict=True):
        if count == 1 or stride == 0:
            continue
        begin += min(0, (count - 1) * stride)
        size += (count - 1) * abs(stride)
        dimensions[abs(stride)] = dimensions.get(abs(stride), 0) + count - 1
    return _Span(index, extent.name, begin, begin + size, dimensions)


def _meet(a: _Span, b: _Span) -> bool:
    """Whether two spans have an address in common.

    If so, the distance between their beginnings is a sum of multiples of the strides, and each
    multiple lies between -(the largest of b) and +(the largest of a). Strides are tried in
    descending order. A distance that the smaller strides cannot bridge is dropped at once.
    """
    distances = {b.begin - a.begin}
    strides = sorted(a.dimensions.keys() | b.dimensions.keys(), reverse=True)
    bounds = [(s, a.dimensions.get(s, 0), b.dimensions.get(s, 0)) for s in strides]
    for position, (stride, up, down) in enumerate(bounds):
        rest_up = sum(s * u for s, u, _ in bounds[position + 1 :])
        rest_down = sum(s * d for s, _, d in bounds[position + 1 :])
        remaining: set[int] = set()
        for distance in distances:
            least = max(-down, -((rest_up - distance) // stride))
            most = min(up, (distance + rest_down) // stride)
            if most - least > MEETINGS_MAX:
                return True
            remaining.update(distance - m * stride for m in range(least, most + 1))
        if len(remaining) > MEETINGS_MAX:
            return True
        distances = remaining
    return 0 in distances
