"""The functions of tz.h for the record headers of .tensors files."""

from __future__ import annotations

from typing import Any, NamedTuple

from libtz._native import clib, ffi
from libtz._native.lib import Header
from libtz._native.memory import exported
from libtz._native.status import check, new_diagnostic
from libtz._native.tables import new_struct
from libtz.sodium import NONCE_SIZE, SALT_SIZE, TAG_SIZE

__all__ = ["Cipher", "Derivation", "Record", "parse_record", "record_range"]


class Cipher(NamedTuple):
    """Data in pieces of `chunk_size` bytes, each encrypted on its own."""

    chunk_size: int
    nonce: bytes  # of the first piece
    tags: bytes  # of all pieces, concatenated


class Derivation(NamedTuple):
    """How a key is derived from a passphrase."""

    opslimit: int
    memlimit: int
    salt: bytes


class Record(NamedTuple):
    module: int
    crc32: int | None
    sha256: bytes | None
    hashed: memoryview  # the bytes before the data that the hashes cover
    cipher: Cipher | None
    derivation: Derivation | None


def record_range(header: Header, tensor: int) -> tuple[int, int]:
    """Offset and size of a tensor's record header."""
    out = ffi.new("tz_range *")
    check(clib.tz_header_record(header.handle, tensor, out), where=header.label)
    return out.offset, out.size


def parse_record(header: Header, tensor: int, raw: Any) -> Record:
    """Parses a record header. The result does not share the memory of `raw`."""
    out = new_struct("tz_record")
    diagnostic = new_diagnostic()
    with exported(raw) as source:
        hashed = bytearray(len(source))
        with exported(hashed, writable=True) as target:
            status = clib.tz_record_parse(
                header.handle, tensor, source, len(source), target, out, diagnostic
            )
        check(status, diagnostic, where=header.label, name_of=header.name)
        # The fields of `out` point into `raw`.
        return Record(
            module=out.module,
            crc32=out.crc32 if out.flags & clib.TZ_RECORD_CRC32 else None,
            sha256=bytes(ffi.buffer(out.sha256, 32)) if out.sha256 else None,
            hashed=memoryview(hashed)[: out.hashed_size],
            cipher=_cipher(out),
            derivation=_derivation(out),
        )


def _cipher(out: Any) -> Cipher | None:
    if not out.nonce:
        return None
    tags_size = TAG_SIZE * out.cipher_chunk_count
    tags = bytes(ffi.buffer(out.tags, tags_size)) if tags_size else b""
    return Cipher(out.cipher_chunk_size, bytes(ffi.buffer(out.nonce, NONCE_SIZE)), tags)


def _derivation(out: Any) -> Derivation | None:
    if not out.salt:
        return None
    return Derivation(out.opslimit, out.memlimit, bytes(ffi.buffer(out.salt, SALT_SIZE)))
