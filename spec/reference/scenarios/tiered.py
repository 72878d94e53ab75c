"""What the scenarios of codec 1 share: planes, elements by rule, and files of tiered chunks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import tz_reference as tz
import tz_tiered
from tz_tiered import CONSTANT, RAW, Plane

# A dtype of each layout.
DTYPES = {
    "byte": "u8",
    "bf16": "bf16",
    "f16": "f16",
    "f32": "f32",
    "fp8_e4m3": "f8_e4m3fn",
    "fp8_e5m2": "f8_e5m2",
}


def plane(width: int, kind: int, first: int = 0) -> Plane:
    """Its table counts down from the middle of the symbols, or is the constant there."""
    middle = 2 ** (width - 1) + first
    size = tz_tiered.table_size(kind)
    table = bytes((middle - k) % 2**width for k in range(size))
    return Plane(width, kind, middle % 2**width if kind == CONSTANT else 0, table)


def planes(dtype: str, *kinds: int) -> list[Plane]:
    widths = tz_tiered.layout_of(dtype).widths
    pairs = zip(widths, kinds, strict=True)
    return [plane(width, kind, first=number) for number, (width, kind) in enumerate(pairs)]


def symbol(p: Plane, k: int) -> int:
    """Symbol k: the first of the table half of the time, the next half of the rest, and so on; each
    31st is none of the table, if there is such a symbol."""
    if p.kind == CONSTANT:
        return p.value
    if p.kind == RAW:
        return (k * 37 + k // 5) % (1 << p.width)
    others = [s for s in range(2**p.width) if s not in p.table]
    if k % 31 == 30 and others:
        return others[k % len(others)]
    number = k * 2654435761 % 2**32
    return p.table[(32 - number.bit_length()) % len(p.table)]


class Chunk(NamedTuple):
    """A tensor of one chunk: its dtype, its decoded and its stored bytes."""

    dtype: str
    decoded: bytes
    stored: bytes


def chunk(dtype: str, chosen: list[Plane], symbols: Iterable[Sequence[int]]) -> Chunk:
    """From the symbols of each element, plane after plane."""
    layout = tz_tiered.layout_of(dtype)
    elements = [tuple(element) for element in symbols]
    decoded = b"".join(
        layout.merge(*element).to_bytes(layout.element_size, "little") for element in elements
    )
    split: list[Sequence[int]] = [bytes(one) for one in zip(*elements, strict=True)]
    return Chunk(dtype, decoded, tz_tiered.encode_with(chosen, split, layout))


def made_of(dtype: str, chosen: list[Plane], n: int) -> Chunk:
    """`n` elements, each symbol by the rule above."""
    return chunk(dtype, chosen, ([symbol(p, k) for p in chosen] for k in range(n)))


def file_of(*chunks: Chunk, chunk_size: int = 1 << 16) -> bytes:
    """Each as a tensor: "00", "01", ..."""
    tensors = {}
    for number, (dtype, decoded, _) in enumerate(chunks):
        shape = (len(decoded) // tz.UNIT_SIZES[tz.DTYPE_CODES[dtype]],)
        tensors[f"{number:02}"] = tz.Tensor(dtype, shape, decoded)
    d = tz.draft(tensors, chunk_size=chunk_size)
    for number, one in enumerate(chunks):
        if not len(one.stored) < len(one.decoded) <= chunk_size:
            raise ValueError(f"chunk {number} has {len(one.stored)} of {len(one.decoded)} bytes")
        d.stored[number] = one.stored
        d.chunks[number] = tz.Chunk(len(one.stored), 0, tz.TIERED, bytes(7), bytes(32))
    d.preamble = d.preamble._replace(incompatible_flags=1 << 1)
    return d.place().pack()
