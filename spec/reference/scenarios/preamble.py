"""Files whose preamble is wrong: TZ1-1 to TZ1-10, and TZ1-61."""

from __future__ import annotations

import zlib

from tz_hash import blake3, crc32c
from tz_kit import broken, get, patch, reseal

from scenarios.base import EMPTY, ONE, TWO_CHUNKS, invalid

OTHER_PIN = "blake3:" + blake3(b"another file").hex()


@invalid("not-tz", 1)
def magic_first_byte() -> bytes:
    """The first byte of the magic has lost its high bit, as in a 7-bit transfer."""
    return patch(ONE, "preamble.magic", bytes.fromhex("75545a460d0a1a0a"))


@invalid("not-tz", 1)
def magic_last_byte() -> bytes:
    """The last byte of the magic is another."""
    return patch(ONE, "preamble.magic", bytes.fromhex("f5545a460d0a1a0b"))


@invalid("not-tz", 1)
def magic_line_ends_to_unix() -> bytes:
    """A text-mode transfer has replaced CR LF by LF."""
    return ONE.replace(b"\r\n", b"\n", 1)


@invalid("not-tz", 1)
def magic_line_ends_to_dos() -> bytes:
    """A text-mode transfer has replaced LF by CR LF."""
    return ONE.replace(b"\x1a\n", b"\x1a\r\n", 1)


@invalid("not-tz", 1)
def magic_of_short_file() -> bytes:
    """A file of two bytes, the second of which is not the magic's."""
    return b"\xf5\x00"


@invalid("not-tz", 1)
def magic_of_safetensors() -> bytes:
    """A safetensors file with an empty header."""
    return b"\x08\0\0\0\0\0\0\0{}      "


@invalid("not-tz", 1)
def magic_of_pickle() -> bytes:
    """The pickle, protocol 2, of None."""
    return b"\x80\x02N."


@invalid("not-tz", 1)
def magic_of_zlib() -> bytes:
    """A tz file inside a zlib stream."""
    return zlib.compress(EMPTY)[:64]


@invalid("truncated", 2)
def size_0() -> bytes:
    """No byte at all, hence no wrong one."""
    return b""


@invalid("truncated", 2)
def size_1() -> bytes:
    """One byte, the magic's first."""
    return ONE[:1]


@invalid("truncated", 2)
def size_8() -> bytes:
    """The magic and nothing else."""
    return ONE[:8]


@invalid("truncated", 2)
def size_127() -> bytes:
    """A preamble without its last byte."""
    return ONE[:127]


@invalid("truncated", 10)
def size_128() -> bytes:
    """A preamble and nothing else: it says that there is more."""
    return ONE[:128]


@invalid("version", 3)
def version_major_0() -> bytes:
    """Major version 0."""
    return broken(ONE, {"preamble.version_major": 0})


@invalid("version", 3)
def version_major_2() -> bytes:
    """Major version 2."""
    return broken(ONE, {"preamble.version_major": 2})


@invalid("version", 3)
def version_major_256() -> bytes:
    """Major version 256, which is 1 in the other byte order."""
    return broken(ONE, {"preamble.version_major": 256})


@invalid("version", 3)
def version_major_2_and_garbage() -> bytes:
    """Another major version may lay out all that follows differently, its CRC too."""
    return patch(ONE[:128], "preamble.version_major", 2)[:16] + b"\xaa" * 112


@invalid("checksum", 4)
def preamble_crc() -> bytes:
    """The preamble's CRC is wrong."""
    crc = get(ONE, "preamble.preamble_crc")
    return broken(ONE, {"preamble.preamble_crc": crc ^ 1}, keep={"preamble"})


@invalid("checksum", 4)
def preamble_crc_of_128_bytes() -> bytes:
    """The preamble's CRC was taken with its own four bytes, as zeros, in it."""
    return patch(ONE, "preamble.preamble_crc", crc32c(ONE[:124] + bytes(4)))


@invalid("checksum", 4)
def preamble_crc_not_inverted() -> bytes:
    """The preamble's CRC lacks the final XOR."""
    return patch(ONE, "preamble.preamble_crc", get(ONE, "preamble.preamble_crc") ^ 0xFFFFFFFF)


@invalid("checksum", 4)
def preamble_bit_flip() -> bytes:
    """One bit of file_size is flipped."""
    return patch(ONE, "preamble.file_size", get(ONE, "preamble.file_size") ^ (1 << 40))


@invalid("feature", 5)
def incompatible_flag_encryption() -> bytes:
    """The reserved incompatible flag for encryption is set."""
    return broken(ONE, {"preamble.incompatible_flags": 1 << 0})


@invalid("feature", 5)
def incompatible_flag_2() -> bytes:
    """The first incompatible flag that is not in the table is set."""
    return broken(ONE, {"preamble.incompatible_flags": 1 << 2})


@invalid("feature", 5)
def incompatible_flag_63() -> bytes:
    """The last incompatible flag is set."""
    return broken(ONE, {"preamble.incompatible_flags": 1 << 63})


@invalid("reserved", 7)
def preamble_reserved_61() -> bytes:
    """The first reserved byte is not zero."""
    return broken(ONE, {"preamble.reserved_1": b"\x01\0\0"})


@invalid("reserved", 7)
def preamble_reserved_63() -> bytes:
    """The last of the first reserved bytes is not zero."""
    return broken(ONE, {"preamble.reserved_1": b"\0\0\x80"})


@invalid("reserved", 7)
def preamble_reserved_104() -> bytes:
    """The first of the second reserved bytes is not zero."""
    return broken(ONE, {"preamble.reserved_2": b"\x01" + bytes(19)})


@invalid("reserved", 7)
def preamble_reserved_123() -> bytes:
    """The last reserved byte is not zero."""
    return broken(ONE, {"preamble.reserved_2": bytes(19) + b"\x01"})


@invalid("limit", 8)
def chunk_size_log2_15() -> bytes:
    """Chunks of 32 KiB, one below the smallest."""
    return broken(ONE, {"preamble.chunk_size_log2": 15})


@invalid("limit", 8)
def chunk_size_log2_27() -> bytes:
    """Chunks of 128 MiB, one above the largest."""
    return broken(ONE, {"preamble.chunk_size_log2": 27})


@invalid("limit", 8)
def chunk_size_log2_0() -> bytes:
    """Chunks of one byte."""
    return broken(ONE, {"preamble.chunk_size_log2": 0})


@invalid("limit", 8)
def chunk_size_log2_255() -> bytes:
    """Chunks of 2^255 bytes: a shift by it overflows."""
    return broken(ONE, {"preamble.chunk_size_log2": 255})


@invalid("layout", 73)
def tensor_count_at_limit() -> bytes:
    """2^24 tensors are within the limit, but the table does not hold them."""
    return broken(ONE, {"preamble.tensor_count": 1 << 24})


@invalid("limit", 8)
def tensor_count_over_limit() -> bytes:
    """One tensor more than the limit."""
    return broken(ONE, {"preamble.tensor_count": (1 << 24) + 1})


@invalid("layout", 73)
def chunk_count_at_limit() -> bytes:
    """2^32 chunks are within the limit, but the table does not hold them."""
    return broken(ONE, {"preamble.chunk_count": 1 << 32})


@invalid("limit", 8)
def chunk_count_over_limit() -> bytes:
    """One chunk more than the limit."""
    return broken(ONE, {"preamble.chunk_count": (1 << 32) + 1})


@invalid("layout", 9)
def section_count_at_limit() -> bytes:
    """64 sections are within the limit, but do not fit before open_size."""
    return broken(ONE, {"preamble.section_count": 64})


@invalid("limit", 8)
def section_count_over_limit() -> bytes:
    """65 sections."""
    return broken(ONE, {"preamble.section_count": 65})


@invalid("limit", 8)
def section_count_huge() -> bytes:
    """2^32 - 1 sections."""
    return broken(ONE, {"preamble.section_count": 0xFFFFFFFF})


def sizes(open_size: int, header_size: int, file_size: int) -> bytes:
    values: dict[str, int | bytes] = {
        "preamble.open_size": open_size,
        "preamble.header_size": header_size,
        "preamble.file_size": file_size,
    }
    return broken(ONE, values)


@invalid("truncated", 10)
def open_size_at_limit() -> bytes:
    """An open_size of 2^32 is within the limit, but the file is not as long."""
    return sizes(1 << 32, 1 << 32, 1 << 32)


@invalid("limit", 8)
def open_size_over_limit() -> bytes:
    """An open_size of 2^32 + 1."""
    return sizes((1 << 32) + 1, 1 << 33, 1 << 33)


@invalid("truncated", 10)
def file_size_at_limit() -> bytes:
    """A file_size of 2^63 - 1 is within the limit, but the file is not as long."""
    return sizes(640, 688, (1 << 63) - 1)


@invalid("limit", 8)
def file_size_over_limit() -> bytes:
    """A file_size of 2^63."""
    return sizes(640, 688, 1 << 63)


@invalid("limit", 8)
def file_size_huge() -> bytes:
    """A file_size of 2^64 - 1: -1 to a reader that takes it for signed."""
    return sizes(640, 688, (1 << 64) - 1)


@invalid("layout", 9)
def open_size_inside_directory() -> bytes:
    """open_size lies before the end of the directory."""
    return sizes(383, 688, len(ONE))


@invalid("layout", 9)
def open_size_after_header_size() -> bytes:
    """open_size is larger than header_size."""
    return sizes(704, 688, len(ONE))


@invalid("layout", 9)
def header_size_after_file_size() -> bytes:
    """header_size is larger than file_size."""
    return sizes(640, len(ONE) + 1, len(ONE))


@invalid("layout", 9)
def header_size_huge() -> bytes:
    """header_size is 2^64 - 1."""
    return sizes(640, (1 << 64) - 1, len(ONE))


@invalid("truncated", 10)
def truncated_by_1() -> bytes:
    """The last byte is missing."""
    return ONE[:-1]


@invalid("truncated", 10)
def truncated_at_header_size() -> bytes:
    """The file ends where its data should begin."""
    return ONE[: get(ONE, "preamble.header_size")]


@invalid("truncated", 10)
def truncated_in_data() -> bytes:
    """The second of two chunks is missing."""
    return TWO_CHUNKS[:-100]


@invalid("trailing", 68)
def trailing_1() -> bytes:
    """One byte follows the end, a zero."""
    return ONE + b"\0"


@invalid("trailing", 68)
def trailing_page() -> bytes:
    """Zeros up to a multiple of 4096 follow the end."""
    return ONE + bytes(4096 - len(ONE))


@invalid("trailing", 68)
def trailing_file() -> bytes:
    """Another whole tz file follows the end."""
    return ONE + EMPTY


@invalid("digest", 61, pin=OTHER_PIN)
def pin_of_another_file() -> bytes:
    """The file is valid, but not the pinned one."""
    return ONE


@invalid("digest", 61, pin=OTHER_PIN)
def pin_and_no_file() -> bytes:
    """An empty file has another digest than the pinned one."""
    return b""


@invalid("digest", 61, pin="blake3:" + blake3(b"").hex())
def pin_of_nothing() -> bytes:
    """An empty file, and the BLAKE3 of no bytes: a file shorter than a preamble has no digest."""
    return b""


@invalid("digest", 61, pin="blake3:" + blake3(ONE[:127]).hex())
def pin_of_less_than_a_preamble() -> bytes:
    """127 bytes of a file, and their BLAKE3, which is not that of 128 bytes."""
    return ONE[:127]


@invalid("digest", 61, pin=OTHER_PIN)
def pin_and_not_tz() -> bytes:
    """An HTML page in place of the pinned file: the digest counts before the magic."""
    return b"<!DOCTYPE html>\n<title>503 Service Unavailable</title>\n"


@invalid("digest", 61, pin=OTHER_PIN)
def pin_and_other_version() -> bytes:
    """A file of another major version in place of the pinned file."""
    return reseal(patch(ONE, "preamble.version_major", 2))


@invalid("digest", 61, pin="blake3:" + blake3(ONE[:128]).hex())
def pin_and_rewritten_file() -> bytes:
    """Someone has changed a byte of a tensor and recomputed every digest in the file."""
    return broken(ONE, {"data of tensor[0], chunk[0]": b"\xff\xff\xff"})


@invalid("truncated", 10, pin="blake3:" + blake3(ONE[:128]).hex())
def pin_and_truncated_file() -> bytes:
    """The pinned file without its last byte: the preamble is still the pinned one."""
    return ONE[:-1]


@invalid("checksum", 43, pin="blake3:" + blake3(ONE[:128]).hex())
def pin_and_changed_chunk() -> bytes:
    """The pinned file with a byte of a tensor changed."""
    return ONE[:-1] + b"\xff"
