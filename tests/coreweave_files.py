"""Makes small .tensors files, valid or with any field wrong."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Entry", "build", "fields_of"]

FILE_HEADER_SIZE = 73


@dataclass(frozen=True)
class Entry:
    """A tensor. Fields that are None follow from the others. Index and record may disagree."""

    name: bytes = b"a"
    shape: Sequence[int] = (2,)
    dtype: bytes = b"<f4"
    role: int = 2
    data: bytes = b"\x01\x02\x03\x04\x05\x06\x07\x08"
    hashes: bytes | None = None  # the block: count, then hashes
    padding: bytes = b""
    crypt: bytes | None = None
    data_size: int | None = None
    record_size: int | None = None
    entry_version: int | None = None
    record: dict[str, Any] | None = None  # fields with other values in the record header only
    index: dict[str, Any] | None = None  # and in the index only


def build(
    entries: Sequence[Entry],
    *,
    version: int = 1,
    flags: int = 0,
    index_size: int = 512,
    end: bytes = bytes(8),
    **header: int,
) -> bytes:
    """`header` sets fields of the file header: data_size, reserved, count, index_size."""
    index = body = b""
    is_versioned = bool(flags & 2)
    for entry in entries:
        offset = FILE_HEADER_SIZE + index_size + len(body)
        record = _record(entry, is_versioned and entry.entry_version == 5)
        index += _index_entry(entry, offset, len(record), is_versioned)
        body += record + entry.data
    fields = {
        "data_size": sum(len(entry.data) for entry in entries),
        "reserved": 0,
        "count": len(entries),
        "index_size": index_size,
    } | header
    front = b"|TZR|" + struct.pack("<I", version) + flags.to_bytes(32, "little")
    front += struct.pack("<4Q", *fields.values())
    return front + index.ljust(index_size, b"\0") + body + end


def fields_of(entry: Entry, other: dict[str, Any] | None) -> dict[str, Any]:
    fields = {
        "name": entry.name,
        "role": entry.role,
        "dtype": entry.dtype,
        "shape": entry.shape,
        "data_size": len(entry.data) if entry.data_size is None else entry.data_size,
    }
    return fields | (other or {})


def _shape(shape: Sequence[int], is_wide: bool) -> bytes:
    return struct.pack(f"<B{len(shape)}{'Q' if is_wide else 'I'}", len(shape), *shape)


def _record(entry: Entry, is_wide: bool) -> bytes:
    fields = fields_of(entry, entry.record)
    head: bytes = struct.pack("<HBH", 0, fields["role"], len(fields["name"])) + fields["name"]
    head += struct.pack("<B", len(fields["dtype"])) + fields["dtype"]
    head += _shape(fields["shape"], is_wide)
    tail = entry.padding + struct.pack("<q", fields["data_size"])
    crypt = b"" if entry.crypt is None else entry.crypt

    def whole(block: bytes, crypt: bytes) -> bytes:
        after = head + struct.pack("<H", len(block)) + block + crypt + tail
        # The size includes the crypt block even if that is omitted.
        size = 8 + len(after) - len(crypt) + len(entry.crypt or b"")
        return struct.pack("<Q", size if entry.record_size is None else entry.record_size) + after

    if entry.hashes is not None:
        return whole(entry.hashes, crypt)
    hashed = whole(b"\x02\x00\x04" + bytes(4) + b"\x01\x20" + bytes(32), b"") + entry.data
    crc = struct.pack("<I", zlib.crc32(hashed))
    return whole(b"\x02\x00\x04" + crc + b"\x01\x20" + hashlib.sha256(hashed).digest(), crypt)


def _index_entry(entry: Entry, offset: int, record_size: int, is_versioned: bool) -> bytes:
    fields = fields_of(entry, entry.index)
    raw: bytes = b""
    if is_versioned:
        raw += struct.pack("<I", 1 if entry.entry_version is None else entry.entry_version)
    raw += struct.pack("<H", len(fields["name"])) + fields["name"]
    raw += struct.pack("<BB", fields["role"], len(fields["dtype"])) + fields["dtype"]
    raw += _shape(fields["shape"], entry.entry_version == 5)
    record_offset = fields.get("record_offset", offset)
    data_offset = fields.get("data_offset", offset + record_size)
    return raw + struct.pack("<3Q", record_offset, data_offset, fields["data_size"])
