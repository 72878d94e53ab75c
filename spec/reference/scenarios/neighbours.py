"""Files that break two rules that are neighbours in the order of checks, and sums that wrap."""

from __future__ import annotations

import struct

import tz_reference as tz
from tz_hash import blake3
from tz_kit import broken, get, splice

from scenarios.base import (
    HOLLOW,
    ONE,
    TIED,
    TWO,
    TWO_CHUNKS,
    extra_sections,
    invalid,
    metadata_file,
    named_file,
    node,
    pair,
    structure_file,
    tensor,
    u8,
)

RESERVED = b"\x01\0"

# Opening ------------------------------------------------------------------------------------------


@invalid("truncated", 10, pin="blake3:" + blake3(ONE[:128]).hex())
def pin_of_exactly_a_preamble() -> bytes:
    """The pinned preamble, and nothing behind it: the file has a digest, and is cut off."""
    return ONE[:128]


@invalid("layout", 9)
def order_sizes_before_truncated() -> bytes:
    """open_size lies in the directory, and the file is too short."""
    return broken(ONE[:-1], {"preamble.open_size": 128})


@invalid("reserved", 13)
def order_section_flags_before_unknown() -> bytes:
    """An unknown section is critical, and has a reserved flag."""
    return broken(extra_sections((7, 0, b"later")), {"directory[3].flags": 3})


@invalid("directory", 15)
def order_critical_before_record_size() -> bytes:
    """The tensor table is not critical, and its record_size is wrong."""
    return broken(ONE, {"directory[0].flags": 0, "directory[0].record_size": 119})


@invalid("directory", 16)
def order_record_size_before_whole_records() -> bytes:
    """The shapes' record_size is wrong, and their size no multiple of it."""
    return broken(ONE, {"directory[1].record_size": 7})


@invalid("directory", 17)
def order_missing_before_empty() -> bytes:
    """There are no names, and the metadata section is empty."""
    data = tz.encode({}, metadata={"a": ""})
    return broken(data, {"directory[2].type": 4, "directory[2].size": 1, "directory[3].size": 0})


@invalid("directory", 71)
def order_empty_before_place() -> bytes:
    """The metadata section is empty, and the first section begins too late."""
    data = tz.encode({}, metadata={"a": ""})
    return broken(data, {"directory[3].size": 0, "directory[0].offset": 1024})


@invalid("layout", 18)
def section_end_wraps_to_0() -> bytes:
    """A skipped section's end is 2^64, hence 0, where the next one is said to lie."""
    data = extra_sections((6, 0, b"later"))
    size = (1 << 64) - get(data, "directory[3].offset")
    return broken(data, {"directory[3].size": size, "directory[4].offset": 0}, keep={"chunks"})


@invalid("layout", 18)
def order_place_before_chunk_table() -> bytes:
    """The names lie elsewhere, and the chunk table ends behind header_size."""
    values = {"directory[2].offset": get(ONE, "directory[2].offset") + 64}
    return broken(ONE, {**values, "directory[3].size": 96})


@invalid("layout", 72)
def order_chunk_table_before_counts() -> bytes:
    """The chunk table ends behind header_size, and has an entry more than chunk_count says."""
    return broken(ONE, {"directory[3].size": 96})


@invalid("layout", 73)
def order_counts_before_padding() -> bytes:
    """tensor_count is too small, and the padding before the sections is not zero."""
    at = get(TWO, "directory[1].offset")
    return broken(splice(TWO, at - 1, at, b"\x01"), {"preamble.tensor_count": 1})


# The tensor table ---------------------------------------------------------------------------------


@invalid("reserved", 21)
def order_record_reserved_before_name() -> bytes:
    """A record's reserved field is not zero, and its name lies elsewhere."""
    return broken(ONE, {"tensor[0].reserved": RESERVED, "tensor[0].name_offset": 1})


@invalid("layout", 22)
def order_name_place_before_name() -> bytes:
    """A name is not UTF-8, and lies elsewhere."""
    return broken(named_file(b"\xff"), {"tensor[0].name_offset": 1})


@invalid("name", 23)
def order_name_before_order_of_names() -> bytes:
    """A name is not UTF-8, and does not come after the one before it."""
    return named_file(b"\xfe", b"\xc0")


@invalid("name", 23)
def order_control_character_before_order_of_names() -> bytes:
    """A name has a control character, and does not come after the one before it."""
    return named_file(b"b", b"a\n")


@invalid("name", 24)
def order_names_before_dtype() -> bytes:
    """Two names are equal, and the second record's dtype is unknown."""
    return broken(named_file(b"a", b"a"), {"tensor[1].dtype": 0})


@invalid("feature", 25)
def order_dtype_before_layout() -> bytes:
    """A record's dtype is unknown, and so is its layout."""
    return broken(ONE, {"tensor[0].dtype": 0, "tensor[0].layout": 1})


@invalid("feature", 26)
def order_layout_before_rank() -> bytes:
    """A record's layout is unknown, and its rank is over the limit."""
    return broken(ONE, {"tensor[0].layout": 1, "tensor[0].rank": 65})


@invalid("limit", 27)
def order_rank_before_shape_place() -> bytes:
    """A record's rank is over the limit, and its shape lies elsewhere."""
    return broken(ONE, {"tensor[0].rank": 65, "tensor[0].shape_begin": 1})


@invalid("layout", 28)
def order_shape_place_before_product() -> bytes:
    """A shape lies elsewhere, and its product is over the limit."""
    return broken(ONE, {"tensor[0].shape_begin": 1, "dimension[0].units": 1 << 63})


@invalid("limit", 29)
def order_product_before_decoded_size() -> bytes:
    """The product of a shape is over the limit, and so is the size."""
    values = {"dimension[0].units": 1 << 63, "tensor[0].decoded_size": 1 << 63}
    return broken(ONE, values)


@invalid("limit", 74)
def order_decoded_size_before_shape() -> bytes:
    """A size is over the limit, and not that of the shape."""
    return broken(ONE, {"tensor[0].decoded_size": 1 << 63})


@invalid("shape", 30)
def order_shape_before_order() -> bytes:
    """A size is not that of the shape, and the order is too large."""
    return broken(ONE, {"tensor[0].decoded_size": 4, "tensor[0].order": 1})


@invalid("order", 31)
def order_order_before_tie() -> bytes:
    """A tensor's order is too large, and it is tied to itself."""
    return broken(TIED, {"tensor[1].order": 2, "tensor[1].tie": 1})


@invalid("tie", 75)
def order_chain_before_difference() -> bytes:
    """A tensor is tied to a tied one, which has another dtype."""
    data = tz.encode({name: u8(2) for name in "abc"}, ties=["abc"])
    return broken(data, {"tensor[2].tie": 1, "tensor[2].dtype": 3})


@invalid("tie", 76)
def order_difference_before_empty() -> bytes:
    """Tensors without bytes are tied, and have different dtypes."""
    data = tz.encode({"a": u8(0), "b": u8(0)})
    return broken(data, {"tensor[1].tie": 0, "tensor[1].dtype": 3})


@invalid("tie", 77)
def order_empty_tie_before_place() -> bytes:
    """Tensors without bytes are tied, and the second has a place."""
    data = tz.encode({"a": u8(0), "b": u8(0)})
    return broken(data, {"tensor[1].tie": 0, "tensor[1].data_offset": 64})


@invalid("layout", 33)
def order_place_before_last_name() -> bytes:
    """A tensor without bytes has a place, and a byte follows the last name."""
    data = broken(HOLLOW, {"directory[2].size": 2})
    return broken(data, {"tensor[0].data_offset": 64})


@invalid("layout", 34)
def order_last_name_before_permutation() -> bytes:
    """A byte follows the last name, and two tensors have the same order."""
    return broken(TWO, {"directory[2].size": 3, "tensor[1].order": 0})


@invalid("layout", 36)
def order_runs_before_end() -> bytes:
    """A run begins elsewhere, and the data end before file_size."""
    data = ONE + bytes(1)
    return broken(data, {"preamble.file_size": len(data), "tensor[0].chunk_begin": 1})


@invalid("layout", 36)
def data_end_wraps() -> bytes:
    """The first tensor ends at 2^64, modulo which the second's data lie at 0."""
    size = (1 << 64) - get(TWO, "tensor[0].data_offset")
    values = {"tensor[0].stored_size": size, "tensor[1].data_offset": 0}
    return broken(TWO, values)


# Structure and metadata ---------------------------------------------------------------------------


@invalid("structure", 80)
def node_tensor_twice_and_another_never() -> bytes:
    """As many tensor nodes as tensors; but two refer to the first, and none to the second."""
    first, again = node(tz.TENSOR, 0), node(tz.TENSOR, 0)
    return structure_file(node(tz.LIST, 2), first, again, tensor_count=2)


@invalid("structure", 48)
def order_cut_off_before_depth() -> bytes:
    """A node at depth 129 is not there."""
    return structure_file(*[node(tz.LIST, 1)] * 129)


@invalid("structure", 49)
def order_fixed_fields_before_key() -> bytes:
    """A node has no kind, and no key in a dict."""
    return structure_file(node(tz.DICT, 1), node(11))


@invalid("structure", 49)
def order_key_field_before_missing_key() -> bytes:
    """A child of a dict has no key, but a key field that is not 0."""
    return structure_file(node(tz.DICT, 1), tz.NODE.pack(tz.NONE, tz.NO_KEY, bytes(6), 1, 0))


@invalid("structure", 50)
def order_key_before_its_bytes() -> bytes:
    """The first node has a key, which ends behind the section."""
    return structure_file(tz.NODE.pack(tz.NONE, tz.STRING_KEY, bytes(6), 1, 0))


@invalid("structure", 51)
def order_key_before_tensor() -> bytes:
    """A key is not UTF-8, and the tensor below it not there."""
    return structure_file(node(tz.DICT, 1), node(tz.TENSOR, 0, key=b"\xff"))


@invalid("structure", 54)
def order_tensor_before_next_node() -> bytes:
    """A tensor is not there, and the next node is cut off."""
    return structure_file(node(tz.LIST, 2), node(tz.TENSOR, 0))


@invalid("structure", 79)
def order_last_node_before_missing_tensor() -> bytes:
    """A byte follows the last node, and no node refers to a tensor."""
    return structure_file(node(tz.NONE), b"\0", tensor_count=1)


@invalid("structure", 81)
def order_missing_tensor_before_keys() -> bytes:
    """No node refers to a tensor, and two keys are equal."""
    equal = [node(tz.NONE, key=b"k")] * 2
    return structure_file(node(tz.DICT, 2), *equal, tensor_count=1)


@invalid("structure", 54)
def order_tensor_before_keys() -> bytes:
    """Two keys are equal, and the tensor below the second is not there."""
    return structure_file(node(tz.DICT, 2), node(tz.NONE, key=1), node(tz.TENSOR, 0, key=1))


@invalid("limit", 58)
def order_number_of_pairs_before_their_bytes() -> bytes:
    """One pair more than the limit, and it is cut off."""
    return metadata_file(*(pair(f"{i:05}".encode()) for i in range(65536)), b"\0")


@invalid("metadata", 55)
def pair_sizes_cut_off_at_open_size() -> bytes:
    """The last pair is cut off where the chunk table begins, so that opening has no byte more."""
    return metadata_file(pair(b"k", b"v" * 51), b"\1\0\0\0")


@invalid("metadata", 55)
def order_pair_before_size_of_key() -> bytes:
    """A key of more bytes than the limit, which are not there."""
    return metadata_file(struct.pack("<II", 1025, 0))


@invalid("metadata", 56)
def order_text_before_order_of_keys() -> bytes:
    """A key is empty, and does not come after the one before it."""
    return metadata_file(pair(b"a"), pair(b""))


# Runs and chunks ----------------------------------------------------------------------------------


@invalid("feature", 40)
def order_codec_before_length() -> bytes:
    """A chunk's codec is unknown, and its length is 0."""
    return broken(ONE, {"chunk[0].codec": 9, "chunk[0].stored_length": 0})


@invalid("chunk", 41)
def order_length_before_end_of_run() -> bytes:
    """A chunk's length is wrong, and so is the end of its run."""
    return broken(ONE, {"chunk[0].stored_length": 2})


@invalid("chunk", 42)
def order_end_of_run_before_checksum() -> bytes:
    """The run ends before the tensor does, and the first chunk's CRC is wrong."""
    size = get(TWO_CHUNKS, "tensor[0].stored_size")
    values = {"tensor[0].stored_size": size - 1, "preamble.file_size": len(TWO_CHUNKS) - 1}
    return broken(TWO_CHUNKS[:-1], {**values, "chunk[0].crc": 0}, keep={"chunks"})


@invalid("checksum", 43)
def order_crc_before_digest() -> bytes:
    """A chunk's CRC is wrong, and so is its digest."""
    return broken(ONE, {"chunk[0].crc": 0, "chunk[0].digest": bytes(32)}, keep={"chunks"})


@invalid("checksum", 85, requires="tiered")
def order_digest_before_dtype() -> bytes:
    """A chunk's digest is wrong, and its codec cannot decode the dtype, which is unknown."""
    data = tz.encode({"x": tensor("u8", 4096)._replace(data=bytes(4096))}, codec="tiered")
    return broken(data, {"tensor[0].dtype": 0x0100, "chunk[0].digest": bytes(32)}, keep={"chunks"})


@invalid("feature", 86, requires="tiered")
def order_dtype_before_codec() -> bytes:
    """A chunk's codec cannot decode the dtype, which is unknown, nor the stored bytes."""
    data = tz.encode({"x": tensor("u8", 4096)._replace(data=bytes(4096))}, codec="tiered")
    at = get(data, "tensor[0].data_offset")
    return broken(splice(data, at, at + 1, b"\x09"), {"tensor[0].dtype": 0x0100})
