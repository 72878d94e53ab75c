"""Files whose names, shapes, runs or data do not lie where they should: TZ1-34 to TZ1-37."""

from __future__ import annotations

import tz_reference as tz
from tz_hash import blake3
from tz_kit import broken, get

from scenarios.base import EMPTY, ONE, TIED, TWO, invalid, u8


@invalid("layout", 34)
def names_too_long() -> bytes:
    """A byte of the names section belongs to no name."""
    d = tz.draft({"x": u8(3)})
    d.bodies[tz.NAMES] += b"y"
    return d.place().pack()


@invalid("layout", 34)
def names_without_tensors() -> bytes:
    """A name, and no tensors."""
    d = tz.draft({})
    d.bodies[tz.NAMES] = b"x"
    return d.place().pack()


@invalid("layout", 34)
def shapes_too_long() -> bytes:
    """A dimension belongs to no shape."""
    d = tz.draft({"x": u8(3)})
    d.bodies[tz.SHAPES] += bytes(8)
    return d.place().pack()


@invalid("order", 35)
def order_twice() -> bytes:
    """Both tensors are the first."""
    return broken(TWO, {"tensor[1].order": 0})


@invalid("order", 35)
def order_twice_of_tied() -> bytes:
    """A tied tensor has the order of its owner."""
    return broken(TIED, {"tensor[1].order": 0})


@invalid("layout", 36)
def data_offset_too_late() -> bytes:
    """The data begin 64 bytes later than they may, and everything agrees with that."""
    at = get(ONE, "tensor[0].data_offset")
    values = {"tensor[0].data_offset": at + 64, "preamble.file_size": len(ONE) + 64}
    return broken(ONE[:at] + bytes(64) + ONE[at:], values)


@invalid("layout", 36)
def data_offset_in_header() -> bytes:
    """The data are said to lie in the chunk table."""
    return broken(ONE, {"tensor[0].data_offset": get(ONE, "preamble.open_size")})


@invalid("layout", 36)
def data_offset_0() -> bytes:
    """The data are said to begin with the magic."""
    return broken(ONE, {"tensor[0].data_offset": 0})


@invalid("layout", 36)
def data_not_aligned() -> bytes:
    """The data follow the header at once, at no multiple of 64."""
    at = get(ONE, "preamble.header_size")
    values = {"tensor[0].data_offset": at, "preamble.file_size": at + 3}
    return broken(ONE[:at] + ONE[-3:], values)


@invalid("layout", 36)
def data_shared() -> bytes:
    """Two tensors of equal content share their data without a tie."""
    data = tz.encode({"a": u8(3), "b": u8(3)})
    return broken(data, {"tensor[1].data_offset": get(data, "tensor[0].data_offset")})


@invalid("layout", 36)
def data_in_name_order() -> bytes:
    """The data lie in the order of the names, but the orders say the other."""
    return broken(TWO, {"tensor[0].order": 1, "tensor[1].order": 0})


def one_of_4096() -> tz.Draft:
    return tz.draft({"x": u8(4096)}).place()


@invalid("layout", 36)
def data_of_4096_bytes_at_64() -> bytes:
    """A tensor of 4096 bytes begins at a multiple of 64 that is none of 4096."""
    data = one_of_4096().pack()
    values = {"tensor[0].data_offset": 704, "preamble.file_size": 704 + 4096}
    return broken(data[:704] + data[-4096:], values)


@invalid("layout", 36)
def data_of_4095_bytes_at_4096() -> bytes:
    """A tensor of 4095 bytes begins at a multiple of 4096."""
    data = tz.encode({"x": u8(4095)})
    values = {"tensor[0].data_offset": 4096, "preamble.file_size": 4096 + 4095}
    return broken(data[:704] + bytes(4096 - 704) + data[704:], values)


@invalid("layout", 36)
def chunk_begin_too_late() -> bytes:
    """The only run begins with the second chunk."""
    return broken(ONE, {"tensor[0].chunk_begin": 1})


@invalid("layout", 36)
def chunk_begin_huge() -> bytes:
    """The only run begins at a chunk whose place, in bytes, is 0 modulo 2^64."""
    return broken(ONE, {"tensor[0].chunk_begin": 1 << 60})


@invalid("layout", 36)
def chunk_begin_shared() -> bytes:
    """Two tensors share a run."""
    return broken(TWO, {"tensor[1].chunk_begin": 0})


@invalid("layout", 36)
def chunk_begin_exchanged() -> bytes:
    """Two tensors have each other's run."""
    return broken(TWO, {"tensor[0].chunk_begin": 1, "tensor[1].chunk_begin": 0})


@invalid("layout", 36)
def stored_size_0() -> bytes:
    """Three bytes are stored in none."""
    values = {"tensor[0].stored_size": 0, "preamble.file_size": 704}
    return broken(ONE[:704], values)


@invalid("layout", 36)
def stored_size_over_decoded_size() -> bytes:
    """Three bytes are stored in four."""
    values = {"tensor[0].stored_size": 4, "preamble.file_size": len(ONE) + 1}
    return broken(ONE + b"\0", values)


@invalid("layout", 36)
def stored_size_below_chunk_count() -> bytes:
    """Two chunks in 64 bytes: the second has no room."""
    data = tz.encode({"x": u8(65537)}, chunk_size=65536)
    at = get(data, "tensor[0].data_offset")
    values = {"tensor[0].stored_size": 64, "preamble.file_size": at + 64}
    return broken(data[: at + 64], values)


@invalid("layout", 36)
def stored_size_wraps() -> bytes:
    """A tensor's end, modulo 2^64, lies before its begin."""
    size = (1 << 63) - 1
    values = {"tensor[0].dtype": 0x0100, "tensor[0].decoded_size": size}
    return broken(ONE, {**values, "tensor[0].stored_size": (1 << 64) - 704})


@invalid("layout", 37)
def chunk_without_tensor() -> bytes:
    """The chunk table has an entry that belongs to no tensor."""
    d = tz.draft({"x": u8(3)})
    d.chunks.append(tz.Chunk(3, 0, tz.RAW, bytes(7), blake3(b"")))
    return d.place().pack()


@invalid("layout", 37)
def chunks_missing() -> bytes:
    """The chunk table ends before the last tensor's run, as the counts say."""
    d = tz.draft({"a": u8(3), "b": u8(3)})
    d.place()
    run_of_b = d.runs.pop(1)
    d.chunks.pop(run_of_b.start)
    stored = d.stored.pop(run_of_b.start)
    b = d.records[1]
    data = d.place().pack()
    d.records[1] = b._replace(data_offset=tz.align(len(data), 64), stored_size=3, chunk_begin=1)
    d.preamble = d.preamble._replace(file_size=tz.align(len(data), 64) + 3)
    data = d.pack()
    return data + bytes(-len(data) % 64) + stored


@invalid("layout", 37)
def file_size_with_padding() -> bytes:
    """file_size counts 61 zero bytes after the last tensor."""
    return broken(ONE + bytes(61), {"preamble.file_size": len(ONE) + 61})


@invalid("layout", 37)
def file_size_without_data() -> bytes:
    """No tensors, and a byte behind the header."""
    return broken(EMPTY + b"\0", {"preamble.file_size": len(EMPTY) + 1})


@invalid("layout", 37)
def file_size_before_data_end() -> bytes:
    """The file ends before its last tensor, as file_size says."""
    return broken(ONE[:-1], {"preamble.file_size": len(ONE) - 1})
