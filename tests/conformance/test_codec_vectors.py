"""Checks the contents of the vectors of codec 1: kinds of planes, tails, round trips."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import tz_reference as tz
import tz_tiered
import tz_vectors
from tz_tiered import Header, Plane

VALID = [v for v in tz_vectors.load_all() if v.requires == "tiered" and v.expect == "ok"]


class StoredChunk(NamedTuple):
    dtype: str
    decoded: bytes
    stored: bytes

    @property
    def header(self) -> Header:
        layout = tz_tiered.layout_of(self.dtype)
        return tz_tiered.parse_header(self.stored, layout, len(self.decoded))


def chunks(vector: tz_vectors.Vector) -> Iterator[StoredChunk]:
    file = tz.File(vector.data)
    for entry in file.header.entries:
        decoded, begin = file.load(entry.name).data, 0
        for chunk, offset, size in file.run(entry):
            stored = vector.data[offset : offset + chunk.stored_length]
            if chunk.codec == tz.TIERED:
                dtype = tz.dtype_name(entry.record.dtype)
                yield StoredChunk(dtype, decoded[begin : begin + size], stored)
            begin += size


@functools.cache
def all_chunks() -> dict[str, list[StoredChunk]]:
    return {vector.name: list(chunks(vector)) for vector in VALID}


def sub_block_planes() -> Iterator[tuple[Plane, int, list[int]]]:
    """Each plane of each sub-block with its number of elements and its escape counts."""
    for chunk in (chunk for held in all_chunks().values() for chunk in held):
        header = chunk.header
        index = tz_tiered.parse_index(chunk.stored, header)
        for n, escapes in zip(header.sub_blocks, index, strict=True):
            for plane, counts in zip(header.planes, escapes, strict=True):
                yield plane, n, counts


@pytest.mark.parametrize("name", [vector.name for vector in VALID])
def test_encoding_the_elements_again_gives_the_same_bytes(name: str) -> None:
    """Elements with given kinds and tables have only one encoding."""
    for chunk in all_chunks()[name]:
        layout = tz_tiered.layout_of(chunk.dtype)
        planes = tz_tiered.split_elements(chunk.decoded, layout)
        assert tz_tiered.encode_with(chunk.header.planes, planes, layout) == chunk.stored


def test_every_dtype_with_a_layout_occurs() -> None:
    found = {chunk.dtype for held in all_chunks().values() for chunk in held}
    assert found == set(tz_tiered.LAYOUT_OF_DTYPE)


def test_every_kind_of_every_plane_occurs() -> None:
    found = {
        (tz_tiered.LAYOUT_OF_DTYPE[chunk.dtype], number, plane.kind)
        for held in all_chunks().values()
        for chunk in held
        for number, plane in enumerate(chunk.header.planes)
    }
    allowed = {
        (name, number, kind)
        for name, layout in tz_tiered.LAYOUTS.items()
        for number, width in enumerate(layout.widths)
        for kind in tz_tiered.PLANS
        if tz_tiered.is_allowed(kind, width)
    }
    # With the header, an encoded byte is larger than the byte.
    assert found == allowed - {("byte", 0, tz_tiered.RAW)}


def test_every_number_of_lanes_of_every_tier_occurs() -> None:
    found: set[tuple[int, int | str, int]] = set()
    for plane, n, counts in sub_block_planes():
        plan = tz_tiered.PLANS[plane.kind]
        for tier, (count, b) in enumerate(zip([n, *counts], plan, strict=False)):
            groups = tz_tiered.groups(count, b)
            found.add((b, min(tier, 1), groups[-1][0] if groups else 0))
        if plane.kind == tz_tiered.RAW and plane.width < 8:
            found.add((plane.width, "raw", tz_tiered.groups(n, plane.width)[-1][0]))
    lanes = (16, 32, 48, 64)
    assert found >= {(b, tier, count) for b in (2, 3, 4) for tier in (0, 1) for count in lanes}
    assert found >= {(b, "raw", count) for b in (3, 4) for count in lanes}
    assert found >= {(b, 1, 0) for b in (2, 3, 4)}


def test_every_tier_has_no_some_and_all_escapes() -> None:
    found = set()
    for plane, n, counts in sub_block_planes():
        for tier, (before, count) in enumerate(zip([n, *counts], counts, strict=False)):
            if before:
                share = "all" if count == before else "some" if count else "none"
                found.add((plane.kind, tier, share))
    assert found == {
        (kind, tier, share)
        for kind, plan in tz_tiered.PLANS.items()
        for tier in range(len(plan))
        for share in ("none", "some", "all")
    }
