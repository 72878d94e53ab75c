"""Structure and metadata that every reader accepts."""

from __future__ import annotations

import math

import tz_reference as tz
from tz_reference import TensorRef, encode

from scenarios.base import metadata_file, node, pair, structure_file, tensor, u8, valid

# Structure ----------------------------------------------------------------------------------------


@valid(48, 49)
def structure_none() -> bytes:
    """A file that holds nothing but None."""
    return encode({}, structure=None)


@valid(54)
def structure_tensor() -> bytes:
    """A file that holds one tensor and no container."""
    return encode({"": u8(3)}, structure=TensorRef(""))


@valid(49, 51)
def structure_leaves() -> bytes:
    """Every kind of leaf, in a list."""
    leaves = [None, False, True, 0, 0.0, "", b"", "text", bytes(range(4)), TensorRef("x")]
    return encode({"x": u8(3)}, structure=leaves)


@valid(49)
def structure_integers() -> bytes:
    """The smallest and the largest integer, and those around 0."""
    return encode({}, structure=[-(1 << 63), -1, 0, 1, (1 << 63) - 1])


@valid(67)
def structure_large_integers() -> bytes:
    """Integers beside those that fit 64 bits, a seed, the state of a generator, and both ends."""
    beside = [(1 << 63), -(1 << 63) - 1, (1 << 64) - 1, 1 << 64, (1 << 71) - 1, 1 << 71]
    state = {"state": 0xDA3E39CB94B95BDB_4BF8A3E5C2B3F1A7, "inc": -(1 << 71)}
    ends = ((1 << 8191) - 1, -(1 << 8191))
    return encode({}, structure=[*beside, state, ends])


@valid(52, 67)
def structure_large_integer_keys() -> bytes:
    """Large integers as keys, beside the integers and strings that they are not equal to."""
    keys = (1 << 63, -(1 << 63) - 1, 0, "\0" * 8 + "\1", 1 << 64, (1 << 8191) - 1, (1 << 63) - 1)
    return encode({}, structure={key: i for i, key in enumerate(keys)})


@valid(49)
def structure_floats() -> bytes:
    """Floats are kept by their bits: both zeros, infinities, NaN with a payload, a denormal."""
    bits = (0, 1 << 63, 0x7FF0 << 48, 0xFFF0 << 48, 0x7FF8_0000_0000_0001, 1, 0x400921FB54442D18)
    return structure_file(node(tz.LIST, len(bits)), *(node(tz.FLOAT, b) for b in bits))


@valid(49, 50)
def structure_empty_containers() -> bytes:
    """Containers without children."""
    return encode({}, structure=[{}, [], ()])


@valid(48, 50, 54)
def structure_nested() -> bytes:
    """The state of an optimizer."""
    state = {
        0: {"step": TensorRef("step"), "exp_avg": TensorRef("avg")},
        1: {"step": 7, "exp_avg": None},
    }
    groups = [{"lr": 0.001, "betas": (0.9, 0.999), "params": [0, 1], "fused": True}]
    tensors = {"step": tensor("f32"), "avg": tensor("f32", 2, 2)}
    return encode(tensors, structure={"state": state, "param_groups": groups})


@valid(52)
def structure_keys() -> bytes:
    """Keys need no order, a string is never equal to an integer, and any string is a key."""
    keys = ("b", "a", "", "1", 1, -1, 0, "line\nend", "nul\0", "\u00e9", (1 << 63) - 1, -(1 << 63))
    return encode({}, structure={key: i for i, key in enumerate(keys)})


@valid(52)
def structure_equal_keys_in_two_dicts() -> bytes:
    """The same key in a dict and in a dict inside it."""
    return encode({}, structure={"a": {"a": {"a": 1}}, "b": {"a": 2}})


@valid(51)
def structure_strings() -> bytes:
    """Strings may hold control characters, and characters of up to four bytes."""
    return encode({}, structure=["\0\x01\n\x7f\x80\u00e9\u20ac\U0010ffff"])


@valid(53)
def structure_depth_128() -> bytes:
    """A node at depth 128, in 128 containers, the most there may be."""
    return structure_file(*[node(tz.LIST, 1)] * 128, node(tz.NONE))


@valid(53)
def structure_depth_128_empty_list() -> bytes:
    """The node at depth 128 is a container without children."""
    return structure_file(*[node(tz.TUPLE, 1)] * 128, node(tz.LIST))


@valid(54)
def structure_in_other_order() -> bytes:
    """The nodes refer to tensors in neither their order nor that of their names."""
    tensors = {"b": u8(1), "c": u8(2), "a": u8(3)}
    return encode(tensors, structure=[TensorRef("a"), TensorRef("c"), TensorRef("b")])


@valid(54)
def structure_with_tie() -> bytes:
    """Shared tensors are two names, two nodes, and a tie."""
    tensors = {"decoder": u8(3), "encoder": u8(3)}
    structure = {"encoder": TensorRef("encoder"), "decoder": TensorRef("decoder")}
    return encode(tensors, ties=[tensors], structure=structure)


# Metadata -----------------------------------------------------------------------------------------


@valid(55, 57)
def metadata() -> bytes:
    """Three pairs."""
    return encode({}, metadata={"license": "MIT", "author": "someone", "License": "mit"})


@valid(56)
def metadata_value_empty() -> bytes:
    """A value is empty."""
    return encode({}, metadata={"key": ""})


@valid(56)
def metadata_value_with_controls() -> bytes:
    """A value holds line ends, U+0000, and characters of up to four bytes."""
    return encode({}, metadata={"card": "# Title\r\n\0\u00e9\u20ac\U0001f600"})


@valid(56, 57)
def metadata_keys_in_byte_order() -> bytes:
    """Keys with characters of one to four bytes, and prefixes."""
    keys = ("a", "a b", "ab", "\u00e9", "\uff5e", "\U00010000")
    return encode({}, metadata=dict.fromkeys(keys, "-"))


@valid(36)
def example() -> bytes:
    """The file whose description the kit's README shows."""
    structure = {"weight": TensorRef("w")}
    tensors = {"w": tensor("bf16", 8, 4)}
    return encode(tensors, structure=structure, metadata={"license": "MIT"})


@valid(58)
def metadata_of_65536_pairs() -> bytes:
    """As many pairs as there may be."""
    return metadata_file(*(pair(f"{i:05}".encode()) for i in range(65536)))


@valid(83)
def metadata_key_of_1024_bytes() -> bytes:
    """A key of 1024 bytes, the most there may be."""
    return encode({}, metadata={"k" * 1024: "v"})


@valid(59)
def metadata_key_reserved() -> bytes:
    """A key of a later version: a reader accepts it, a writer of this version writes none."""
    return metadata_file(pair(b"tz.", b"later"), pair(b"tz.later", b"later"))


@valid(48, 55, 64)
def everything() -> bytes:
    """Tensors in their writer's order, a tie, a scalar, an empty tensor, structure, metadata."""
    tensors = {
        "model.embed": tensor("bf16", 8, 4),
        "model.bias": tensor("f32", 4, first=100),
        "model.empty": tensor("i64", 0),
        "model.head": tensor("bf16", 8, 4),
        "model.scale": tensor("f64"),
    }
    parts = [TensorRef(name) for name in tensors]
    structure = {"epoch": 3, "model": parts, "loss": math.pi, "tags": ("a", b"b", None, False)}
    ties = [("model.embed", "model.head")]
    return encode(tensors, ties=ties, structure=structure, metadata={"step": "1000"})
