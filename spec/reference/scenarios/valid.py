"""Preambles, directories, tensors and data that every reader accepts."""

from __future__ import annotations

import struct

import tz_reference as tz
from tz_hash import blake3
from tz_kit import broken
from tz_reference import encode

from scenarios.base import (
    CHUNK_SIZE,
    EMPTY,
    HOLLOW,
    ONE,
    TIED,
    TWO,
    TWO_CHUNKS,
    extra_sections,
    tensor,
    u8,
    valid,
)

# Preamble and directory ---------------------------------------------------------------------------


@valid(1, 2, 17, 34, 37)
def no_tensors() -> bytes:
    """The smallest file: 384 bytes, no tensors."""
    return EMPTY


@valid(30, 36, 43)
def one_tensor() -> bytes:
    """A tensor of three bytes."""
    return ONE


@valid(22, 28, 36, 45)
def two_tensors() -> bytes:
    """Two tensors with padding between their data."""
    return TWO


@valid(6)
def compatible_flags() -> bytes:
    """Every compatible flag is set."""
    return broken(ONE, {"preamble.compatible_flags": (1 << 64) - 1})


@valid(6)
def version_minor_1() -> bytes:
    """Version 1.1, with nothing new in it."""
    return broken(ONE, {"preamble.version_minor": 1})


@valid(6)
def version_minor_65535() -> bytes:
    """The last minor version that there could be."""
    return broken(ONE, {"preamble.version_minor": 65535})


def longer_records(section_type: int, record_size: int) -> bytes:
    d = tz.draft({"a": u8(2, 3), "b": u8(CHUNK_SIZE + 1)}, chunk_size=CHUNK_SIZE)
    d.preamble = d.preamble._replace(version_minor=1)
    for i, s in enumerate(d.directory):
        if s.type == section_type:
            d.directory[i] = s._replace(record_size=record_size)
    if section_type == tz.SHAPES:
        shapes = struct.iter_unpack("<8s", d.bodies[tz.SHAPES])
        d.bodies[tz.SHAPES] = b"".join(unit.ljust(record_size, b"+") for (unit,) in shapes)
    return d.place().pack()


@valid(6, 16)
def record_size_of_tensors_larger() -> bytes:
    """Version 1.1 whose tensor records have eight bytes more."""
    return longer_records(tz.TENSORS, 128)


@valid(6, 16)
def record_size_of_tensors_odd() -> bytes:
    """Version 1.1 whose tensor records have one byte more."""
    return longer_records(tz.TENSORS, 121)


@valid(6, 16)
def record_size_of_shapes_larger() -> bytes:
    """Version 1.1 whose shape records have eight bytes more."""
    return longer_records(tz.SHAPES, 16)


@valid(6, 16, 38)
def record_size_of_chunks_larger() -> bytes:
    """Version 1.1 whose chunk records have 16 bytes more, which the run digest covers."""
    return longer_records(tz.CHUNKS, 64)


@valid(14)
def section_skipped() -> bytes:
    """A section of unknown type that is not critical, between those that are known."""
    return extra_sections((6, 0, b"later"))


@valid(14)
def section_skipped_empty() -> bytes:
    """A section of unknown type without bytes."""
    return extra_sections((6, 0, b""))


@valid(14)
def section_skipped_with_record_size() -> bytes:
    """A section of unknown type whose record_size is no rule of this version."""
    d = tz.draft({"x": u8(3)})
    d.directory.insert(3, tz.Section(77, 0, 0, 0, 1000, bytes(4), bytes(32)))
    d.bodies[77] = b"later"
    return d.place().pack()


@valid(14)
def sections_reserved_not_critical() -> bytes:
    """Sections of the reserved types, not critical."""
    return extra_sections((16, 0, b"keys"), (17, 0, b"signatures"), (18, 0, b"hints"))


@valid(8, 9)
def sections_64() -> bytes:
    """64 sections, the most there may be. open_size follows them."""
    return extra_sections(*((1000 + i, 0, b"") for i in range(60)))


# Tensors ------------------------------------------------------------------------------------------


@valid(25, 30)
def every_dtype() -> bytes:
    """A tensor of each dtype, of three storage units."""
    return encode({name: tensor(name, 3, first=code) for name, code in tz.DTYPE_CODES.items()})


@valid(28, 30)
def scalar() -> bytes:
    """A tensor of rank 0 has one unit."""
    return encode({"x": tensor("f32")})


@valid(28, 33)
def empty_tensors() -> bytes:
    """Tensors with a dimension of 0, and so without bytes, between others."""
    tensors = {"a": u8(0), "b": u8(3), "c": tensor("f32", 2, 0, 3), "d": u8(1)}
    return encode(tensors)


def hollow(dtype: str, *shape: int) -> bytes:
    d = tz.draft({"x": tz.Tensor(dtype, shape, b"")})
    return d.place().pack()


@valid(29, 30)
def dimension_above_32_bits() -> bytes:
    """A dimension of 2^32, and one of 0."""
    return hollow("u8", 1 << 32, 0)


@valid(29)
def product_at_limit() -> bytes:
    """A dimension of 2^63 - 1, and one of 0."""
    return hollow("u8", 0, (1 << 63) - 1)


@valid(29)
def product_at_limit_of_unit_3() -> bytes:
    """The largest number of three-byte units that is within the limit, and a dimension of 0."""
    return hollow("f6_e3m2_x4", ((1 << 63) - 1) // 3, 0)


@valid(29)
def product_with_several_zeros() -> bytes:
    """Zeros are left out of the product, wherever they are."""
    return hollow("u8", 0, 1 << 31, 0, 1 << 31, 0)


@valid(27)
def rank_64() -> bytes:
    """64 dimensions, the most there may be."""
    return encode({"x": u8(*[1] * 63, 3)})


@valid(24, 28)
def ranks_mixed() -> bytes:
    """Tensors of ranks 3, 0, 1 and 2."""
    return encode({"a": u8(1, 2, 3), "b": u8(), "c": u8(4), "d": u8(2, 2)})


@valid(31, 35, 36)
def order_of_writer() -> bytes:
    """The data lie in another order than the names."""
    names = ("c", "a", "d", "b")
    return encode({name: u8(i + 1, first=i) for i, name in enumerate(names)})


@valid(31, 35, 36)
def order_with_empty_and_tied() -> bytes:
    """Tensors without chunks take part in the order."""
    tensors = {"z": u8(2), "e": u8(0), "b": u8(3), "a": u8(2)}
    return encode(tensors, ties=["az"])


@valid(32, 33)
def tie() -> bytes:
    """Two names for one tensor."""
    return TIED


@valid(32)
def tie_of_three() -> bytes:
    """Three names for one tensor: both are tied to the smallest, without a chain."""
    return encode({name: tensor("f32", 2) for name in "abc"}, ties=["abc"])


@valid(32)
def ties_of_two_groups() -> bytes:
    """Two groups of ties, whose names alternate."""
    tensors = {name: u8(3, first=i % 2) for i, name in enumerate("abcd")}
    return encode(tensors, ties=["ac", "bd"])


@valid(32)
def equal_but_not_tied() -> bytes:
    """Equal tensors need not be tied: each has its data."""
    return encode({"a": u8(3), "b": u8(3)})


@valid(25, 60)
def dtype_extensible() -> bytes:
    """A tensor of a dtype that the reader does not know is listed, and verified."""
    return broken(ONE, {"tensor[0].dtype": 0x0100, "dimension[0].units": 1000})


@valid(25, 29, 60)
def dtype_extensible_last_code() -> bytes:
    """The last code of the extensible range, beside a tensor of a known dtype: verified like it."""
    return broken(TWO, {"tensor[1].dtype": 0x01FF})


@valid(30, 60)
def dtype_extensible_of_several_chunks() -> bytes:
    """Two raw chunks of a dtype that the reader does not know, and a shape of no elements."""
    return broken(TWO_CHUNKS, {"tensor[0].dtype": 0x0100, "dimension[0].units": 0})


@valid(30, 60)
def dtype_extensible_empty() -> bytes:
    """No bytes for 1000 units of a dtype that the reader does not know."""
    return broken(HOLLOW, {"tensor[0].dtype": 0x0100, "dimension[0].units": 1000})


# Names --------------------------------------------------------------------------------------------


@valid(22, 23)
def name_empty() -> bytes:
    """A tensor with an empty name."""
    return encode({"": u8(1), "a": u8(2)})


@valid(22, 23)
def name_of_65535_bytes() -> bytes:
    """A name of 65535 bytes, the most there may be."""
    return encode({"n" * 65535: u8(1)})


@valid(23, 24)
def names_of_all_lengths() -> bytes:
    """The first and last characters of one, two, three and four bytes that names may have."""
    points = (0x20, 0x7E, 0xA0, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF)
    return encode({chr(point): u8(1) for point in points})


@valid(24)
def names_in_byte_order() -> bytes:
    """U+FF5E before U+10000: ascending as bytes, descending in UTF-16."""
    return encode({"\uff5e": u8(1), "\U00010000": u8(2)})


@valid(24)
def names_with_common_prefix() -> bytes:
    """Names of which one is the beginning of the other."""
    return encode({"a": u8(1), "a.b": u8(2), "ab": u8(3)})


@valid(24)
def names_differ_by_normalization() -> bytes:
    """The same letter composed and decomposed: different bytes, different names."""
    return encode({"e\u0301": u8(1), "\u00e9": u8(2)})


@valid(23)
def names_like_paths() -> bytes:
    """Names are keys, not paths."""
    return encode({"../../etc/passwd": u8(1), "/": u8(1), "C:\\": u8(1), ".": u8(1)})


@valid(23)
def name_with_line_separator() -> bytes:
    """U+2028, U+FEFF and U+202E are no control characters."""
    return encode({"a\u2028\ufeff\u202eb": u8(1)})


# Data ---------------------------------------------------------------------------------------------


@valid(36)
def data_of_4095_bytes() -> bytes:
    """The largest tensor that is aligned to 64."""
    return encode({"a": u8(1), "b": u8(4095)})


@valid(36)
def data_of_4096_bytes() -> bytes:
    """The smallest tensor that is aligned to 4096."""
    return encode({"a": u8(1), "b": u8(4096), "c": u8(1)})


@valid(36, 45)
def data_of_63_to_65_bytes() -> bytes:
    """Tensors of 63, 64 and 65 bytes."""
    return encode({"a": u8(63), "b": u8(64), "c": u8(65), "d": u8(1)})


@valid(33, 36, 41)
def chunk_exactly() -> bytes:
    """A tensor of exactly one chunk."""
    return encode({"x": u8(CHUNK_SIZE)}, chunk_size=CHUNK_SIZE)


@valid(33, 36, 41)
def chunk_minus_1() -> bytes:
    """A tensor of a byte less than a chunk."""
    return encode({"x": u8(CHUNK_SIZE - 1)}, chunk_size=CHUNK_SIZE)


@valid(33, 36, 41, 42)
def chunk_plus_1() -> bytes:
    """A tensor of one chunk and a byte: its last chunk has one byte."""
    return encode({"x": u8(CHUNK_SIZE + 1)}, chunk_size=CHUNK_SIZE)


@valid(36, 41, 42)
def chunks_of_several_tensors() -> bytes:
    """Three tensors of one, two and three chunks; no chunk holds bytes of two."""
    sizes = (100, CHUNK_SIZE + 100, 2 * CHUNK_SIZE + 100)
    tensors = {f"t{i}": u8(size, first=i) for i, size in enumerate(sizes)}
    return encode(tensors, chunk_size=CHUNK_SIZE)


@valid(36, 42)
def chunks_of_units_across_border() -> bytes:
    """A unit of three bytes lies in two chunks: chunks are cut by bytes, not units."""
    units = CHUNK_SIZE // 3 + 10
    return encode({"x": tensor("f6_e2m3_x4", units)}, chunk_size=CHUNK_SIZE)


@valid(8)
def chunk_size_smallest() -> bytes:
    """Chunks of 64 KiB."""
    return TWO_CHUNKS


@valid(8)
def chunk_size_largest() -> bytes:
    """Chunks of 64 MiB."""
    return encode({"x": u8(3)}, chunk_size=1 << 26)


@valid(62, operation="open")
def opened_with_changed_data() -> bytes:
    """A changed byte of a tensor is none of an opening reader's business."""
    return ONE[:-1] + b"\xff"


@valid(62, operation="open")
def opened_with_changed_run() -> bytes:
    """The chunk table is not read when a file is opened."""
    return broken(ONE, {"chunk[0].reserved": b"\x01" * 7}, keep={"runs"})


@valid(62, operation="open")
def opened_with_changed_padding() -> bytes:
    """Padding in the data region is not read when a file is opened."""
    return TWO[:-25] + b"\x01" + TWO[-24:]


@valid(61, pin="blake3:" + blake3(ONE[:128]).hex())
def pinned() -> bytes:
    """The pin is this file's digest."""
    return ONE


@valid(61, operation="open", pin="blake3:" + blake3(ONE[:128]).hex())
def pinned_and_opened() -> bytes:
    """The pin covers the preamble; changed data are found when they are loaded."""
    return ONE[:-1] + b"\xff"
