"""The functions of tz.h that read a single tensor without a plan."""

from __future__ import annotations

from typing import Any

from libtz._native import clib, ffi
from libtz._native.lib import Header
from libtz._native.memory import pointer_to
from libtz._native.status import check
from libtz._native.tables import new_struct

__all__ = ["DECODE_SCRATCH_SIZE", "OnlyChunk", "only_chunk"]

DECODE_SCRATCH_SIZE: int = clib.tz_decode_scratch_size()

_BAD_DATA = (clib.TZ_E_CHECKSUM, clib.TZ_E_CODEC, clib.TZ_E_FEATURE)


class OnlyChunk:
    """The chunk of a tensor that has only one."""

    __slots__ = ("_chunk", "_header", "_tensor", "is_raw")

    def __init__(self, header: Header, tensor: int, chunk: Any) -> None:
        """See `only_chunk`."""
        self._header = header
        self._tensor = tensor
        self._chunk = chunk
        self.is_raw: bool = chunk.codec == 0  # section 8 of the specification

    def decode(self, verify: int, stored: int, out: int = 0, scratch: int = 0) -> bool:
        """Returns whether the data passed the checks. `stored`, `out` and `scratch` are addresses.
        Without `out`, the chunk is only checked. A compressed chunk needs `scratch` of
        DECODE_SCRATCH_SIZE bytes."""
        status = clib.tz_chunk_decode(
            self._header.handle,
            self._tensor,
            self._chunk,
            verify,
            pointer_to(stored),
            pointer_to(out) if out else ffi.NULL,
            pointer_to(scratch) if scratch else ffi.NULL,
        )
        if status in _BAD_DATA:
            return False
        check(status, where=self._header.label)
        return True


def only_chunk(header: Header, tensor: int) -> OnlyChunk | None:
    """The tensor's chunk, or None if its entry has not been put. Thread-safe as `Header.chunk`."""
    out = new_struct("tz_chunk")
    status = clib.tz_header_chunk(header.handle, tensor, 0, out)
    if status == clib.TZ_E_ENTRIES_MISSING:
        return None
    check(status, where=header.label)
    return OnlyChunk(header, tensor, out)
