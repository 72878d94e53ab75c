"""Files whose tensor table is wrong, but for names and places: TZ1-21, TZ1-25 to TZ1-33."""

from __future__ import annotations

import struct

import tz_reference as tz
from tz_kit import broken, get

from scenarios.base import HOLLOW, ONE, TIED, TWO, invalid, tensor, u8


@invalid("reserved", 21)
def record_reserved() -> bytes:
    """A reserved byte of a record is not zero."""
    return broken(ONE, {"tensor[0].reserved": b"\0\x01"})


@invalid("feature", 25)
def dtype_0() -> bytes:
    """dtype 0."""
    return broken(ONE, {"tensor[0].dtype": 0})


@invalid("feature", 25)
def dtype_between_ranges() -> bytes:
    """dtype 0x37, between u7 and i1."""
    return broken(ONE, {"tensor[0].dtype": 0x37})


@invalid("feature", 25)
def dtype_after_last() -> bytes:
    """dtype 0x45, after the last of the table."""
    return broken(ONE, {"tensor[0].dtype": 0x45})


@invalid("feature", 25)
def dtype_before_extensible() -> bytes:
    """dtype 0x00FF, the last before the extensible range."""
    return broken(ONE, {"tensor[0].dtype": 0xFF})


@invalid("feature", 25)
def dtype_after_extensible() -> bytes:
    """dtype 0x0200, the first after the extensible range."""
    return broken(ONE, {"tensor[0].dtype": 0x0200})


@invalid("feature", 25)
def dtype_largest() -> bytes:
    """dtype 0xFFFF."""
    return broken(ONE, {"tensor[0].dtype": 0xFFFF})


@invalid("feature", 26)
def layout_1() -> bytes:
    """A layout of another version."""
    return broken(ONE, {"tensor[0].layout": 1})


@invalid("feature", 26)
def layout_255() -> bytes:
    """The last layout that there could be."""
    return broken(ONE, {"tensor[0].layout": 255})


@invalid("limit", 27)
def rank_65() -> bytes:
    """65 dimensions, all there."""
    return tz.draft({"x": u8(*[1] * 65)}).place().pack()


@invalid("limit", 27)
def rank_255() -> bytes:
    """255 dimensions, of which the file has one."""
    return broken(ONE, {"tensor[0].rank": 255})


@invalid("layout", 28)
def shape_begin_first_not_0() -> bytes:
    """The first shape does not begin at the begin of the shapes."""
    return broken(ONE, {"tensor[0].shape_begin": 1})


@invalid("layout", 28)
def shape_begin_shared() -> bytes:
    """Two tensors share one shape."""
    data = tz.encode({"a": u8(3), "b": u8(3)})
    return broken(data, {"tensor[1].shape_begin": 0})


@invalid("layout", 28)
def shape_outside_section() -> bytes:
    """The last shape has a dimension more than the section."""
    return broken(ONE, {"tensor[0].rank": 2})


def shape_file(dtype: str, *shape: int) -> bytes:
    """A tensor of this shape and no data."""
    d = tz.draft({"x": tensor(dtype, *[0] * len(shape))})
    d.bodies[tz.SHAPES] = struct.pack(f"<{len(shape)}Q", *shape)
    return d.place().pack()


@invalid("limit", 29)
def product_over_limit() -> bytes:
    """A tensor of 2^63 bytes, were it not for a dimension of 0."""
    return shape_file("u8", 1 << 63, 0)


@invalid("limit", 29)
def product_over_limit_in_bytes() -> bytes:
    """2^62 units of two bytes, were it not for a dimension of 0."""
    return shape_file("u16", 0, 1 << 62)


@invalid("limit", 29)
def product_over_limit_of_unit_3() -> bytes:
    """The smallest number of three-byte units that is more than 2^63 - 1 bytes."""
    return shape_file("f6_e2m3_x4", 0, (1 << 63) // 3 + 1)


@invalid("limit", 29)
def product_wraps_to_0() -> bytes:
    """2^32 times 2^32 units, which is 0 modulo 2^64, and no data."""
    return shape_file("u8", 1 << 32, 1 << 32)


@invalid("limit", 29)
def product_wraps_to_size() -> bytes:
    """Dimensions whose product is 5 modulo 2^64, and five bytes of data."""
    d = tz.draft({"x": u8(1, 5)})
    d.bodies[tz.SHAPES] = struct.pack("<QQ", 3, ((1 << 64) + 5) // 3)
    return d.place().pack()


@invalid("limit", 29)
def dimension_negative() -> bytes:
    """A dimension of 2^64 - 1: -1 to a reader that takes it for signed."""
    return shape_file("u8", 0, (1 << 64) - 1)


@invalid("limit", 29)
def product_of_64_dimensions() -> bytes:
    """64 dimensions of 2^64 - 1."""
    return shape_file("u8", *[(1 << 64) - 1] * 64)


@invalid("limit", 29)
def product_over_limit_of_extensible_dtype() -> bytes:
    """2^63 units of a dtype whose unit the reader does not know."""
    return broken(shape_file("u8", 0, 1 << 63), {"tensor[0].dtype": 0x0100})


@invalid("limit", 74)
def decoded_size_over_limit() -> bytes:
    """A tensor of a dtype that the reader does not know, of 2^63 bytes."""
    return broken(ONE, {"tensor[0].dtype": 0x0100, "tensor[0].decoded_size": 1 << 63})


@invalid("layout", 36)
def decoded_size_at_limit() -> bytes:
    """A tensor of 2^63 - 1 bytes is within the limit, but its three stored bytes are too few."""
    return broken(ONE, {"tensor[0].dtype": 0x0100, "tensor[0].decoded_size": (1 << 63) - 1})


@invalid("shape", 30)
def decoded_size_small() -> bytes:
    """A byte less than the shape has."""
    return broken(ONE, {"tensor[0].decoded_size": 2})


@invalid("shape", 30)
def decoded_size_large() -> bytes:
    """A byte more than the shape has."""
    return broken(ONE, {"tensor[0].decoded_size": 4})


@invalid("shape", 30)
def decoded_size_of_other_dtype() -> bytes:
    """Three units of two bytes in three bytes."""
    return broken(ONE, {"tensor[0].dtype": tz.DTYPE_CODES["f16"]})


@invalid("shape", 30)
def decoded_size_of_scalar() -> bytes:
    """A scalar has one unit, not none."""
    return broken(tz.encode({"x": u8()}), {"tensor[0].decoded_size": 0})


@invalid("shape", 30)
def decoded_size_of_empty() -> bytes:
    """A byte for a shape with a dimension of 0."""
    return broken(HOLLOW, {"tensor[0].decoded_size": 1})


@invalid("shape", 30)
def decoded_size_in_elements() -> bytes:
    """Two f4 elements lie in a byte: a shape counts units, not elements."""
    return broken(ONE, {"tensor[0].dtype": tz.DTYPE_CODES["f4_e2m1fn_x2"], "dimension[0].units": 6})


@invalid("order", 31)
def order_too_large() -> bytes:
    """The only tensor is the second."""
    return broken(ONE, {"tensor[0].order": 1})


@invalid("order", 31)
def order_huge() -> bytes:
    """An order of 2^32 - 1."""
    return broken(TWO, {"tensor[1].order": 0xFFFFFFFF})


@invalid("tie", 32)
def tie_to_itself() -> bytes:
    """A tensor is tied to itself."""
    return broken(TIED, {"tensor[1].tie": 1})


@invalid("tie", 32)
def tie_to_later() -> bytes:
    """A tensor is tied to one with a larger name."""
    return broken(TWO, {"tensor[0].tie": 1})


@invalid("tie", 32)
def tie_outside_table() -> bytes:
    """A tensor is tied to a record that is not there."""
    return broken(TIED, {"tensor[1].tie": 2})


@invalid("tie", 32)
def tie_huge() -> bytes:
    """A tensor is tied to the last index before the one that means none."""
    return broken(TIED, {"tensor[1].tie": 0xFFFFFFFE})


@invalid("tie", 75)
def tie_chain() -> bytes:
    """A tensor is tied to one that is tied itself."""
    data = tz.encode({name: u8(2, 3) for name in "abc"}, ties=["abc"])
    return broken(data, {"tensor[2].tie": 1})


@invalid("tie", 76)
def tie_other_dtype() -> bytes:
    """Tied tensors of u8 and i8."""
    return broken(TIED, {"tensor[1].dtype": tz.DTYPE_CODES["i8"]})


@invalid("tie", 76)
def tie_other_shape() -> bytes:
    """Tied tensors of shapes 2 x 3 and 3 x 2."""
    return broken(TIED, {"dimension[2].units": 3, "dimension[3].units": 2})


@invalid("tie", 76)
def tie_other_rank() -> bytes:
    """Tied tensors of shapes 2 x 3 and 6."""
    d = tz.draft({name: u8(2, 3) for name in "ab"}, ties=["ab"])
    d.records[1] = d.records[1]._replace(rank=1)
    d.bodies[tz.SHAPES] = struct.pack("<QQQ", 2, 3, 6)
    return d.place().pack()


@invalid("tie", 76)
def tie_other_size() -> bytes:
    """Tied tensors of 6 and 7 bytes, of a dtype that does not say which is right."""
    values: dict[str, int | bytes] = {f"tensor[{i}].dtype": 0x0100 for i in (0, 1)}
    return broken(TIED, {**values, "tensor[1].decoded_size": 7})


@invalid("tie", 76)
def tie_other_content_digest() -> bytes:
    """Tied tensors with different content digests."""
    return broken(TIED, {"tensor[1].content_digest": bytes(32)}, keep={"contents"})


@invalid("tie", 77)
def tie_of_empty_tensors() -> bytes:
    """Tensors without bytes share nothing."""
    data = tz.encode({"a": u8(0), "b": u8(0)})
    return broken(data, {"tensor[1].tie": 0})


@invalid("layout", 33)
def empty_data_offset() -> bytes:
    """A tensor without bytes has a data_offset."""
    return broken(HOLLOW, {"tensor[0].data_offset": get(HOLLOW, "preamble.file_size")})


@invalid("layout", 33)
def empty_stored_size() -> bytes:
    """A tensor without bytes has a stored_size."""
    return broken(HOLLOW, {"tensor[0].stored_size": 1})


@invalid("layout", 33)
def empty_chunk_begin() -> bytes:
    """A tensor without bytes has a chunk_begin."""
    return broken(HOLLOW, {"tensor[0].chunk_begin": 1})


@invalid("layout", 33)
def empty_run_digest() -> bytes:
    """A tensor without bytes has a run_digest of zeros, not that of nothing."""
    return broken(HOLLOW, {"tensor[0].run_digest": bytes(32)}, keep={"runs"})


@invalid("layout", 33)
def tied_data_offset() -> bytes:
    """A tied tensor repeats its owner's data_offset."""
    return broken(TIED, {"tensor[1].data_offset": get(TIED, "tensor[0].data_offset")})


@invalid("layout", 33)
def tied_stored_size() -> bytes:
    """A tied tensor repeats its owner's stored_size."""
    return broken(TIED, {"tensor[1].stored_size": 6})


@invalid("layout", 33)
def tied_run_digest() -> bytes:
    """A tied tensor repeats its owner's run_digest."""
    d = tz.draft({name: u8(2, 3) for name in "ab"}, ties=["ab"]).place()
    d.pack()
    return broken(TIED, {"tensor[1].run_digest": d.records[0].run_digest}, keep={"runs"})
