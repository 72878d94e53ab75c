"""The codec `tiered` in plain Python, in the order of its text.

It is meant to be read beside `spec/tz-v1-codec-tiered.md`. `require(..., 9, ...)` enforces
[TZ1T-9].

    data = tz_tiered.decode(stored, "bf16", decoded_size)    # TieredError, a ValueError
    stored = tz_tiered.encode(data, "bf16")                  # canonical; None: store it raw
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

# 1. Conventions -----------------------------------------------------------------------------------


class TieredError(ValueError):
    """Stored bytes break a rule. `rule` is such as "TZ1T-9"."""

    def __init__(self, rule: int, message: str) -> None:
        super().__init__(f"[TZ1T-{rule}] {message}")
        self.rule = f"TZ1T-{rule}"


def require(holds: bool, rule: int, message: str) -> None:
    if not holds:
        raise TieredError(rule, message)


def align(n: int, a: int) -> int:
    return -(-n // a) * a


# 3. Layouts ---------------------------------------------------------------------------------------

Symbols = Sequence[int]


class Layout(NamedTuple):
    code: int
    element_size: int
    widths: tuple[int, ...]
    split: Callable[[int], tuple[int, ...]]
    merge: Callable[..., int]


LAYOUTS = {
    "byte": Layout(0, 1, (8,), lambda e: (e,), lambda a: a),
    "bf16": Layout(
        code=1,
        element_size=2,
        widths=(8, 8),
        split=lambda e: (e >> 7 & 0xFF, (e & 0x7F) << 1 | e >> 15),
        merge=lambda a, b: (b & 1) << 15 | a << 7 | b >> 1,
    ),
    "f16": Layout(
        code=2,
        element_size=2,
        widths=(5, 3, 8),
        split=lambda e: (e >> 10 & 0x1F, e >> 15 << 2 | e >> 8 & 3, e & 0xFF),
        merge=lambda a, b, c: b >> 2 << 15 | a << 10 | (b & 3) << 8 | c,
    ),
    "f32": Layout(
        code=3,
        element_size=4,
        widths=(8, 8, 8, 8),
        split=lambda e: (
            e >> 23 & 0xFF,
            (e >> 16 & 0x7F) << 1 | e >> 31,
            e >> 8 & 0xFF,
            e & 0xFF,
        ),
        merge=lambda a, b, c, d: (b & 1) << 31 | a << 23 | b >> 1 << 16 | c << 8 | d,
    ),
    "fp8_e4m3": Layout(
        code=4,
        element_size=1,
        widths=(4, 4),
        split=lambda e: (e >> 3 & 0xF, e >> 7 << 3 | e & 7),
        merge=lambda a, b: b >> 3 << 7 | a << 3 | b & 7,
    ),
    "fp8_e5m2": Layout(
        code=5,
        element_size=1,
        widths=(5, 3),
        split=lambda e: (e >> 2 & 0x1F, e >> 7 << 2 | e & 3),
        merge=lambda a, b: b >> 2 << 7 | a << 2 | b & 3,
    ),
}

LAYOUT_OF_DTYPE = {
    "bool": "byte",
    "u8": "byte",
    "i8": "byte",
    "f8_e8m0fnu": "byte",
    "bf16": "bf16",
    "f16": "f16",
    "c32": "f16",
    "f32": "f32",
    "c64": "f32",
    "f8_e4m3fn": "fp8_e4m3",
    "f8_e4m3fnuz": "fp8_e4m3",
    "f8_e5m2": "fp8_e5m2",
    "f8_e5m2fnuz": "fp8_e5m2",
}

# 4. Kinds of planes -------------------------------------------------------------------------------

RAW, CONSTANT, TIERED_223, TIERED_33, TIERED_44 = range(5)
PLANS = {RAW: (), CONSTANT: (), TIERED_223: (2, 2, 3), TIERED_33: (3, 3), TIERED_44: (4, 4)}


def table_size(kind: int) -> int:
    return sum(2**code_bits - 1 for code_bits in PLANS[kind])


def is_allowed(kind: int, width: int) -> bool:
    return width != 5 if kind == RAW else kind == CONSTANT or table_size(kind) <= 2**width


# 5. Packed codes ----------------------------------------------------------------------------------

ROWS = {2: 1, 3: 3, 4: 1}
SLOTS = {2: 4, 3: 8, 4: 2}


def groups(n: int, b: int) -> list[tuple[int, int]]:
    """The lanes and the codes of each group."""
    full, rest = divmod(n, 64 * SLOTS[b])
    last = [(align(-(-rest // SLOTS[b]), 16), rest)] if rest else []
    return [(64, 64 * SLOTS[b])] * full + last


def packed(n: int, b: int) -> int:
    return sum(ROWS[b] * lanes for lanes, _ in groups(n, b))


def unpack(data: bytes, n: int, b: int) -> list[int]:
    codes, begin = [], 0
    for lanes, used in groups(n, b):
        rows = [data[begin + row * lanes :][:lanes] for row in range(ROWS[b])]
        numbers = [int.from_bytes(lane, "little") for lane in zip(*rows, strict=True)]
        group = [number >> slot * b & 2**b - 1 for slot in range(SLOTS[b]) for number in numbers]
        require(not any(group[used:]), 14, "an unused code is not 0")
        codes += group[:used]
        begin += ROWS[b] * lanes
    return codes


def pack(codes: Sequence[int], b: int) -> bytes:
    data, begin = b"", 0
    for lanes, used in groups(len(codes), b):
        group = codes[begin : begin + used]
        numbers = [
            sum(code << slot * b for slot, code in enumerate(group[lane::lanes]))
            for lane in range(lanes)
        ]
        rows = [bytes(number >> 8 * row & 0xFF for number in numbers) for row in range(ROWS[b])]
        data += b"".join(rows)
        begin += used
    return data


# 6. Stored bytes ----------------------------------------------------------------------------------

SUB_BLOCK_LOG2 = 15
SUB_BLOCK = 1 << SUB_BLOCK_LOG2

FIXED = struct.Struct("<BB2sI")
RECORD = struct.Struct("<BB30s")


class Plane(NamedTuple):
    width: int
    kind: int
    value: int
    table: bytes


class Header(NamedTuple):
    layout: Layout
    element_count: int
    planes: list[Plane]

    @property
    def sub_blocks(self) -> list[int]:
        """The number of elements of each."""
        begins = range(0, self.element_count, SUB_BLOCK)
        return [min(SUB_BLOCK, self.element_count - begin) for begin in begins]

    @property
    def tier_count(self) -> int:
        return sum(len(PLANS[plane.kind]) for plane in self.planes)

    @property
    def index_begin(self) -> int:
        return FIXED.size + RECORD.size * len(self.planes)

    @property
    def index_end(self) -> int:
        return self.index_begin + 4 * len(self.sub_blocks) * self.tier_count

    @property
    def size(self) -> int:
        return align(self.index_end, 64)


def plane_size(plane: Plane, n: int, escapes: Sequence[int]) -> int:
    if plane.kind == CONSTANT:
        return 0
    if plane.kind == RAW:
        return n if plane.width == 8 else packed(n, plane.width)
    counts = [n, *escapes]
    codes = zip(counts, PLANS[plane.kind], strict=False)
    return sum(packed(count, b) for count, b in codes) + counts[-1]


# 7. Requirements, and 8. Decoding -----------------------------------------------------------------


def parse_plane(record: bytes, width: int) -> Plane:
    kind, value, table = RECORD.unpack(record)
    require(kind in PLANS and is_allowed(kind, width), 6, f"kind {kind} of a plane of {width} bits")
    require(value < 2**width and (kind == CONSTANT or value == 0), 7, f"value {value}")
    symbols, rest = table[: table_size(kind)], table[table_size(kind) :]
    in_range = all(symbol < 2**width for symbol in symbols)
    differ = len(set(symbols)) == len(symbols)
    require(in_range and differ and not any(rest), 8, f"table {table.hex(' ')}")
    return Plane(width, kind, value, symbols)


def parse_header(stored: bytes, layout: Layout, decoded_size: int) -> Header:
    fits = decoded_size % layout.element_size == 0 and 1 <= decoded_size <= 2**26
    require(fits, 1, f"decoded size {decoded_size}")
    header = Header(layout, decoded_size // layout.element_size, [])
    records_end = FIXED.size + RECORD.size * len(layout.widths)
    require(len(stored) >= records_end, 2, f"{len(stored)} bytes")
    layout_code, sub_block_log2, reserved, size = FIXED.unpack_from(stored)
    require(layout_code == layout.code, 3, f"layout {layout_code}")
    fixed = sub_block_log2 == SUB_BLOCK_LOG2 and not any(reserved)
    require(fixed, 4, f"sub_block_log2 {sub_block_log2}, reserved {reserved.hex(' ')}")
    require(size == decoded_size, 5, f"decoded_size {size}, not {decoded_size}")
    for index, width in enumerate(layout.widths):
        record = stored[FIXED.size + RECORD.size * index :][: RECORD.size]
        header.planes.append(parse_plane(record, width))
    require(len(stored) >= header.size, 2, f"{len(stored)} bytes")
    return header


Escapes = list[list[int]]  # of each plane


def parse_index(stored: bytes, header: Header) -> list[Escapes]:
    """Of each sub-block. Afterwards all sizes are known."""
    index, stored_size, begin = [], header.size, header.index_begin
    for n in header.sub_blocks:
        escapes: Escapes = []
        for plane in header.planes:
            tiers = len(PLANS[plane.kind])
            escapes.append(list(struct.unpack_from(f"<{tiers}I", stored, begin)))
            begin += 4 * tiers
            counts = [n, *escapes[-1]]
            require(counts == sorted(counts, reverse=True), 9, f"escape counts {counts}")
            stored_size += align(plane_size(plane, n, escapes[-1]), 64)
        index.append(escapes)
    require(not any(stored[header.index_end : header.size]), 10, "padding of the header")
    require(len(stored) == stored_size, 11, f"{len(stored)} bytes, not {stored_size}")
    return index


def split_plane(plane: Plane, data: bytes, n: int, escapes: Sequence[int]) -> list[bytes]:
    """The codes of each tier, and the literals."""
    parts = []
    for count, b in zip([n, *escapes], PLANS[plane.kind], strict=False):
        parts.append(data[: packed(count, b)])
        data = data[packed(count, b) :]
    return [*parts, data]


def decode_tier(plane: Plane, tier: int, codes: list[int], escaped: Symbols) -> Symbols:
    plan = PLANS[plane.kind]
    escape = 2 ** plan[tier] - 1
    first = sum(2**b - 1 for b in plan[:tier])
    require(codes.count(escape) == len(escaped), 15, f"tier {tier + 1}")
    rest = iter(escaped)
    return [next(rest) if code == escape else plane.table[first + code] for code in codes]


def decode_inner(plane: Plane, parts: list[bytes], escapes: Sequence[int]) -> Symbols:
    """The symbols that escape tier 1."""
    symbols: Symbols = parts[-1]
    literals = all(s < 2**plane.width and s not in plane.table for s in symbols)
    require(literals, 13, "a literal")
    for tier in reversed(range(1, len(escapes))):
        codes = unpack(parts[tier], escapes[tier - 1], PLANS[plane.kind][tier])
        symbols = decode_tier(plane, tier, codes, symbols)
    return symbols


def decode_outer(plane: Plane, data: bytes, n: int, escaped: Symbols) -> Symbols:
    """All symbols; `data` is the raw plane or the codes of tier 1."""
    if plane.kind == CONSTANT:
        return [plane.value] * n
    if plane.kind == RAW:
        return data if plane.width == 8 else unpack(data, n, plane.width)
    return decode_tier(plane, 0, unpack(data, n, PLANS[plane.kind][0]), escaped)


def decode_sub_block(header: Header, stored: bytes, n: int, escapes: Escapes) -> bytes:
    datas, begin = [], 0
    for plane, counts in zip(header.planes, escapes, strict=True):
        size = plane_size(plane, n, counts)
        datas.append(stored[begin : begin + size])
        begin += size
        require(not any(stored[begin : align(begin, 64)]), 12, "padding of a plane")
        begin = align(begin, 64)
    inner: list[Symbols] = []
    for index, plane in enumerate(header.planes):
        if not PLANS[plane.kind]:
            inner.append(())
            continue
        parts = split_plane(plane, datas[index], n, escapes[index])
        datas[index] = parts[0]
        inner.append(decode_inner(plane, parts, escapes[index]))
    planes = [
        decode_outer(plane, data, n, escaped)
        for plane, data, escaped in zip(header.planes, datas, inner, strict=True)
    ]
    layout = header.layout
    return b"".join(
        layout.merge(*symbols).to_bytes(layout.element_size, "little")
        for symbols in zip(*planes, strict=True)
    )


def layout_of(dtype: str) -> Layout:
    if dtype not in LAYOUT_OF_DTYPE:
        raise TieredError(3, f"dtype {dtype} has no layout")
    return LAYOUTS[LAYOUT_OF_DTYPE[dtype]]


def decode(stored: bytes, dtype: str, decoded_size: int) -> bytes:
    header = parse_header(stored, layout_of(dtype), decoded_size)
    decoded, begin = [], header.size
    for n, escapes in zip(header.sub_blocks, parse_index(stored, header), strict=True):
        decoded.append(decode_sub_block(header, stored[begin:], n, escapes))
        for plane, counts in zip(header.planes, escapes, strict=True):
            begin += align(plane_size(plane, n, counts), 64)
    return b"".join(decoded)


# 9. The canonical writer --------------------------------------------------------------------------


def split_elements(data: bytes, layout: Layout) -> list[Symbols]:
    """The symbols of each plane."""
    size = layout.element_size
    elements = (data[begin : begin + size] for begin in range(0, len(data), size))
    symbols = [layout.split(int.from_bytes(element, "little")) for element in elements]
    return [bytes(plane) for plane in zip(*symbols, strict=True)]


def limit(size: int) -> int:
    return size - -(-size // 20)


def sample_of(data: bytes) -> bytes:
    pieces = len(data) // 64
    distance = min(pieces // 512, 31) | 1
    return b"".join(data[64 * piece :][:64] for piece in range(0, pieces, distance))


def cost(kind: int, width: int, counts: Sequence[int]) -> int:
    """In bits; `counts` are those of the ranking."""
    if kind == RAW:
        return sum(counts) * width
    bits, first = 0, 0
    for b in PLANS[kind]:
        bits += sum(counts[first:]) * b
        first += 2**b - 1
    return bits + sum(counts[first:]) * 8


def choose(layout: Layout, planes: list[Symbols], data: bytes) -> list[Plane] | None:
    sample = sample_of(data)
    chosen, bits = [], 0
    for width, symbols, seen in zip(
        layout.widths, planes, split_elements(sample, layout), strict=True
    ):
        if len(set(symbols)) == 1:
            chosen.append(Plane(width, CONSTANT, symbols[0], b""))
            continue
        count = Counter(seen)
        ranking = sorted(range(2**width), key=lambda symbol: (-count[symbol], symbol))
        counts = [count[symbol] for symbol in ranking]
        kinds = [kind for kind in PLANS if kind != CONSTANT and is_allowed(kind, width)]
        kind = min(kinds, key=lambda kind: (cost(kind, width, counts), kind))
        bits += cost(kind, width, counts)
        chosen.append(Plane(width, kind, 0, bytes(ranking[: table_size(kind)])))
    return chosen if bits <= 8 * limit(len(sample)) else None


def encode_plane(plane: Plane, symbols: Symbols) -> tuple[bytes, list[int]]:
    """The plane of a sub-block, and its escape counts."""
    if plane.kind == CONSTANT:
        return b"", []
    if plane.kind == RAW:
        return bytes(symbols) if plane.width == 8 else pack(symbols, plane.width), []
    data, escapes, first = b"", [], 0
    for b in PLANS[plane.kind]:
        tier = plane.table[first : first + 2**b - 1]
        code_of = {symbol: code for code, symbol in enumerate(tier)}
        data += pack([code_of.get(symbol, 2**b - 1) for symbol in symbols], b)
        symbols = [symbol for symbol in symbols if symbol not in code_of]
        escapes.append(len(symbols))
        first += 2**b - 1
    return data + bytes(symbols), escapes


def encode_with(chosen: list[Plane], planes: list[Symbols], layout: Layout) -> bytes:
    header = Header(layout, len(planes[0]), chosen)
    index, blocks = [], []
    for number in range(len(header.sub_blocks)):
        for plane, symbols in zip(chosen, planes, strict=True):
            part = symbols[number * SUB_BLOCK : (number + 1) * SUB_BLOCK]
            data, escapes = encode_plane(plane, part)
            blocks.append(data.ljust(align(len(data), 64), b"\0"))
            index += escapes
    decoded_size = header.element_count * layout.element_size
    records = b"".join(RECORD.pack(plane.kind, plane.value, plane.table) for plane in chosen)
    fixed = FIXED.pack(layout.code, SUB_BLOCK_LOG2, bytes(2), decoded_size)
    head = fixed + records + struct.pack(f"<{len(index)}I", *index)
    return head.ljust(header.size, b"\0") + b"".join(blocks)


def encode(data: bytes, dtype: str) -> bytes | None:
    if dtype not in LAYOUT_OF_DTYPE:
        return None
    layout = layout_of(dtype)
    if len(data) % layout.element_size or len(data) < 64:
        return None
    planes = split_elements(data, layout)
    chosen = choose(layout, planes, data)
    if chosen is None:
        return None
    stored = encode_with(chosen, planes, layout)
    return stored if len(stored) <= limit(len(data)) else None
