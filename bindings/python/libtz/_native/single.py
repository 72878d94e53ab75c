"""The functions of tz.h that read a single tensor without a plan."""

from __future__ import annotations

from typing import Any, NamedTuple

from libtz._native import clib, ffi
from libtz._native.lib import Header
from libtz._native.memory import pointer_to
from libtz._native.status import check

__all__ = ["DECODE_SCRATCH_SIZE", "OnlyChunk", "decode_chunk", "only_chunk"]

DECODE_SCRATCH_SIZE: int = clib.tz_decode_scratch_size()

# Looked up once, since these calls take little longer than the lookups.
_NULL, _new, _decode, _describe = ffi.NULL, ffi.new, clib.tz_chunk_decode, clib.tz_header_chunk
_CHUNK, _CHUNK_SIZE = ffi.typeof("tz_chunk *"), ffi.sizeof("tz_chunk")
_MISSING: int = clib.TZ_E_ENTRIES_MISSING
_BAD_DATA = (clib.TZ_E_CHECKSUM, clib.TZ_E_CODEC, clib.TZ_E_FEATURE)


class OnlyChunk(NamedTuple):
    """The chunk of a tensor that has only one."""

    tensor: int
    struct: Any
    is_raw: bool


def only_chunk(header: Header, tensor: int) -> OnlyChunk | None:
    """The tensor's chunk, or None if its entry has not been put. Thread-safe as `Header.chunk`."""
    chunk = _new(_CHUNK)
    chunk.struct_size = _CHUNK_SIZE
    status = _describe(header.handle, tensor, 0, chunk)
    if status:
        if status == _MISSING:
            return None
        check(status, where=header.label)
    return OnlyChunk(tensor, chunk, chunk.codec == 0)  # section 8 of the specification


def decode_chunk(
    header: Header, chunk: OnlyChunk, verify: int, stored: int, out: int = 0, scratch: int = 0
) -> bool:
    """Returns whether the data passed the checks. `stored`, `out` and `scratch` are addresses.
    Without `out`, the chunk is only checked. A compressed chunk needs `scratch` of
    DECODE_SCRATCH_SIZE bytes."""
    status = _decode(
        header.handle,
        chunk.tensor,
        chunk.struct,
        verify,
        pointer_to(stored),
        pointer_to(out) if out else _NULL,
        pointer_to(scratch) if scratch else _NULL,
    )
    if status:
        if status in _BAD_DATA:
            return False
        check(status, where=header.label)
    return True
