"""Tensors that are loaded by name: what is checked, and in which order."""

from __future__ import annotations

import tz_reference as tz
from tz_kit import broken, get, patch, splice

from scenarios.base import ONE, TIED, TWO, TWO_CHUNKS, invalid, u8, valid

UNKNOWN = broken(TWO, {"tensor[0].dtype": 0x0123})  # "a"; "b" is f32


def flipped(data: bytes, path: str) -> bytes:
    """`data` with the first byte of a tensor's data changed."""
    at = get(data, path)
    return splice(data, at, at + 1, bytes([data[at] ^ 0xFF]))


@valid(38, 43, 44, operation="load x")
def load_of_two_chunks() -> bytes:
    """A tensor of two chunks."""
    return TWO_CHUNKS


@valid(32, operation="load b")
def load_of_a_tied_tensor() -> bytes:
    """A tied tensor has the bytes of its owner."""
    return TIED


@valid(62, operation="load a")
def load_beside_a_broken_tensor() -> bytes:
    """Another tensor's run is changed, which does not matter."""
    return patch(TWO, "chunk[1].reserved", b"\x01" * 7)


@valid(45, operation="load b")
def load_beside_changed_padding() -> bytes:
    """Padding in the data region is not zero; only whole-file operations look at it."""
    at = get(TWO, "tensor[1].data_offset")
    return splice(TWO, at - 1, at, b"\x01")


@valid(46, operation="load x")
def load_with_a_wrong_content_digest() -> bytes:
    """The tensor's content digest is wrong, which loading does not compare."""
    return broken(ONE, {"tensor[0].content_digest": bytes(32)}, keep={"contents"})


@valid(60, operation="load b")
def load_beside_an_unknown_dtype() -> bytes:
    """Another tensor's dtype is unknown to the reader."""
    return UNKNOWN


@invalid("feature", 60, operation="load a")
def load_of_an_unknown_dtype() -> bytes:
    """A tensor of a dtype that the reader does not know has no values."""
    return UNKNOWN


@invalid("feature", 60, operation="load x")
def load_of_an_unknown_dtype_without_bytes() -> bytes:
    """Not even an empty tensor has values of a dtype that the reader does not know."""
    return broken(tz.encode({"x": u8(0)}), {"tensor[0].dtype": 0x0100})


@invalid("feature", 60, operation="load b")
def load_of_an_unknown_dtype_that_is_tied() -> bytes:
    """A tied tensor is loaded as its owner, whose dtype is its own."""
    return broken(TIED, {"tensor[0].dtype": 0x0100, "tensor[1].dtype": 0x0100})


@invalid("feature", 60, operation="load a")
def order_load_dtype_before_run() -> bytes:
    """The dtype is unknown, and the run is changed."""
    return patch(UNKNOWN, "chunk[0].crc", 0)


@invalid("feature", 60, operation="load a")
def order_load_dtype_before_reserved() -> bytes:
    """The dtype is unknown, and a reserved byte of the chunk entry is not zero."""
    return broken(UNKNOWN, {"chunk[0].reserved": b"\x01" * 7})


@invalid("feature", 60, operation="load a")
def order_load_dtype_before_codec() -> bytes:
    """The dtype is unknown, and so is the codec."""
    return broken(UNKNOWN, {"chunk[0].codec": 9})


@invalid("feature", 60, operation="load a")
def order_load_dtype_before_stored_bytes() -> bytes:
    """The dtype is unknown, and a stored byte is changed."""
    return flipped(UNKNOWN, "tensor[0].data_offset")


@invalid("checksum", 38, operation="load x")
def order_load_run_before_stored_bytes() -> bytes:
    """The run is changed, in a reserved byte, and so is a stored byte."""
    return flipped(patch(ONE, "chunk[0].reserved", b"\x01" * 7), "tensor[0].data_offset")


@invalid("chunk", 42, operation="load x")
def order_load_whole_run_before_stored_bytes() -> bytes:
    """The first chunk is changed, and the run ends before the tensor does."""
    size = get(TWO_CHUNKS, "tensor[0].stored_size")
    values = {"tensor[0].stored_size": size - 1, "preamble.file_size": len(TWO_CHUNKS) - 1}
    return flipped(broken(TWO_CHUNKS[:-1], values), "tensor[0].data_offset")


@invalid("checksum", 43, operation="load x")
def load_of_changed_stored_bytes() -> bytes:
    """A stored byte is changed."""
    return flipped(ONE, "tensor[0].data_offset")


@invalid("checksum", 38, operation="load b")
def load_of_a_tied_tensor_whose_run_is_changed() -> bytes:
    """A tied tensor is loaded as its owner, whose run is changed."""
    return patch(TIED, "chunk[0].crc", 0)


@invalid("metadata", 56, operation="load x")
def order_load_opens_first() -> bytes:
    """A metadata key is a control character, and the dtype of the tensor is unknown."""
    data = tz.encode({"x": u8(3)}, metadata={"a": ""})
    return broken(data, {"tensor[0].dtype": 0x0100, "key of pair[0]": b"\0"})
