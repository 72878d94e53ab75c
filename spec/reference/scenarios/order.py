"""Files that break two rules: the one that section 13 puts first gives the class of error."""

from __future__ import annotations

import struct

import tz_reference as tz
from tz_kit import broken, get, patch, reseal, splice

from scenarios.base import (
    EMPTY,
    ONE,
    TIED,
    TWO,
    extra_sections,
    invalid,
    metadata_file,
    named_file,
    node,
    pair,
    pattern,
    structure_file,
    u8,
)


@invalid("not-tz", 1)
def order_magic_before_size() -> bytes:
    """Not the magic, and shorter than a preamble."""
    return b"PK\x03\x04" + bytes(18)


@invalid("version", 3)
def order_version_before_crc() -> bytes:
    """Another major version, and a wrong CRC."""
    return patch(ONE, "preamble.version_major", 2)


@invalid("checksum", 4)
def order_crc_before_flags() -> bytes:
    """A wrong CRC, and an unknown incompatible flag."""
    return patch(ONE, "preamble.incompatible_flags", 1 << 5)


@invalid("feature", 5)
def order_flags_before_reserved() -> bytes:
    """An unknown incompatible flag, and reserved bytes that it may have given a meaning."""
    reserved = b"\x01" * 20
    return broken(ONE, {"preamble.incompatible_flags": 1 << 5, "preamble.reserved_2": reserved})


@invalid("reserved", 7)
def order_reserved_before_limit() -> bytes:
    """A reserved byte that is not zero, and chunks that are too large."""
    reserved = b"\x01\0\0"
    return broken(ONE, {"preamble.reserved_1": reserved, "preamble.chunk_size_log2": 27})


@invalid("limit", 8)
def order_limit_before_layout() -> bytes:
    """An open_size above its limit, and above header_size."""
    return broken(ONE, {"preamble.open_size": 1 << 33})


@invalid("layout", 9)
def order_layout_before_truncated() -> bytes:
    """A header_size above file_size, in a file that is too short."""
    size = len(ONE) + 64
    values = {"preamble.header_size": size + 1, "preamble.file_size": size}
    return broken(ONE, values)


@invalid("truncated", 10)
def order_truncated_before_directory() -> bytes:
    """The file is too short, and the directory's digest is wrong."""
    return broken(ONE[:-1], {"preamble.directory_digest": bytes(32)}, keep={"directory"})


@invalid("checksum", 11)
def order_directory_digest_before_type() -> bytes:
    """The directory's digest is wrong, and its first type is 0."""
    return patch(ONE, "directory[0].type", 0)


@invalid("directory", 12)
def order_type_before_flags() -> bytes:
    """An entry has type 0, and reserved flags."""
    return broken(ONE, {"directory[0].type": 0, "directory[0].flags": 0xFF})


@invalid("reserved", 13)
def order_entry_by_entry() -> bytes:
    """The first entry has a reserved flag, the second the type of the first."""
    return broken(ONE, {"directory[0].flags": 3, "directory[1].type": 1})


@invalid("feature", 14)
def order_unknown_before_missing() -> bytes:
    """The names are an unknown critical section instead: that is found before that they miss."""
    return broken(ONE, {"directory[2].type": 7})


@invalid("directory", 17)
def order_missing_before_place() -> bytes:
    """There is no chunk table, and the sections lie elsewhere."""
    data = extra_sections((0xFFFFFFFE, 0, bytes(48)))
    values: dict[str, int | bytes] = {"directory[3].offset": 0}
    data = broken(data, values)
    return reseal(patch(data, "preamble.section_count", 4))


@invalid("reserved", 19)
def order_padding_before_next_digest() -> bytes:
    """Padding before the shapes is not zero, and the shapes are changed."""
    at = get(ONE, "directory[1].offset")
    return splice(ONE, at - 1, at + 1, b"\x01\x04")


@invalid("checksum", 20)
def order_digest_before_next_padding() -> bytes:
    """The tensor table is changed, and padding after it is not zero."""
    at = get(ONE, "directory[0].offset") + 120
    return splice(ONE, at - 1, at + 1, b"\x01\x01")


@invalid("checksum", 20)
def order_digest_before_record() -> bytes:
    """The tensor table is changed, so that a dtype is unknown."""
    return patch(ONE, "tensor[0].dtype", 0)


@invalid("name", 23)
def order_name_before_dtype() -> bytes:
    """A record's name is not UTF-8, and its dtype is unknown."""
    return broken(named_file(b"\xff"), {"tensor[0].dtype": 0})


@invalid("feature", 25)
def order_record_by_record() -> bytes:
    """The first record's dtype is unknown, the second's name is the first's."""
    return broken(named_file(b"a", b"a"), {"tensor[0].dtype": 0})


@invalid("shape", 30)
def order_shape_before_tie() -> bytes:
    """A tied tensor's size is not that of its shape, nor of its owner."""
    return broken(TIED, {"tensor[1].decoded_size": 7})


@invalid("tie", 32)
def order_record_before_permutation() -> bytes:
    """A tensor is tied to itself, and has the order of another."""
    return broken(TIED, {"tensor[1].tie": 1, "tensor[1].order": 0})


@invalid("order", 35)
def order_permutation_before_places() -> bytes:
    """Two tensors have the same order, and the first's data_offset is wrong."""
    return broken(TWO, {"tensor[1].order": 0, "tensor[0].data_offset": 0})


@invalid("layout", 37)
def order_tensors_before_structure() -> bytes:
    """The data end before file_size, and the structure has a node of no kind."""
    data = structure_file(node(11)) + bytes(1)
    return broken(data, {"preamble.file_size": len(data)})


@invalid("structure", 49)
def order_structure_before_metadata() -> bytes:
    """The structure has a node of no kind, and the metadata an empty key."""
    d = tz.draft({}, structure=None, metadata={"a": ""})
    d.bodies[tz.STRUCTURE] = node(11)
    d.bodies[tz.METADATA] = pair(b"")
    return d.place().pack()


@invalid("structure", 51)
def order_nodes_before_tensors() -> bytes:
    """A string that is not UTF-8 comes before a tensor that is not there."""
    return structure_file(node(tz.LIST, 2), node(tz.STRING, 1, tail=b"\xff"), node(tz.TENSOR, 9))


@invalid("structure", 78)
def order_node_size_before_utf8() -> bytes:
    """A string goes on behind the section, and is not UTF-8."""
    return structure_file(node(tz.STRING, 3, tail=b"\xff\xff"))


@invalid("metadata", 56)
def order_pairs_in_turn() -> bytes:
    """The first key is empty, the second pair goes on behind the section."""
    return metadata_file(pair(b""), struct.pack("<II", 9, 9))


@invalid("metadata", 56)
def order_metadata_before_data() -> bytes:
    """A metadata key is empty, and a byte of a tensor is flipped."""
    d = tz.draft({"x": u8(3)}, metadata={"a": ""})
    d.bodies[tz.METADATA] = pair(b"")
    return d.place().pack()[:-1] + b"\xff"


@invalid("checksum", 38)
def order_run_before_reserved() -> bytes:
    """A run is changed, in a byte that must be zero."""
    return patch(ONE, "chunk[0].reserved", b"\x01" * 7)


@invalid("reserved", 39)
def order_reserved_before_codec() -> bytes:
    """A chunk's reserved byte is not zero, and its codec is unknown."""
    return broken(ONE, {"chunk[0].reserved": b"\x01" * 7, "chunk[0].codec": 9})


@invalid("feature", 40)
def order_entries_in_turn() -> bytes:
    """The first chunk's codec is unknown, the second chunk's length is wrong."""
    data = tz.encode({"x": u8((1 << 16) + 1)}, chunk_size=1 << 16)
    return broken(data, {"chunk[0].codec": 9, "chunk[1].stored_length": 0})


@invalid("checksum", 43)
def order_data_by_order() -> bytes:
    """Both tensors have a flipped bit. The one that is first by order is second by name, and its
    class of error would be the same; the second's run is wrong, too."""
    data = tz.encode({"b": u8(3), "a": u8(3)})
    at = get(data, "tensor[1].data_offset")
    data = patch(data, "chunk[1].reserved", b"\x01" * 7)
    return splice(data, at, at + 1, b"\xff")


@invalid("checksum", 43, released=pattern(3))
def order_tied_tensor_is_not_loaded_first() -> bytes:
    """The tied tensor is first by order, its owner last. Data are checked in their own order:
    the first fault is that of the tensor between, whose chunk is changed."""
    tensors = {"z": u8(3, first=7), "x": u8(3), "y": u8(3), "a": u8(3, first=7)}
    data = tz.encode(tensors, ties=["az"])
    at = get(data, "tensor[2].data_offset")
    data = splice(data, at, at + 1, b"\xff")
    return broken(data, {"chunk[2].reserved": b"\x01" * 7}, keep={"chunks", "contents"})


@invalid("content", 46)
def order_content_before_padding() -> bytes:
    """A content digest is wrong, and padding between tensors is not zero."""
    data = broken(TWO, {"tensor[0].content_digest": bytes(32)}, keep={"contents"})
    at = get(TWO, "tensor[1].data_offset")
    return splice(data, at - 1, at, b"\x01")


@invalid("reserved", 45, requires="tiered", released=pattern(1))
def order_padding_before_flag() -> bytes:
    """Padding in the data region is not zero, and the flag of a codec is not used."""
    data = tz.encode({"x": u8(0), "y": u8(1)})
    at = get(data, "preamble.header_size")
    data = splice(data, at, at + 1, b"\x01")
    return broken(data, {"preamble.incompatible_flags": 2})


@invalid("directory", 17)
def order_empty_file_of_sections() -> bytes:
    """There is no section, and the counts speak of tensors."""
    values = {"preamble.section_count": 0, "preamble.tensor_count": 5}
    return broken(EMPTY, values)
