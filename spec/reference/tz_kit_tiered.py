"""The insides of a chunk of codec 1, for the kit: what lies where, as far as the bytes can tell.

Like the kit itself it believes what the bytes say as long as that lies inside them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import tz_tiered
from tz_tiered import PLANS, Header, Plane, align


class Piece(NamedTuple):
    """Bytes of a chunk. With `packing` they are fields of these names, otherwise one field."""

    path: str
    begin: int
    end: int
    packing: struct.Struct | None = None
    names: tuple[str, ...] = ()


FIXED_NAMES = ("layout", "sub_block_log2", "reserved", "decoded_size")
RECORD_NAMES = ("kind", "value", "table")
ENTRY = struct.Struct("<I")


def pieces(stored: bytes, dtype: str, decoded_size: int) -> Iterator[Piece]:
    """The header's fields, and then each tier, raw plane and the literals of every sub-block."""
    for piece in _pieces(stored, dtype, decoded_size):
        if piece.end > len(stored):
            return
        yield piece


def _pieces(stored: bytes, dtype: str, decoded_size: int) -> Iterator[Piece]:
    if dtype not in tz_tiered.LAYOUT_OF_DTYPE or decoded_size > 2**26:
        return
    layout = tz_tiered.layout_of(dtype)
    header = Header(layout, decoded_size // layout.element_size, [])
    yield Piece("", 0, tz_tiered.FIXED.size, tz_tiered.FIXED, FIXED_NAMES)
    for i, width in enumerate(layout.widths):
        begin = tz_tiered.FIXED.size + i * tz_tiered.RECORD.size
        end = begin + tz_tiered.RECORD.size
        yield Piece(f"plane[{i}]", begin, end, tz_tiered.RECORD, RECORD_NAMES)
        kind, value, table = tz_tiered.RECORD.unpack(stored[begin:end])
        if kind not in PLANS or not tz_tiered.is_allowed(kind, width):
            return
        header.planes.append(Plane(width, kind, value, table))
    for i, begin in enumerate(range(header.index_begin, header.index_end, ENTRY.size)):
        yield Piece(f"index[{i}]", begin, begin + ENTRY.size, ENTRY, ("escapes",))
    yield from _sub_blocks(stored, header)


def _sub_blocks(stored: bytes, header: Header) -> Iterator[Piece]:
    entry, begin = header.index_begin, header.size
    for block, n in enumerate(header.sub_blocks):
        for i, plane in enumerate(header.planes):
            name, end = f"block[{block}].plane[{i}]", begin
            plan = PLANS[plane.kind]
            escapes = struct.unpack_from(f"<{len(plan)}I", stored, entry)
            entry += ENTRY.size * len(plan)
            if [n, *escapes] != sorted([n, *escapes], reverse=True):
                return
            for tier, (count, b) in enumerate(zip([n, *escapes], plan, strict=False)):
                tier_end = end + tz_tiered.packed(count, b)
                yield Piece(f"{name}.tier[{tier}]", end, tier_end)
                end = tier_end
            size = tz_tiered.plane_size(plane, n, escapes)
            yield Piece(f"{name}.{'literals' if plan else 'symbols'}", end, begin + size)
            begin = align(begin + size, 64)
