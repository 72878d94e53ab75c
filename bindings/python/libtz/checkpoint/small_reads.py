"""Reads one small tensor, or a part of it, without a plan and without threads: setting them up
takes much longer than reading. State that does not depend on the tensor is prepared when the file
is opened.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from typing import NamedTuple

import numpy as np

from libtz._native import lib
from libtz._native.single import DECODE_SCRATCH_SIZE, OnlyChunk, decode_chunk, only_chunk
from libtz.checkpoint.catalog import Entry
from libtz.checkpoint.slices import cut
from libtz.errors import Error
from libtz.format import dtype_name, item_size
from libtz.memory import HostBuffer, allocate, check_decoded_size
from libtz.options import ReadOptions
from libtz.sources.base import Source
from libtz.transfer.chunk_entries import fetch_chunk_entries
from libtz.transfer.stats import TransferStats

__all__ = ["SmallReads"]

# Making a plan takes several times as long as reading a tensor of this size.
SIZE_MAX = 256 * 1024
# Chunk entries are read and checked in steps of this size, which include those of the next tensors.
ENTRIES_SIZE = 16 * 1024


class SmallReadStats(NamedTuple):
    """Statistics of a small read, for `Checkpoint.stats`."""

    path: str
    seconds: float
    bytes_wanted: int
    bytes_stored: int
    bytes_read: int
    requests: int
    retries: int

    def stats(self) -> TransferStats:
        return TransferStats(**self._asdict(), threads=1)


class Preparation(NamedTuple):
    """The facts that are needed to read the data of an entry."""

    entry: Entry
    begin_s: float
    requests: int
    retries: int
    chunk: OnlyChunk | None  # None: the format has no chunks of its own
    entries_read: int  # bytes
    bytes_wanted: int
    is_shared: bool  # the source has the data in memory, and the tensor can be a view of it


class SmallReads:
    """Reads single tensors from an open source."""

    def __init__(
        self,
        source: Source,
        header: lib.Header,
        front: memoryview,
        options: ReadOptions,
        planning: threading.Lock,
    ) -> None:
        """`planning` guards the chunk entries in the header."""
        self._source = source
        self._counts = source.stats
        self._header = header
        self._front = front
        self._options = options
        # `check_decoded_size` allows all sizes up to this one.
        limit = options.decoded_size_max
        self._unlimited_size = SIZE_MAX if limit is None else min(SIZE_MAX, limit)
        self._planning = planning
        self._has_chunks = header.info.format == lib.FORMAT_TZ
        self._is_resident = source.resident(0, 0) is not None
        self._scratch: list[HostBuffer] = []  # each is used by one thread at a time

    def can_read(self, entry: Entry) -> bool:
        tensor, region = entry.tensor, entry.item.region
        if not 0 < tensor.decoded_size <= SIZE_MAX or tensor.chunk_count != 1 or tensor.flags:
            return False
        if region is None:
            return True
        # In formats without chunks, a plan may read less than the whole tensor.
        return 0 not in region.shape and (self._has_chunks or self._is_resident)

    def prepare(self, entry: Entry) -> Preparation:
        """Checks sizes, and fetches the chunk entry if it is missing. The source stays open after
        an error."""
        counts, (_, region), tensor = self._counts, entry.item, entry.tensor
        begin_s, requests, retries = time.perf_counter(), counts.requests, counts.retries
        chunk, entries_read = self._chunk(entry.owner) if self._has_chunks else (None, 0)
        is_raw = chunk is None or chunk.is_raw
        is_shared = is_raw and region is None and self._can_share(tensor)
        size = tensor.decoded_size
        if region is not None and not region.is_whole:
            extent = (end - begin for begin, end in zip(*region.box, strict=True))
            size = math.prod(extent) * item_size(region.info.dtype)
        if not is_shared and size > self._unlimited_size:
            check_decoded_size(size, self._options, self._source.url)
        return Preparation(entry, begin_s, requests, retries, chunk, entries_read, size, is_shared)

    def read(self, prepared: Preparation, level: int) -> tuple[HostBuffer, SmallReadStats] | None:
        """The checked bytes of a small tensor or its region, in new memory or in the source's own.
        None if the check fails; a load of the tensor then raises the error."""
        entry, begin_s, requests, retries, chunk, entries_read, wanted, is_shared = prepared
        tensor, region = entry.tensor, entry.item.region
        is_intermediate = region is not None or not (chunk is None or chunk.is_raw)
        stored = self._stored(tensor, is_shared=is_shared or is_intermediate)
        data: HostBuffer | None = stored
        if chunk is not None:
            data = self._decoded(chunk, tensor, stored, level)
        if data is None:
            return None
        if region is not None:
            # Slices own their memory.
            if not region.is_whole:
                data = cut(data.view(), region)
            elif data is stored and self._is_resident:
                data = _copy(data)
        stats = SmallReadStats(
            "map" if self._is_resident and region is None else "copy",
            time.perf_counter() - begin_s,
            wanted,
            tensor.stored_size,
            tensor.stored_size + entries_read,
            self._counts.requests - requests,
            self._counts.retries - retries,
        )
        return data, stats

    def _can_share(self, tensor: lib.Tensor) -> bool:
        """Whether the tensor, stored raw, can be a view of the source's own memory."""
        return self._is_resident and not tensor.data_offset % item_size(dtype_name(tensor.dtype))

    def _stored(self, tensor: lib.Tensor, *, is_shared: bool) -> HostBuffer:
        """The stored bytes: in the source's own memory, if it has any and they may be shared. Also
        checks that the source is unchanged."""
        offset, size = tensor.data_offset, tensor.stored_size
        if is_shared and self._is_resident:
            resident = self._source.resident(offset, size)
            if resident is not None:
                self._counts.add(bytes=size)
                self._source.check_unchanged()
                return resident
        buffer = allocate(size)
        self._source.read_unchanged(offset, buffer.view())
        return buffer

    def _decoded(
        self, chunk: OnlyChunk, tensor: lib.Tensor, stored: HostBuffer, level: int
    ) -> HostBuffer | None:
        """None: the bytes are wrong."""
        if chunk.is_raw:
            return stored if decode_chunk(self._header, chunk, level, stored.address) else None
        out = allocate(tensor.decoded_size)
        try:
            scratch = self._scratch.pop()
        except IndexError:
            scratch = allocate(DECODE_SCRATCH_SIZE)
        try:
            is_right = decode_chunk(
                self._header, chunk, level, stored.address, out.address, scratch.address
            )
        finally:
            self._scratch.append(scratch)
        return out if is_right else None

    def _chunk(self, tensor: int) -> tuple[OnlyChunk, int]:
        """The chunk of a tensor, and the number of bytes read for its entry."""
        with self._planning:
            chunk = only_chunk(self._header, tensor)
            if chunk is not None:
                return chunk, 0
            owner = np.array([tensor], np.uint32)
            read = 0
            for offset, size in self._header.entry_ranges(owner):
                entries = self._front[offset : offset + ENTRIES_SIZE]
                if len(entries) < size:
                    entries = self._entries_after(offset, size)
                    read += len(entries)
                # The error may be in another tensor. If it is in this one, it is raised below.
                with contextlib.suppress(Error):
                    self._header.put_entries(offset, entries)
            read += fetch_chunk_entries(self._source, self._header, owner, self._front)
            chunk = only_chunk(self._header, tensor)
        if chunk is None:
            raise RuntimeError(f"{self._header.label}: tensor {tensor} has no chunk entries")
        return chunk, read

    def _entries_after(self, offset: int, size: int) -> memoryview:
        """Chunk entries that were not read with the front: `size` bytes, and those that follow."""
        end = min(offset + ENTRIES_SIZE, self._header.info.header_size)
        entries = allocate(max(size, end - offset)).view()
        self._source.read_into(offset, len(entries), [entries])
        return entries


def _copy(buffer: HostBuffer) -> HostBuffer:
    copied = allocate(buffer.size)
    copied.view()[:] = buffer.view()
    return copied
