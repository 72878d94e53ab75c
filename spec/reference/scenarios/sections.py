"""Files whose structure or metadata are wrong: TZ1-48 to TZ1-58, TZ1-67."""

from __future__ import annotations

import struct

import tz_reference as tz

from scenarios.base import (
    invalid,
    large_integer,
    large_integer_key,
    metadata_file,
    node,
    pair,
    structure_file,
)

# Structure ----------------------------------------------------------------------------------------


@invalid("structure", 48)
def node_cut_off() -> bytes:
    """The only node lacks its last byte."""
    return structure_file(node(tz.NONE)[:23])


@invalid("structure", 48)
def node_missing() -> bytes:
    """A list of two has one child."""
    return structure_file(node(tz.LIST, 2), node(tz.NONE))


@invalid("structure", 48)
def node_count_huge() -> bytes:
    """A list of 2^64 - 1 has one child."""
    return structure_file(node(tz.LIST, (1 << 64) - 1), node(tz.NONE))


@invalid("structure", 79)
def nodes_followed_by_byte() -> bytes:
    """A byte follows the last node."""
    return structure_file(node(tz.NONE), b"\0")


@invalid("structure", 79)
def nodes_followed_by_node() -> bytes:
    """A second node that is no one's child."""
    return structure_file(node(tz.NONE), node(tz.NONE))


@invalid("structure", 78)
def node_key_outside() -> bytes:
    """The key of the last node ends a byte behind the section."""
    return structure_file(node(tz.DICT, 1), node(tz.NONE, key=b"ab")[:-1])


@invalid("structure", 78)
def node_value_outside() -> bytes:
    """The string of the last node ends a byte behind the section."""
    return structure_file(node(tz.STRING, 3, tail=b"ab"))


@invalid("structure", 78)
def node_value_huge() -> bytes:
    """A string of 2^64 - 1 bytes."""
    return structure_file(node(tz.STRING, (1 << 64) - 1, tail=b"ab"))


@invalid("structure", 78)
def node_sizes_wrap() -> bytes:
    """The sizes of a key and of its value are together 2^64, hence 0 to a careless reader."""
    wrapping = tz.NODE.pack(tz.BYTES, tz.STRING_KEY, bytes(6), 1 << 63, 1 << 63)
    return structure_file(node(tz.DICT, 1), wrapping)


@invalid("structure", 49)
def node_kind_11() -> bytes:
    """A kind that no table lists."""
    return structure_file(node(11))


@invalid("structure", 49)
def node_kind_255() -> bytes:
    """The last kind that there could be."""
    return structure_file(node(255))


@invalid("structure", 49)
def node_key_kind_4() -> bytes:
    """A kind of key that no table lists."""
    child = tz.NODE.pack(tz.NONE, 4, bytes(6), 0, 0)
    return structure_file(node(tz.DICT, 1), child)


@invalid("structure", 49)
def node_reserved() -> bytes:
    """A reserved byte of a node is not zero."""
    return structure_file(tz.NODE.pack(tz.NONE, tz.NO_KEY, bytes(5) + b"\x01", 0, 0))


@invalid("structure", 49)
def node_none_with_value() -> bytes:
    """None with a value."""
    return structure_file(node(tz.NONE, 1))


@invalid("structure", 49)
def node_boolean_2() -> bytes:
    """A boolean that is neither false nor true."""
    return structure_file(node(tz.BOOLEAN, 2))


@invalid("structure", 49)
def node_boolean_in_high_byte() -> bytes:
    """A boolean whose low byte is 0 and whose high byte is 1."""
    return structure_file(node(tz.BOOLEAN, 1 << 56))


@invalid("structure", 49)
def node_key_without_kind() -> bytes:
    """A node without a key has a value in the key's field."""
    return structure_file(tz.NODE.pack(tz.NONE, tz.NO_KEY, bytes(6), 1, 0))


@invalid("structure", 50)
def first_node_with_key() -> bytes:
    """The first node has a key."""
    return structure_file(node(tz.NONE, key=b"a"))


@invalid("structure", 50)
def list_child_with_key() -> bytes:
    """A list's child has a string key."""
    return structure_file(node(tz.LIST, 1), node(tz.NONE, key=b"a"))


@invalid("structure", 50)
def tuple_child_with_key() -> bytes:
    """A tuple's child has an integer key."""
    return structure_file(node(tz.TUPLE, 1), node(tz.NONE, key=0))


@invalid("structure", 50)
def dict_child_without_key() -> bytes:
    """A dict's child has no key."""
    return structure_file(node(tz.DICT, 1), node(tz.NONE))


@invalid("structure", 51)
def node_key_not_utf8() -> bytes:
    """A key is not UTF-8."""
    return structure_file(node(tz.DICT, 1), node(tz.NONE, key=b"\xff"))


@invalid("structure", 51)
def node_key_surrogate() -> bytes:
    """A key holds a surrogate."""
    return structure_file(node(tz.DICT, 1), node(tz.NONE, key=b"\xed\xbf\xbf"))


@invalid("structure", 51)
def node_value_not_utf8() -> bytes:
    """A string ends inside a character."""
    return structure_file(node(tz.STRING, 2, tail=b"a\xc3"))


@invalid("structure", 52)
def dict_keys_equal() -> bytes:
    """A dict has the same string key twice, with another between."""
    keys = (b"a", b"b", b"a")
    return structure_file(node(tz.DICT, 3), *(node(tz.NONE, key=key) for key in keys))


@invalid("structure", 52)
def dict_integer_keys_equal() -> bytes:
    """A dict has the same integer key twice."""
    return structure_file(node(tz.DICT, 2), *[node(tz.NONE, key=-1)] * 2)


@invalid("structure", 52)
def dict_keys_equal_around_child() -> bytes:
    """The equal keys of a dict have another dict, which has the same key, between them."""
    return structure_file(
        node(tz.DICT, 2),
        node(tz.DICT, 1, key=b"a"),
        node(tz.NONE, key=b"a"),
        node(tz.NONE, key=b"a"),
    )


@invalid("limit", 53)
def depth_129() -> bytes:
    """A node at depth 129, in 129 lists."""
    return structure_file(*[node(tz.LIST, 1)] * 129, node(tz.NONE))


@invalid("limit", 53)
def depth_129_of_bad_node() -> bytes:
    """The node at depth 129 is of no kind, too: the depth counts first."""
    return structure_file(*[node(tz.TUPLE, 1)] * 129, node(11))


@invalid("structure", 54)
def node_tensor_out_of_range() -> bytes:
    """A node refers to the tensor behind the last."""
    return structure_file(node(tz.LIST, 2), node(tz.TENSOR, 0), node(tz.TENSOR, 1), tensor_count=1)


@invalid("structure", 54)
def node_tensor_huge() -> bytes:
    """A node refers to tensor 2^32, which is 0 in 32 bits."""
    return structure_file(node(tz.TENSOR, 1 << 32), tensor_count=1)


@invalid("structure", 54)
def node_tensor_without_tensors() -> bytes:
    """A node refers to the first tensor of a file that has none."""
    return structure_file(node(tz.TENSOR, 0))


@invalid("structure", 80)
def node_tensor_twice() -> bytes:
    """Two nodes refer to one tensor: that would have to be a tie."""
    return structure_file(node(tz.LIST, 2), *[node(tz.TENSOR, 0)] * 2, tensor_count=1)


@invalid("structure", 81)
def node_tensor_missing() -> bytes:
    """No node refers to the second tensor."""
    return structure_file(node(tz.LIST, 1), node(tz.TENSOR, 0), tensor_count=2)


@invalid("structure", 84)
def large_integer_of_8_bytes() -> bytes:
    """A large integer of eight bytes: an ordinary one holds it."""
    return structure_file(large_integer(b"\xff" * 7 + b"\x7f"))


@invalid("structure", 84)
def large_integer_of_no_bytes() -> bytes:
    """A large integer without bytes."""
    return structure_file(large_integer(b""))


@invalid("structure", 84)
def large_integer_0_in_9_bytes() -> bytes:
    """0 as a large integer of nine bytes."""
    return structure_file(large_integer(bytes(9)))


@invalid("structure", 84)
def large_integer_with_zero_byte() -> bytes:
    """A positive integer has a zero byte more than it needs."""
    return structure_file(large_integer(b"\xff" * 9 + b"\x7f\x00"))


@invalid("structure", 84)
def large_integer_with_ff_byte() -> bytes:
    """A negative integer has a byte 0xFF more than it needs."""
    return structure_file(large_integer(bytes(8) + b"\x80\xff"))


@invalid("limit", 67)
def large_integer_of_1025_bytes() -> bytes:
    """A large integer of 1025 bytes, one more than the limit."""
    return structure_file(large_integer(b"\x01" * 1025))


@invalid("limit", 67)
def large_integer_of_1025_zero_bytes() -> bytes:
    """0 in 1025 bytes: the limit counts first."""
    return structure_file(large_integer(bytes(1025)))


@invalid("structure", 78)
def large_integer_outside() -> bytes:
    """The bytes of a large integer end a byte behind the section."""
    return structure_file(large_integer(b"\x01" * 9)[:-1])


@invalid("structure", 78)
def large_integer_key_outside() -> bytes:
    """The bytes of a large integer that is a key end a byte behind the section."""
    return structure_file(node(tz.DICT, 1), large_integer_key(b"\x01" * 9)[:-1])


@invalid("structure", 84)
def large_integer_key_of_8_bytes() -> bytes:
    """A key that is a large integer has eight bytes."""
    return structure_file(node(tz.DICT, 1), large_integer_key(b"\x01" * 8))


@invalid("limit", 67)
def large_integer_key_of_1025_bytes() -> bytes:
    """A key that is a large integer has 1025 bytes."""
    return structure_file(node(tz.DICT, 1), large_integer_key(b"\x01" * 1025))


@invalid("structure", 84)
def large_integer_key_before_value() -> bytes:
    """The key is a large integer of eight bytes and the value one of 1025: the key counts first."""
    data = b"\x01" * 8 + b"\x01" * 1025
    return structure_file(
        node(tz.DICT, 1),
        tz.NODE.pack(tz.LARGE_INTEGER, tz.LARGE_INTEGER_KEY, bytes(6), 8, 1025) + data,
    )


@invalid("structure", 51)
def large_integer_key_not_before_text() -> bytes:
    """The key is text that is not UTF-8 and the value a large integer of no bytes."""
    return structure_file(node(tz.DICT, 1), node(tz.LARGE_INTEGER, 0, key=b"\xff"))


@invalid("structure", 52)
def dict_large_integer_keys_equal() -> bytes:
    """A dict has the same large integer as a key twice, with another between."""
    keys = (b"\x01" * 9, b"\x02" * 9, b"\x01" * 9)
    return structure_file(node(tz.DICT, 3), *map(large_integer_key, keys))


# Metadata -----------------------------------------------------------------------------------------


@invalid("metadata", 55)
def pair_sizes_cut_off() -> bytes:
    """Seven bytes, where a pair's two sizes need eight."""
    return metadata_file(pair(b"a", b"b"), bytes(7))


@invalid("metadata", 55)
def pair_key_outside() -> bytes:
    """A key ends a byte behind the section."""
    return metadata_file(struct.pack("<II", 2, 0) + b"a")


@invalid("metadata", 55)
def pair_value_outside() -> bytes:
    """A value ends a byte behind the section."""
    return metadata_file(struct.pack("<II", 1, 2) + b"ab")


@invalid("metadata", 55)
def pair_sizes_huge() -> bytes:
    """A key and a value of 2^32 - 1 bytes. The key breaks the limit too, but after this."""
    return metadata_file(struct.pack("<II", 0xFFFFFFFF, 0xFFFFFFFF) + b"ab")


@invalid("metadata", 55)
def pair_sizes_wrap() -> bytes:
    """The sizes of a key and of its value are together 2 modulo 2^32."""
    return metadata_file(struct.pack("<II", 1, 0xFFFFFFFF) + b"ab" + bytes(2))


@invalid("metadata", 56)
def pair_key_not_utf8() -> bytes:
    """A key is not UTF-8."""
    return metadata_file(pair(b"\xff", b"a"))


@invalid("metadata", 56)
def pair_value_not_utf8() -> bytes:
    """A value is not UTF-8."""
    return metadata_file(pair(b"a", b"\xff"))


@invalid("metadata", 56)
def pair_value_surrogate() -> bytes:
    """A value holds a surrogate."""
    return metadata_file(pair(b"a", b"\xed\xa0\x80"))


@invalid("metadata", 56)
def pair_key_empty() -> bytes:
    """A key is empty."""
    return metadata_file(pair(b"", b"a"))


@invalid("metadata", 56)
def pair_key_with_newline() -> bytes:
    """A key has a line end in it."""
    return metadata_file(pair(b"a\nb", b""))


@invalid("metadata", 56)
def pair_key_with_c1_control() -> bytes:
    """A key has U+0085 in it."""
    return metadata_file(pair(b"a\xc2\x85", b""))


@invalid("metadata", 57)
def pairs_equal() -> bytes:
    """A key occurs twice."""
    return metadata_file(pair(b"a", b"1"), pair(b"a", b"2"))


@invalid("metadata", 57)
def pairs_descending() -> bytes:
    """Keys in descending order."""
    return metadata_file(pair(b"b"), pair(b"a"))


@invalid("metadata", 57)
def pairs_prefix_after() -> bytes:
    """A key follows another that it is the beginning of."""
    return metadata_file(pair(b"ab"), pair(b"a"))


@invalid("limit", 58)
def pairs_65537() -> bytes:
    """One pair more than the limit."""
    return metadata_file(*(pair(f"{i:05}".encode()) for i in range(65537)))


@invalid("limit", 83)
def pair_key_1025() -> bytes:
    """A key of 1025 bytes, one more than the limit."""
    return metadata_file(pair(b"k" * 1025))


@invalid("limit", 83)
def pair_key_1025_not_utf8() -> bytes:
    """A key of 1025 bytes that is not UTF-8: its size counts first."""
    return metadata_file(pair(b"\xff" * 1025))
