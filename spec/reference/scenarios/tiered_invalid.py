"""Chunks of codec 1 that break one of its rules: TZ1T-2 to TZ1T-15, section 7 of its text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tz_reference as tz
import tz_tiered
from tz_kit import broken, fields, get, splice
from tz_tiered import CONSTANT, RAW, TIERED_33, TIERED_44, TIERED_223

from scenarios.base import Maker, invalid
from scenarios.tiered import Chunk, file_of, made_of, planes
from scenarios.tiered_valid import sparse


def breaks(rule: int, **options: Any) -> Callable[[Maker], Maker]:
    return invalid("codec", 44, f"TZ1T-{rule}", requires="tiered", **options)


def stored_as(dtype: str, decoded_size: int, stored: bytes) -> bytes:
    """A file whose only chunk holds `stored`, of a tensor of zeros."""
    d = tz.draft({"00": tz.Tensor(dtype, (decoded_size // unit_size(dtype),), bytes(decoded_size))})
    d.stored[0] = stored
    d.chunks[0] = tz.Chunk(len(stored), 0, tz.TIERED, bytes(7), bytes(32))
    d.preamble = d.preamble._replace(incompatible_flags=1 << 1)
    return d.place().pack()


def unit_size(dtype: str) -> int:
    return int(tz.UNIT_SIZES[tz.DTYPE_CODES[dtype]])


def example() -> Chunk:
    """That of section 10 of the codec's text."""
    exponents = [0x7E] * 256
    for k in range(1, 15):
        exponents[17 * k] = 0x70 - k
    decoded = b"".join((exponent << 7).to_bytes(2, "little") for exponent in exponents)
    return Chunk("bf16", decoded, tz_tiered.encode(decoded, "bf16") or b"")


EXAMPLE = example()
FILE = file_of(EXAMPLE)
# A raw plane of 3 bits; 5 bits in plan 4-4; 4 bits in plan 3-3 and raw.
E5M2 = file_of(made_of("f8_e5m2", planes("f8_e5m2", TIERED_44, CONSTANT), 500))
E5M2_RAW = file_of(made_of("f8_e5m2", planes("f8_e5m2", CONSTANT, RAW), 500))
E4M3 = file_of(made_of("f8_e4m3fn", planes("f8_e4m3fn", TIERED_33, CONSTANT), 500))
E4M3_RAW = file_of(made_of("f8_e4m3fn", planes("f8_e4m3fn", CONSTANT, RAW), 500))
F16 = file_of(made_of("f16", planes("f16", TIERED_33, RAW, CONSTANT), 500))
BF16_33 = file_of(made_of("bf16", planes("bf16", TIERED_33, RAW), 500))
BF16_44 = file_of(made_of("bf16", planes("bf16", TIERED_44, CONSTANT), 500))
TWO_TIERED = file_of(made_of("bf16", planes("bf16", TIERED_33, TIERED_223), 500))
TWO_BLOCKS = file_of(sparse(32768 + 200))


def cut(size: int) -> bytes:
    """The first bytes of the example's chunk."""
    return stored_as("bf16", 512, EXAMPLE.stored[:size])


def change(data: bytes, path: str, at: int, change_byte: Callable[[int], int]) -> bytes:
    """Another value in byte `at` of a field."""
    field = fields(data)[f"tiered[0].{path}"]
    place = range(field.begin, field.end)[at]
    return broken(splice(data, place, place + 1, bytes([change_byte(data[place])])), {})


def behind(data: bytes, path: str, at: int) -> bytes:
    """A byte of the padding behind a field is 1."""
    place = fields(data)[f"tiered[0].{path}"].end + at
    if data[place]:
        raise ValueError(f"byte {place} is no padding")
    return broken(splice(data, place, place + 1, b"\x01"), {})


def header(data: bytes, values: dict[str, int | bytes]) -> bytes:
    """Other values in fields of the header."""
    return broken(data, {f"tiered[0].{path}": value for path, value in values.items()})


def table_with(data: bytes, plane: int, at: int, symbol: int) -> bytes:
    path = f"tiered[0].plane[{plane}].table"
    field = fields(data)[path]
    table = bytearray(data[field.begin : field.end])
    table[at] = symbol
    return broken(data, {path: bytes(table)})


# The header ---------------------------------------------------------------------------------------


@breaks(2)
def tiered_without_fixed_part() -> bytes:
    """The stored bytes end a byte before the fixed part does."""
    return cut(7)


@breaks(2)
def tiered_without_records() -> bytes:
    """The stored bytes are the fixed part alone."""
    return cut(8)


@breaks(2)
def tiered_records_cut() -> bytes:
    """The stored bytes end a byte before the plane records do."""
    return cut(71)


@breaks(2)
def tiered_index_missing() -> bytes:
    """The stored bytes end with the plane records, though there is an index."""
    return cut(72)


@breaks(2)
def tiered_index_cut() -> bytes:
    """The stored bytes end within the index."""
    return cut(83)


@breaks(2)
def tiered_header_padding_cut() -> bytes:
    """The stored bytes end a byte before the header's padding does."""
    return cut(127)


@breaks(3)
def tiered_other_layout() -> bytes:
    """The layout of another dtype whose elements are as large."""
    return header(FILE, {"layout": 2})


@breaks(3)
def tiered_layout_of_fewer_planes() -> bytes:
    """The layout of bytes, for bf16."""
    return header(FILE, {"layout": 0})


@breaks(3)
def tiered_layout_6() -> bytes:
    """A layout that no table lists."""
    return header(FILE, {"layout": 6})


@breaks(3)
def tiered_layout_of_e5m2_for_e4m3() -> bytes:
    """The layout of the other kind of fp8."""
    return header(E4M3, {"layout": 5})


@breaks(3)
def tiered_dtype_without_layout() -> bytes:
    """f64 has no layout, whatever the chunk says."""
    return stored_as("f64", 512, EXAMPLE.stored)


@breaks(3)
def tiered_dtype_without_layout_short() -> bytes:
    """A chunk of i32, too short for any header: the dtype counts first."""
    return stored_as("i32", 512, b"\x01")


@breaks(4)
def tiered_sub_block_log2_14() -> bytes:
    """Smaller sub-blocks."""
    return header(FILE, {"sub_block_log2": 14})


@breaks(4)
def tiered_sub_block_log2_16() -> bytes:
    """Larger sub-blocks."""
    return header(FILE, {"sub_block_log2": 16})


@breaks(4)
def tiered_reserved_first() -> bytes:
    """The first reserved byte is not zero."""
    return header(FILE, {"reserved": b"\x01\x00"})


@breaks(4)
def tiered_reserved_last() -> bytes:
    """The last reserved byte is not zero."""
    return header(FILE, {"reserved": b"\x00\x80"})


@breaks(5)
def tiered_decoded_size_small() -> bytes:
    """An element less than the chunk has."""
    return header(FILE, {"decoded_size": 510})


@breaks(5)
def tiered_decoded_size_large() -> bytes:
    """A byte more than the chunk has."""
    return header(FILE, {"decoded_size": 513})


@breaks(5)
def tiered_decoded_size_0() -> bytes:
    """No elements at all."""
    return header(FILE, {"decoded_size": 0})


@breaks(5)
def tiered_decoded_size_huge() -> bytes:
    """4 GiB: not to be allocated."""
    return header(FILE, {"decoded_size": 0xFFFFFFFF})


# Plane records ------------------------------------------------------------------------------------


@breaks(6)
def tiered_kind_5() -> bytes:
    """A kind that no table lists."""
    return header(FILE, {"plane[0].kind": 5})


@breaks(6)
def tiered_kind_255_of_second_plane() -> bytes:
    """The last kind that there could be, of the second plane."""
    return header(FILE, {"plane[1].kind": 255})


@breaks(6)
def tiered_raw_of_width_5() -> bytes:
    """Five bits are never raw."""
    return header(E5M2, {"plane[0].kind": RAW, "plane[0].table": bytes(30)})


@breaks(6)
def tiered_2_2_3_of_width_3() -> bytes:
    """13 symbols of three bits."""
    return header(E5M2_RAW, {"plane[1].kind": TIERED_223})


@breaks(6)
def tiered_3_3_of_width_3() -> bytes:
    """14 symbols of three bits."""
    return header(F16, {"plane[1].kind": TIERED_33})


@breaks(6)
def tiered_4_4_of_width_4() -> bytes:
    """30 symbols of four bits."""
    return header(E4M3, {"plane[0].kind": TIERED_44})


@breaks(7)
def tiered_value_of_tiered_plane() -> bytes:
    """A tiered plane with a value."""
    return header(FILE, {"plane[0].value": 1})


@breaks(7)
def tiered_value_of_raw_plane() -> bytes:
    """A raw plane with a value."""
    return header(BF16_33, {"plane[1].value": 1})


@breaks(7)
def tiered_constant_8_of_width_3() -> bytes:
    """A constant of four bits in a plane of three."""
    return header(E5M2, {"plane[1].value": 8})


@breaks(7)
def tiered_constant_16_of_width_4() -> bytes:
    """A constant of five bits in a plane of four."""
    return header(E4M3, {"plane[1].value": 16})


@breaks(7)
def tiered_constant_32_of_width_5() -> bytes:
    """A constant of six bits in a plane of five."""
    return header(E5M2_RAW, {"plane[0].value": 32})


@breaks(8)
def tiered_table_repeats_in_a_tier() -> bytes:
    """The same symbol twice in the first tier."""
    return table_with(FILE, 0, 1, 0x7E)


@breaks(8)
def tiered_table_repeats_across_tiers() -> bytes:
    """The first symbol of the first tier is also the last of the last tier."""
    return table_with(FILE, 0, 12, 0x7E)


@breaks(8)
def tiered_table_byte_behind() -> bytes:
    """The first byte behind the symbols is not zero."""
    return table_with(FILE, 0, 13, 0x6E)


@breaks(8)
def tiered_table_last_byte() -> bytes:
    """The last byte of a record is not zero, in plan 3-3."""
    return table_with(BF16_33, 0, 29, 1)


@breaks(8)
def tiered_table_of_constant() -> bytes:
    """A constant plane with a symbol in its table."""
    return table_with(FILE, 1, 0, 1)


@breaks(8)
def tiered_table_of_raw() -> bytes:
    """A raw plane with a symbol in its table."""
    return table_with(BF16_33, 1, 29, 1)


@breaks(8)
def tiered_symbol_32_of_width_5() -> bytes:
    """A symbol of six bits in the table of a plane of five."""
    return table_with(E5M2, 0, 29, 32)


@breaks(8)
def tiered_symbol_16_of_width_4() -> bytes:
    """A symbol of five bits in the table of a plane of four."""
    return table_with(E4M3, 0, 0, 16)


# Index, padding and size --------------------------------------------------------------------------


@breaks(9)
def tiered_escapes_of_first_tier() -> bytes:
    """An escape more in the first tier than there are elements."""
    return header(FILE, {"index[0].escapes": 257})


@breaks(9)
def tiered_escapes_of_second_tier() -> bytes:
    """An escape more in the second tier than it has codes."""
    return header(FILE, {"index[1].escapes": 13})


@breaks(9)
def tiered_escapes_of_third_tier() -> bytes:
    """An escape more in the third tier than it has codes."""
    return header(FILE, {"index[2].escapes": 10})


@breaks(9)
def tiered_escapes_huge() -> bytes:
    """2^32 - 1 escapes: sizes computed in 32 bits would overflow."""
    return header(FILE, {f"index[{k}].escapes": 0xFFFFFFFF for k in range(3)})


@breaks(9)
def tiered_escapes_of_second_plane() -> bytes:
    """Too many escapes in the second plane."""
    return header(TWO_TIERED, {"index[2].escapes": 501})


@breaks(9)
def tiered_escapes_of_second_sub_block() -> bytes:
    """More escapes in the last sub-block than it has elements, but fewer than the first has."""
    return header(TWO_BLOCKS, {"index[3].escapes": 201})


@breaks(10)
def tiered_header_padding_first() -> bytes:
    """The first byte of the header's padding is not zero."""
    return behind(FILE, "index[2].escapes", 0)


@breaks(10)
def tiered_header_padding_last() -> bytes:
    """The last byte of the header's padding is not zero."""
    return behind(FILE, "index[2].escapes", 43)


@breaks(11)
def tiered_size_minus_1() -> bytes:
    """The last byte, of padding, is missing."""
    return cut(len(EXAMPLE.stored) - 1)


@breaks(11)
def tiered_size_plus_1() -> bytes:
    """A byte more."""
    return stored_as("bf16", 512, EXAMPLE.stored + bytes(1))


@breaks(11)
def tiered_size_plus_64() -> bytes:
    """64 zeros more."""
    return stored_as("bf16", 512, EXAMPLE.stored + bytes(64))


@breaks(11)
def tiered_header_alone() -> bytes:
    """A whole header, and nothing behind it."""
    return cut(128)


@breaks(11)
def tiered_index_of_a_larger_chunk() -> bytes:
    """Escape counts that are possible, for another number of stored bytes."""
    return header(FILE, {"index[0].escapes": 256, "index[1].escapes": 256})


@breaks(12)
def tiered_plane_padding_first() -> bytes:
    """The first byte behind the literals is not zero."""
    return behind(FILE, "block[0].plane[0].literals", 0)


@breaks(12)
def tiered_plane_padding_last() -> bytes:
    """The last byte behind the literals is not zero."""
    return behind(FILE, "block[0].plane[0].literals", 61)


@breaks(12)
def tiered_raw_plane_padding() -> bytes:
    """The first byte behind a raw plane is not zero."""
    return behind(BF16_33, "block[0].plane[1].symbols", 0)


@breaks(12)
def tiered_padding_of_second_sub_block() -> bytes:
    """A byte of the last padding of two sub-blocks is not zero."""
    return behind(TWO_BLOCKS, "block[1].plane[0].literals", 0)


# Codes --------------------------------------------------------------------------------------------


@breaks(13)
def tiered_literal_of_first_tier() -> bytes:
    """A literal that the first tier has a code for."""
    return change(FILE, "block[0].plane[0].literals", 0, lambda _: 0x7E)


@breaks(13)
def tiered_literal_of_last_tier() -> bytes:
    """The last literal is one that the last tier has a code for."""
    return change(FILE, "block[0].plane[0].literals", -1, lambda _: 0x6D)


@breaks(13)
def tiered_literal_of_width_5() -> bytes:
    """A literal of six bits in a plane of five."""
    return change(E5M2, "block[0].plane[0].literals", 0, lambda old: old | 0x20)


@breaks(13)
def tiered_literal_of_width_4() -> bytes:
    """A literal of eight bits in a plane of four."""
    return change(E4M3, "block[0].plane[0].literals", -1, lambda old: old | 0x80)


@breaks(13)
def tiered_literal_16_of_width_4() -> bytes:
    """A literal of exactly 2^4 in a plane of four bits."""
    return change(E4M3, "block[0].plane[0].literals", 0, lambda _: 16)


@breaks(13)
def tiered_literal_32_of_width_5() -> bytes:
    """A literal of exactly 2^5 in a plane of five bits."""
    return change(E5M2, "block[0].plane[0].literals", 0, lambda _: 32)


@breaks(13)
def tiered_literal_32_of_f16() -> bytes:
    """A literal of exactly 2^5 in the exponents of f16."""
    return change(F16, "block[0].plane[0].literals", 0, lambda _: 32)


@breaks(3)
def order_tiered_records_alone() -> bytes:
    """The stored bytes are just the records, so that the header is cut, and the layout is wrong."""
    return stored_as("bf16", 512, b"\x00" + EXAMPLE.stored[1:72])


def unused(data: bytes, path: str) -> bytes:
    """The highest bit of a tier's last byte, which belongs to no code, is 1."""
    field = fields(data)[f"tiered[0].{path}"]
    if data[field.end - 1] & 0x80:
        raise ValueError(f"{path} has a code in its last bit")
    return change(data, path, -1, lambda old: old | 0x80)


@breaks(14)
def tiered_unused_code_of_2_bits() -> bytes:
    """The last code of the second tier's last group is not used, and not zero."""
    return unused(FILE, "block[0].plane[0].tier[1]")


@breaks(14)
def tiered_unused_lane() -> bytes:
    """The first lane of the second tier that no code uses is not zero."""
    return change(FILE, "block[0].plane[0].tier[1]", 12, lambda _: 1)


@breaks(14)
def tiered_unused_slot_of_a_used_lane() -> bytes:
    """A used lane of the second tier, whose second slot is not used and not zero."""
    return change(FILE, "block[0].plane[0].tier[1]", 11, lambda old: old | 4)


@breaks(14)
def tiered_unused_code_of_3_bits() -> bytes:
    """The last row of the third tier, whose codes are in the first, is not zero."""
    return unused(FILE, "block[0].plane[0].tier[2]")


@breaks(14)
def tiered_unused_code_of_4_bits() -> bytes:
    """The last code of the first tier's last group is not used, and not zero."""
    return unused(BF16_44, "block[0].plane[0].tier[0]")


@breaks(14)
def tiered_unused_code_of_first_tier() -> bytes:
    """The same of three bits, whose code would be an escape."""
    return change(BF16_33, "block[0].plane[0].tier[0]", -1, lambda old: old | 0xE0)


@breaks(14)
def tiered_unused_code_of_raw_3_bits() -> bytes:
    """A symbol of a raw plane of three bits that no element has."""
    return unused(E5M2_RAW, "block[0].plane[1].symbols")


@breaks(14)
def tiered_unused_code_of_raw_4_bits() -> bytes:
    """A symbol of a raw plane of four bits that no element has."""
    return unused(E4M3_RAW, "block[0].plane[1].symbols")


@breaks(15)
def tiered_escape_too_many_in_first_tier() -> bytes:
    """An escape more in the first tier than the index says."""
    return change(FILE, "block[0].plane[0].tier[0]", 0, lambda old: old | 3)


@breaks(15)
def tiered_escape_too_few_in_first_tier() -> bytes:
    """An escape less in the first tier than the index says."""
    return change(FILE, "block[0].plane[0].tier[0]", 17, lambda old: old & ~3)


@breaks(15)
def tiered_escape_too_many_in_second_tier() -> bytes:
    """An escape more in the second tier than the index says."""
    return change(FILE, "block[0].plane[0].tier[1]", 9, lambda _: 3)


@breaks(15)
def tiered_escape_too_few_in_third_tier() -> bytes:
    """An escape less in the third tier than the index says: a literal is left."""
    return change(FILE, "block[0].plane[0].tier[2]", 0, lambda _: 0)


@breaks(15)
def tiered_index_of_fewer_literals() -> bytes:
    """The index counts a literal less, which is zero and so padding."""
    data = change(FILE, "block[0].plane[0].literals", -1, lambda _: 0)
    return header(data, {"index[2].escapes": 1})


@breaks(15)
def tiered_escape_in_second_sub_block() -> bytes:
    """An escape more in the last sub-block than the index says."""
    return change(TWO_BLOCKS, "block[1].plane[0].tier[0]", 16, lambda old: old | 3)


# The first fault counts ---------------------------------------------------------------------------


@breaks(3)
def order_tiered_layout_before_sub_block() -> bytes:
    """Layout, sub_block_log2 and decoded_size are wrong."""
    return header(FILE, {"layout": 2, "sub_block_log2": 14, "decoded_size": 0})


@breaks(4)
def order_tiered_fixed_part_before_size() -> bytes:
    """A reserved byte and decoded_size are wrong, and so is the kind of a plane."""
    return header(FILE, {"reserved": b"\x01\x00", "decoded_size": 0, "plane[0].kind": 9})


@breaks(2)
def order_tiered_records_before_layout() -> bytes:
    """The layout is wrong, and the records are cut: as many as the dtype's layout has planes."""
    return stored_as("bf16", 512, b"\x00" + EXAMPLE.stored[1:71])


@breaks(7)
def order_tiered_plane_after_plane() -> bytes:
    """The first plane's value is wrong, and the second plane's kind."""
    return header(FILE, {"plane[0].value": 1, "plane[1].kind": 9})


@breaks(6)
def order_tiered_kind_before_table() -> bytes:
    """A kind is unknown, and value and table are not those of any."""
    return header(FILE, {"plane[1].kind": 9, "plane[1].value": 1, "plane[1].table": b"\x01" * 30})


@breaks(8)
def order_tiered_table_before_index() -> bytes:
    """A table repeats a symbol, and the index is cut."""
    stored = bytearray(EXAMPLE.stored[:80])
    stored[11] = stored[10]
    return stored_as("bf16", 512, bytes(stored))


@breaks(9)
def order_tiered_index_before_padding() -> bytes:
    """The last escape count and the header's padding are wrong, and the number of bytes."""
    data = behind(FILE, "index[2].escapes", 0)
    return header(data, {"index[2].escapes": 10})


@breaks(10)
def order_tiered_padding_before_size() -> bytes:
    """The header's padding is not zero, and there are 64 bytes too many."""
    stored = bytearray(EXAMPLE.stored + bytes(64))
    stored[127] = 1
    return stored_as("bf16", 512, bytes(stored))


@breaks(11)
def order_tiered_size_before_codes() -> bytes:
    """The last byte is missing, and a literal is wrong."""
    stored = bytearray(EXAMPLE.stored[:-1])
    stored[256] = 0x7E
    return stored_as("bf16", 512, bytes(stored))


@breaks(12)
def order_tiered_padding_before_literal() -> bytes:
    """The second plane's padding is not zero, and a literal of the first is wrong."""
    data = change(BF16_33, "block[0].plane[0].literals", 0, lambda _: 0x80)
    return behind(data, "block[0].plane[1].symbols", 0)


@breaks(13)
def order_tiered_literal_before_codes() -> bytes:
    """A literal is wrong, and so are unused codes and escapes of all tiers."""
    data = change(FILE, "block[0].plane[0].literals", 0, lambda _: 0x7E)
    data = change(data, "block[0].plane[0].tier[0]", 0, lambda old: old | 3)
    data = unused(data, "block[0].plane[0].tier[1]")
    return unused(data, "block[0].plane[0].tier[2]")


@breaks(14)
def order_tiered_last_tier_first() -> bytes:
    """The third tier has an unused code that is not zero, the second an escape too many."""
    data = unused(FILE, "block[0].plane[0].tier[2]")
    return change(data, "block[0].plane[0].tier[1]", 9, lambda _: 3)


@breaks(15)
def order_tiered_second_tier_before_first() -> bytes:
    """The second tier has an escape too many, the first tier an unused code."""
    data = change(BF16_33, "block[0].plane[0].tier[0]", -1, lambda old: old | 0x80)
    return change(data, "block[0].plane[0].tier[1]", 0, escape_of_3_bits)


def escape_of_3_bits(old: int) -> int:
    """The code in the lowest bits becomes an escape, or stops to be one."""
    return old ^ 7 if old & 7 in (0, 7) else old | 7


@breaks(14)
def order_tiered_unused_before_escapes() -> bytes:
    """The first tier has an unused code that is not zero, and an escape too many."""
    data = change(BF16_33, "block[0].plane[0].tier[0]", -1, lambda old: old | 0x80)
    return change(data, "block[0].plane[0].tier[0]", 1, escape_of_3_bits)


@breaks(13)
def order_tiered_inner_tiers_of_all_planes_first() -> bytes:
    """The first plane's first tier has an escape too many, the second plane a wrong literal."""
    data = change(TWO_TIERED, "block[0].plane[0].tier[0]", 0, escape_of_3_bits)
    table = fields(data)["tiered[0].plane[1].table"].begin
    return change(data, "block[0].plane[1].literals", 0, lambda _: data[table])


@breaks(15)
def order_tiered_first_plane_before_second() -> bytes:
    """The first plane's second tier has an escape too many, the second plane a wrong literal."""
    data = change(TWO_TIERED, "block[0].plane[0].tier[1]", 0, escape_of_3_bits)
    table = fields(data)["tiered[0].plane[1].table"].begin
    return change(data, "block[0].plane[1].literals", 0, lambda _: data[table])


@breaks(15)
def order_tiered_sub_block_after_sub_block() -> bytes:
    """The first sub-block has an escape too many, the second a wrong literal."""
    data = change(TWO_BLOCKS, "block[0].plane[0].tier[0]", 16, lambda old: old | 3)
    table = fields(data)["tiered[0].plane[0].table"].begin
    return change(data, "block[1].plane[0].literals", 0, lambda _: data[table])


@invalid("content", 46, requires="tiered")
def tiered_other_elements() -> bytes:
    """A valid chunk of other elements: only the content digest tells."""
    return change(FILE, "block[0].plane[0].tier[0]", 0, lambda old: old | 1)


@invalid("checksum", 43, requires="tiered")
def tiered_checksum_before_codec() -> bytes:
    """A chunk that breaks the codec's rules and its checksum: the checksum counts."""
    at = get(FILE, "tensor[0].data_offset")
    return splice(FILE, at, at + 1, b"\xff")
