"""Files whose chunks are wrong: TZ1-38 to TZ1-47, and TZ1-60."""

from __future__ import annotations

import tz_reference as tz
from tz_kit import broken, get, patch, splice

from scenarios.base import CHUNK_SIZE, HOLLOW, ONE, TWO, TWO_CHUNKS, invalid, pattern, u8

FIRST_OF_TWO = pattern(3)  # what TWO's first tensor holds
TIERED_FLAG = 1 << 1


@invalid("checksum", 38)
def run_digest() -> bytes:
    """A run's digest is wrong."""
    return broken(ONE, {"tensor[0].run_digest": bytes(32)}, keep={"runs"})


@invalid("checksum", 38, released=FIRST_OF_TWO)
def run_changed() -> bytes:
    """A bit of the second tensor's run is flipped. The first tensor is loaded before."""
    return patch(TWO, "chunk[1].crc", get(TWO, "chunk[1].crc") ^ 1)


@invalid("checksum", 38)
def runs_exchanged() -> bytes:
    """Two runs, and the digests in their tensors' records, are exchanged: that of a run of another
    tensor is not accepted for being a right one."""
    begin = get(TWO, "preamble.open_size")
    return splice(TWO, begin, begin + 96, TWO[begin + 48 : begin + 96] + TWO[begin : begin + 48])


@invalid("reserved", 39)
def chunk_reserved_first() -> bytes:
    """The first reserved byte of a chunk's entry is not zero."""
    return broken(ONE, {"chunk[0].reserved": b"\x01" + bytes(6)})


@invalid("reserved", 39)
def chunk_reserved_last() -> bytes:
    """The last reserved byte of a chunk's entry is not zero."""
    return broken(ONE, {"chunk[0].reserved": bytes(6) + b"\x01"})


@invalid("reserved", 39)
def chunk_reserved_of_second() -> bytes:
    """A reserved byte of a tensor's second chunk is not zero: no byte of the first is used."""
    return broken(TWO_CHUNKS, {"chunk[1].reserved": b"\x01" + bytes(6)})


@invalid("feature", 40)
def chunk_codec_2() -> bytes:
    """A codec that no table lists."""
    return broken(ONE, {"chunk[0].codec": 2})


@invalid("feature", 40)
def chunk_codec_255() -> bytes:
    """The last codec that there could be."""
    return broken(ONE, {"chunk[0].codec": 255})


@invalid("feature", 40)
def chunk_codec_not_announced() -> bytes:
    """Codec 1 without its incompatible flag."""
    return broken(ONE, {"chunk[0].codec": tz.TIERED})


def tiered(stored_length: int) -> bytes:
    """ONE, whose chunk is said to be of codec 1 and to have this length."""
    at = get(ONE, "tensor[0].data_offset")
    stored = pattern(stored_length)
    values = {
        "preamble.incompatible_flags": TIERED_FLAG,
        "preamble.file_size": at + max(1, min(stored_length, 3)),
        "tensor[0].stored_size": max(1, min(stored_length, 3)),
        "chunk[0].codec": tz.TIERED,
        "chunk[0].stored_length": stored_length,
    }
    return broken((ONE[:at] + stored.ljust(1, b"\0"))[: at + 3], values)


@invalid("chunk", 41)
def raw_chunk_short() -> bytes:
    """A raw chunk is a byte shorter than what it decodes to."""
    return broken(ONE, {"chunk[0].stored_length": 2})


@invalid("chunk", 41)
def raw_chunk_long() -> bytes:
    """A raw chunk is a byte longer than what it decodes to, and goes on behind the file."""
    return broken(ONE, {"chunk[0].stored_length": 4})


@invalid("chunk", 41)
def raw_chunk_0() -> bytes:
    """A raw chunk of no bytes."""
    return broken(ONE, {"chunk[0].stored_length": 0})


@invalid("chunk", 41)
def raw_chunk_huge() -> bytes:
    """A raw chunk of 2^32 - 1 bytes."""
    return broken(ONE, {"chunk[0].stored_length": 0xFFFFFFFF})


@invalid("chunk", 41)
def raw_chunks_exchanged() -> bytes:
    """A tensor's short chunk comes first. Their sum is right."""
    values = {"chunk[0].stored_length": 100, "chunk[1].stored_length": CHUNK_SIZE}
    return broken(TWO_CHUNKS, values)


@invalid("chunk", 41, requires="tiered")
def tiered_chunk_0() -> bytes:
    """A compressed chunk of no bytes."""
    return tiered(0)


@invalid("chunk", 41, requires="tiered")
def tiered_chunk_of_decoded_length() -> bytes:
    """A compressed chunk as long as what it decodes to: it should be raw."""
    return tiered(3)


@invalid("chunk", 41, requires="tiered")
def tiered_chunk_over_decoded_length() -> bytes:
    """A compressed chunk longer than what it decodes to."""
    return tiered(4)


@invalid("chunk", 42)
def run_ends_after_stored_size() -> bytes:
    """The last tensor's chunk ends one byte behind stored_size, which is the end of the file."""
    values = {"tensor[0].stored_size": 2, "preamble.file_size": len(ONE) - 1}
    return broken(ONE[:-1], values)


@invalid("chunk", 42)
def run_ends_in_next_tensor() -> bytes:
    """The first tensor's chunk ends behind its stored_size. The second tensor is where it should
    be, since both ends are followed by padding."""
    return broken(TWO, {"tensor[0].stored_size": 2})


@invalid("chunk", 42, requires="tiered")
def run_ends_before_stored_size() -> bytes:
    """A compressed chunk ends one byte before stored_size."""
    return broken(tiered(2), {"chunk[0].stored_length": 1})


@invalid("checksum", 43)
def chunk_bit_flip() -> bytes:
    """A bit of a chunk is flipped."""
    return ONE[:-1] + bytes([ONE[-1] ^ 0x80])


@invalid("checksum", 43, released=FIRST_OF_TWO)
def chunk_bit_flip_in_second_tensor() -> bytes:
    """A bit of the second tensor is flipped. The first may have been handed out."""
    return TWO[:-1] + bytes([TWO[-1] ^ 1])


@invalid("checksum", 43)
def chunk_bit_flip_in_second_chunk() -> bytes:
    """A bit of a tensor's second chunk is flipped: the first is not handed out either."""
    return TWO_CHUNKS[:-1] + bytes([TWO_CHUNKS[-1] ^ 1])


@invalid("checksum", 43)
def chunk_zeroed() -> bytes:
    """A chunk has become zeros, as after a crash."""
    return ONE[:-3] + bytes(3)


@invalid("checksum", 43)
def chunk_crc() -> bytes:
    """Only the CRC of a chunk is wrong, and everything above it agrees with that."""
    return broken(ONE, {"chunk[0].crc": get(ONE, "chunk[0].crc") ^ 1}, keep={"chunks"})


@invalid("checksum", 85)
def chunk_digest() -> bytes:
    """Only the digest of a chunk is wrong: someone has changed a byte and adjusted the CRC."""
    return broken(ONE, {"chunk[0].digest": bytes(32)}, keep={"chunks"})


@invalid("checksum", 43)
def chunks_exchanged() -> bytes:
    """Two chunks of equal length are exchanged."""
    data = tz.encode({"a": u8(3), "b": u8(3, first=9)})
    at = get(data, "tensor[0].data_offset")
    return data[:at] + data[-3:] + data[at + 3 : -3] + data[at : at + 3]


@invalid("codec", 44, "TZ1T-2", requires="tiered")
def tiered_chunk_of_1_byte() -> bytes:
    """A compressed chunk of one byte, too short for the codec's own header."""
    return tiered(1)


@invalid("reserved", 45, released=FIRST_OF_TWO + pattern(24))
def padding_before_data() -> bytes:
    """The first byte behind the header is not zero."""
    return splice(TWO, at := get(TWO, "preamble.header_size"), at + 1, b"\x01")


@invalid("reserved", 45, released=FIRST_OF_TWO + pattern(24))
def padding_between_tensors() -> bytes:
    """The first byte behind the first tensor is not zero."""
    at = get(TWO, "tensor[0].data_offset") + 3
    return splice(TWO, at, at + 1, b"\x01")


@invalid("reserved", 45, released=FIRST_OF_TWO + pattern(24))
def padding_before_last_tensor() -> bytes:
    """The last byte before the last tensor is not zero."""
    at = get(TWO, "tensor[1].data_offset")
    return splice(TWO, at - 1, at, b"\x80")


@invalid("content", 46)
def content_digest() -> bytes:
    """A tensor's content digest is not that of its bytes."""
    return broken(ONE, {"tensor[0].content_digest": bytes(32)}, keep={"contents"})


@invalid("content", 46, released=FIRST_OF_TWO)
def content_digest_of_second() -> bytes:
    """The second tensor's content digest is wrong."""
    return broken(TWO, {"tensor[1].content_digest": bytes(32)}, keep={"contents"})


@invalid("content", 46)
def content_digest_of_empty_tensor() -> bytes:
    """The content digest of a tensor without bytes is zeros."""
    return broken(HOLLOW, {"tensor[0].content_digest": bytes(32)}, keep={"contents"})


@invalid("content", 46)
def content_digest_of_stored_bytes_with_name() -> bytes:
    """Two tensors have each other's content digests, as if they were renamed."""
    data = tz.encode({"a": u8(3), "b": u8(3, first=9)})
    d = tz.draft({"a": u8(3), "b": u8(3, first=9)})
    digests = [r.content_digest for r in d.records]
    values = {"tensor[0].content_digest": digests[1], "tensor[1].content_digest": digests[0]}
    return broken(data, values, keep={"contents"})


@invalid("feature", 47, requires="tiered", released=pattern(3))
def codec_flag_unused() -> bytes:
    """The flag of codec 1 is set, and no chunk uses the codec."""
    return broken(ONE, {"preamble.incompatible_flags": TIERED_FLAG})


@invalid("feature", 86, requires="tiered")
def dtype_extensible_tiered() -> bytes:
    """A chunk of dtype 0x0100 with a codec other than raw: how to decode it, the dtype says."""
    return broken(tiered(2), {"tensor[0].dtype": 0x0100})


@invalid("checksum", 43, requires="tiered")
def dtype_extensible_tiered_crc() -> bytes:
    """The same with a wrong CRC, which comes first."""
    values = {"tensor[0].dtype": 0x0100, "chunk[0].crc": 0}
    return broken(tiered(2), values, keep={"chunks"})


@invalid("checksum", 43, released=FIRST_OF_TWO)
def dtype_extensible_crc() -> bytes:
    """The second tensor's dtype is not known, and a verifier finds its wrong CRC all the same."""
    return broken(TWO, {"tensor[1].dtype": 0x01FF, "chunk[1].crc": 0}, keep={"chunks"})


@invalid("content", 46)
def dtype_extensible_content() -> bytes:
    """A content digest is wrong whatever the dtype."""
    values: dict[str, int | bytes] = {
        "tensor[0].dtype": 0x0100,
        "tensor[0].content_digest": bytes(32),
    }
    return broken(ONE, values, keep={"contents"})
