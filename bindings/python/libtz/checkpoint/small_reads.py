"""Reads one small tensor without a plan or threads: setting those up takes longer than reading."""

from __future__ import annotations

from libtz._native import lib
from libtz.format import dtype_name, item_size
from libtz.memory import HostBuffer, allocate
from libtz.sources.base import Source

__all__ = ["is_small", "read_small"]

SMALL_SIZE_MAX = 64 * 1024  # the smallest chunk size, so the tensor is one chunk in every file


def is_small(tensor: lib.Tensor) -> bool:
    return 0 < tensor.stored_size == tensor.decoded_size <= SMALL_SIZE_MAX and not tensor.flags


def read_small(
    source: Source, header: lib.Header, index: int, tensor: lib.Tensor, level: int
) -> HostBuffer | None:
    """Reads and checks a small tensor whose chunk entry is already in the header. The buffer owns
    its memory, or is part of a mapping. None if the check fails: then a load says what is wrong.
    """
    offset, chunk = tensor.data_offset, None
    if header.info.format == lib.FORMAT_TZ:
        chunk = header.chunk(index, 0)
        offset = chunk.offset
        if chunk.codec != lib.CODEC_RAW:
            return None
    is_aligned = offset % item_size(dtype_name(tensor.dtype)) == 0
    buffer = source.resident(offset, tensor.decoded_size) if is_aligned else None
    if buffer is None:
        buffer = allocate(tensor.decoded_size)
        source.read_into(offset, buffer.size, [buffer.view()])
    source.check_unchanged()
    if chunk is not None and not _is_right(buffer, chunk, level):
        return None
    return buffer


def _is_right(buffer: HostBuffer, chunk: lib.Chunk, level: int) -> bool:
    if level == lib.VERIFY_DIGEST:
        return lib.blake3(buffer.view()) == chunk.digest
    return level == lib.VERIFY_NONE or lib.crc32c(buffer.view()) == chunk.crc
