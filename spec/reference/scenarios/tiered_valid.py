"""Chunks of codec 1 that every decoder accepts: each kind of each plane, every tail, the borders of
sub-blocks. Elements and choices are made to reach a case, no writer would choose so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import tz_reference as tz
import tz_tiered
from tz_tiered import CONSTANT, RAW, SLOTS, TIERED_33, TIERED_44, TIERED_223, Plane

from scenarios.base import valid
from scenarios.tiered import DTYPES, Chunk, chunk, file_of, made_of, planes

# Kinds --------------------------------------------------------------------------------------------

RULES = ("TZ1T-3", "TZ1T-6", "TZ1T-8", "TZ1T-11")
KIND_NAMES = {
    RAW: "raw",
    CONSTANT: "constant",
    TIERED_223: "2-2-3",
    TIERED_33: "3-3",
    TIERED_44: "4-4",
}

# Of each layout some choices that hold every kind of every plane. A plane alone is never raw in a
# file, since the chunk would be larger than its elements.
CHOICES: dict[str, list[tuple[int, ...]]] = {
    "byte": [(CONSTANT,), (TIERED_223,), (TIERED_33,), (TIERED_44,)],
    "bf16": [
        (RAW, CONSTANT),
        (CONSTANT, TIERED_223),
        (TIERED_223, RAW),
        (TIERED_33, TIERED_44),
        (TIERED_44, TIERED_33),
    ],
    "f16": [
        (CONSTANT, RAW, RAW),
        (TIERED_223, RAW, CONSTANT),
        (TIERED_33, CONSTANT, TIERED_223),
        (TIERED_44, CONSTANT, TIERED_33),
        (TIERED_223, RAW, TIERED_44),
    ],
    "f32": [
        (RAW, CONSTANT, TIERED_223, TIERED_33),
        (CONSTANT, TIERED_223, TIERED_33, TIERED_44),
        (TIERED_223, TIERED_33, TIERED_44, RAW),
        (TIERED_33, TIERED_44, RAW, CONSTANT),
        (TIERED_44, RAW, CONSTANT, TIERED_223),
    ],
    "fp8_e4m3": [
        (RAW, CONSTANT),
        (CONSTANT, RAW),
        (TIERED_223, CONSTANT),
        (CONSTANT, TIERED_223),
        (TIERED_33, CONSTANT),
        (CONSTANT, TIERED_33),
    ],
    "fp8_e5m2": [
        (CONSTANT, RAW),
        (TIERED_223, RAW),
        (TIERED_33, CONSTANT),
        (TIERED_44, CONSTANT),
    ],
}


def register_choice(layout_name: str, kinds: Sequence[int]) -> None:
    dtype = DTYPES[layout_name]
    n = 1100 if layout_name.startswith("fp8") else 600

    def make() -> bytes:
        return file_of(made_of(dtype, planes(dtype, *kinds), n))

    names = [KIND_NAMES[kind] for kind in kinds]
    make.__name__ = f"tiered_{layout_name}_{'_'.join(names)}"
    make.__doc__ = f"Layout {layout_name} with planes {', '.join(names)}."
    valid(*RULES, requires="tiered")(make)


for choice_layout, choices in CHOICES.items():
    for choice_kinds in choices:
        register_choice(choice_layout, choice_kinds)


@valid("TZ1T-3", requires="tiered")
def tiered_every_dtype() -> bytes:
    """A tensor of each dtype that has a layout, complex ones included."""
    chunks = []
    for dtype in tz_tiered.LAYOUT_OF_DTYPE:
        width_count = len(tz_tiered.layout_of(dtype).widths)
        kinds = (TIERED_223, *(CONSTANT,) * (width_count - 1))
        chunks.append(made_of(dtype, planes(dtype, *kinds), 600))
    return file_of(*chunks)


@valid("TZ1T-7", requires="tiered")
def tiered_constants_at_border() -> bytes:
    """Constants of 0 and of all ones, in each layout."""
    chunks = []
    for dtype in DTYPES.values():
        for value in (0, 255):
            widths = tz_tiered.layout_of(dtype).widths
            chosen = [Plane(w, CONSTANT, value % 2**w, b"") for w in widths]
            chunks.append(made_of(dtype, chosen, 200))
    return file_of(*chunks)


@valid("TZ1T-8", requires="tiered")
def tiered_tables_at_border() -> bytes:
    """Tables with the largest symbol and with 0, in no order; of width 5 all but two symbols."""
    byte = Plane(8, TIERED_223, 0, bytes([0, 255, 1, 254, 2, 253, 3, 252, 4, 251, 5, 250, 128]))
    five = Plane(5, TIERED_44, 0, bytes((k * 7 + 31) % 32 for k in range(30)))
    rest = Plane(3, CONSTANT, 5, b"")
    four = Plane(4, TIERED_33, 0, bytes(15 - k for k in range(14)))
    last = Plane(4, CONSTANT, 15, b"")
    return file_of(
        made_of("u8", [byte], 300),
        made_of("f8_e5m2", [five, rest], 400),
        made_of("f8_e4m3fn", [four, last], 400),
    )


# Escapes ------------------------------------------------------------------------------------------

PLANS = {2: TIERED_223, 3: TIERED_33, 4: TIERED_44}


def of_symbols(kind: int, symbols: Callable[[Plane, int], int], n: int) -> Chunk:
    """f32 elements of which only the exponent varies: so there is room for many escapes."""
    chosen = planes("f32", kind, CONSTANT, CONSTANT, CONSTANT)
    values = tuple(p.value for p in chosen[1:])
    return chunk("f32", chosen, ((symbols(chosen[0], k), *values) for k in range(n)))


def other(p: Plane, k: int) -> int:
    return next(s for s in range(k % 100, 256) if s not in p.table)


@valid("TZ1T-9", "TZ1T-15", requires="tiered")
def tiered_no_escapes() -> bytes:
    """Only symbols of the first tier: there is nothing in the others, in each plan."""
    return file_of(*(of_symbols(kind, lambda p, k: p.table[k % 3], 300) for kind in PLANS.values()))


@valid("TZ1T-9", "TZ1T-13", "TZ1T-15", requires="tiered")
def tiered_all_literals() -> bytes:
    """Everything escapes every tier: as many literals as elements, in each plan."""
    return file_of(*(of_symbols(kind, other, 300) for kind in PLANS.values()))


@valid("TZ1T-9", "TZ1T-15", requires="tiered")
def tiered_last_tier_empty() -> bytes:
    """Some elements escape to the second tier of 2-2-3 and none further."""
    return file_of(of_symbols(TIERED_223, lambda p, k: p.table[k % 6], 300))


@valid("TZ1T-9", "TZ1T-15", requires="tiered")
def tiered_all_in_the_last_tier() -> bytes:
    """Everything escapes to the last tier, and nothing that, in each plan."""
    return file_of(
        *(of_symbols(kind, lambda p, k: p.table[-1 - k % 4], 300) for kind in PLANS.values())
    )


@valid("TZ1T-9", "TZ1T-13", requires="tiered")
def tiered_one_literal_at_the_end() -> bytes:
    """The last element alone escapes, down to the only literal, in each plan."""

    def symbols(p: Plane, k: int) -> int:
        return other(p, k) if k == 299 else p.table[0]

    return file_of(*(of_symbols(kind, symbols, 300) for kind in PLANS.values()))


@valid("TZ1T-15", requires="tiered")
def tiered_every_code() -> bytes:
    """Every symbol of the table and every literal of a byte, in each plan."""
    return file_of(*(of_symbols(kind, lambda p, k: k % 256, 512) for kind in PLANS.values()))


# Tails --------------------------------------------------------------------------------------------


def tails(slots: int) -> list[int]:
    """How many codes are left for the last group: around every number of lanes that it can have."""
    near = [16 * lanes * slots + d for lanes in (0, 1, 2, 3, 4) for d in (-1, 0, 1)]
    return [r for r in (*near, slots, slots + 1) if 0 <= r < 64 * slots]


@valid("TZ1T-11", "TZ1T-14", requires="tiered")
def tiered_tails_of_2_bits() -> bytes:
    """Plan 2-2-3 with every number of lanes in the last group of the first tier."""
    chosen = planes("u8", TIERED_223)
    return file_of(*(made_of("u8", chosen, 512 + r) for r in tails(SLOTS[2])))


@valid("TZ1T-11", "TZ1T-14", requires="tiered")
def tiered_tails_of_3_bits() -> bytes:
    """Plan 3-3 with every number of lanes in the last group of the first tier."""
    chosen = planes("u8", TIERED_33)
    return file_of(*(made_of("u8", chosen, 512 + r) for r in tails(SLOTS[3])))


@valid("TZ1T-11", "TZ1T-14", requires="tiered")
def tiered_tails_of_4_bits() -> bytes:
    """Plan 4-4 with every number of lanes in the last group of the first tier."""
    chosen = planes("u8", TIERED_44)
    return file_of(*(made_of("u8", chosen, 384 + r) for r in tails(SLOTS[4])))


@valid("TZ1T-11", "TZ1T-14", requires="tiered")
def tiered_tails_of_raw_3_bits() -> bytes:
    """Raw planes of width 3 with every number of lanes in the last group."""
    chosen = planes("f8_e5m2", CONSTANT, RAW)
    return file_of(*(made_of("f8_e5m2", chosen, 512 + r) for r in tails(SLOTS[3])))


@valid("TZ1T-11", "TZ1T-14", requires="tiered")
def tiered_tails_of_raw_4_bits() -> bytes:
    """Raw planes of width 4 with every number of lanes in the last group."""
    chosen = planes("f8_e4m3fn", CONSTANT, RAW)
    return file_of(*(made_of("f8_e4m3fn", chosen, 384 + r) for r in tails(SLOTS[4])))


@valid("TZ1T-11", "TZ1T-14", requires="tiered")
def tiered_tails_of_inner_tiers() -> bytes:
    """Second tiers with every number of lanes in the last group, in each plan."""

    def symbols(p: Plane, k: int, count: int) -> int:
        return p.table[-1 - k % 7] if k < count else p.table[0]

    chunks: list[Chunk] = []
    for b, kind in PLANS.items():
        for lanes in (16, 32, 48, 64):
            chunks += [
                of_symbols(kind, partial(symbols, count=r), 64 * SLOTS[b] + 30)
                for r in (lanes * SLOTS[b], (lanes - 16) * SLOTS[b] + 1)
            ]
    return file_of(*chunks)


@valid("TZ1T-12", requires="tiered")
def tiered_plane_ends() -> bytes:
    """Planes of 62 to 66 bytes: with two bytes of padding, one, none, and nearly a line of them."""
    chosen = planes("f32", RAW, CONSTANT, CONSTANT, CONSTANT)
    return file_of(*(made_of("f32", chosen, n) for n in (126, 127, 128, 129, 130)))


@valid("TZ1T-1", "TZ1T-10", requires="tiered")
def tiered_few_elements() -> bytes:
    """The smallest chunks that are less than their elements: constants of 65 bytes and more."""
    chosen = {dtype: planes(dtype, *(CONSTANT,) * k) for dtype, k in (("u8", 1), ("f8_e5m2", 2))}
    bf16, f32 = planes("bf16", CONSTANT, CONSTANT), planes("f32", *(CONSTANT,) * 4)
    return file_of(
        made_of("u8", chosen["u8"], 65),
        made_of("f8_e5m2", chosen["f8_e5m2"], 129),
        made_of("bf16", bf16, 65),
        made_of("f32", f32, 49),
    )


# Sub-blocks and chunks ----------------------------------------------------------------------------


def sparse(n: int) -> Chunk:
    """Bytes, few of which are not the first symbol, but some at both ends of sub-blocks."""
    (p,) = planes("u8", TIERED_223)

    def value(k: int) -> int:
        near = min(k % 32768, -k % 32768) < 3
        return p.table[k % 13] if k % 4001 == 4000 else other(p, k) if near else p.table[0]

    return chunk("u8", [p], ((value(k),) for k in range(n)))


@valid("TZ1T-4", "TZ1T-11", requires="tiered")
def tiered_sub_block_minus_1() -> bytes:
    """A chunk of an element less than a sub-block."""
    return file_of(sparse(32767))


@valid("TZ1T-4", "TZ1T-11", requires="tiered")
def tiered_sub_block_exactly() -> bytes:
    """A chunk of exactly one sub-block."""
    return file_of(sparse(32768))


@valid("TZ1T-4", "TZ1T-11", requires="tiered")
def tiered_sub_block_plus_1() -> bytes:
    """A chunk whose second sub-block has one element."""
    return file_of(sparse(32769))


@valid("TZ1T-4", "TZ1T-11", requires="tiered")
def tiered_sub_blocks_of_two_planes() -> bytes:
    """Two sub-blocks of two tiered planes: the index goes by sub-block, plane, tier."""
    chosen = planes("bf16", TIERED_33, TIERED_223)

    def value(p: Plane, k: int) -> int:
        return other(p, k) if k % 5003 == 3 else p.table[3 * (k % 7001 == 9)]

    n = 32768 + 40
    symbols = ([value(p, k + 11 * (p is chosen[1])) for p in chosen] for k in range(n))
    return file_of(chunk("bf16", chosen, symbols), chunk_size=1 << 17)


@valid("TZ1T-5", 40, 41, 42, requires="tiered")
def tiered_and_raw_chunks() -> bytes:
    """A tensor whose three chunks are tiered, raw and tiered; each has its own table."""
    first, last = planes("u8", TIERED_33), planes("u8", TIERED_44)
    size = 1 << 16
    whole = chunk("u8", first, ((first[0].table[k % 4096 == 0],) for k in range(size)))
    raw = Chunk("u8", bytes(size), bytes(size))
    short = made_of("u8", last, 500)
    parts = (whole, raw, short)
    decoded = b"".join(part.decoded for part in parts)
    d = tz.draft({"x": tz.Tensor("u8", (len(decoded),), decoded)}, chunk_size=size)
    for number, part in enumerate(parts):
        codec = tz.RAW if part is raw else tz.TIERED
        d.stored[number] = part.stored
        d.chunks[number] = tz.Chunk(len(part.stored), 0, codec, bytes(7), bytes(32))
    d.preamble = d.preamble._replace(incompatible_flags=1 << 1)
    return d.place().pack()


# The file of tz-v1-example.md ---------------------------------------------------------------------


@valid(32, 36, 54, 55, requires="tiered")
def annotated() -> bytes:
    """The file that tz-v1-example.md explains byte by byte."""
    exponents = [0x7E] * 256
    for k in range(1, 15):
        exponents[17 * k] = 0x70 - k
    data = b"".join((exponent << 7).to_bytes(2, "little") for exponent in exponents)
    weight = tz.Tensor("bf16", (256,), data)
    bias = tz.Tensor("f32", (2,), bytes.fromhex("0000803f000000bf"))
    layers = [tz.TensorRef("weight"), tz.TensorRef("bias")]
    return tz.encode(
        {"weight": weight, "bias": bias, "head": weight},
        ties=[["weight", "head"]],
        structure={"layers": layers, "head": tz.TensorRef("head")},
        metadata={"license": "MIT"},
        codec="tiered",
    )
