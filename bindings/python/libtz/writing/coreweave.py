"""Writes .tensors files, which CoreWeave Tensorizer reads, tensor by tensor.

A record's hashes stand before its data, so the data of a tensor are gone through twice: threads
hash those of several tensors, and the caller's thread writes them in order. Nothing is copied, and
with encryption the caller's memory is not touched.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

from libtz import sodium
from libtz._native import lib
from libtz.errors import OptionError
from libtz.options import WriteOptions
from libtz.sinks.base import Extent, Sink
from libtz.writing.base import CheckpointWriter, Ending
from libtz.writing.buffers import byte_view, is_buffer
from libtz.writing.coreweave_layout import END, Kind, Layout, RecordHeader, TensorRecord
from libtz.writing.coreweave_sealing import SealingKey, TensorSeal
from libtz.writing.names import check_name

__all__ = ["Blocks", "CoreweaveWriter", "Kind", "RecordName", "TensorRecord"]

Blocks = Callable[[], Iterable[Any]]
RecordName = str | tuple[str | int, ...]

THREADS_MAX = 8
BLOCK_SIZE = 1 << 20
# What may wait to be written, beyond one tensor: converters hold it in memory for this only.
WAITING_SIZE_MAX = 256 << 20


class _Waiting(NamedTuple):
    """A tensor whose hashes are being made."""

    header: RecordHeader
    blocks: Blocks
    seal: TensorSeal | None
    done: Callable[[], None] | None
    sealed: Future[bytes]


class CoreweaveWriter(CheckpointWriter):
    """As `libtz.Writer`, with tensors declared as records, each under the `name` of its record.
    With `room`, more may be declared on the way, as long as the index has that many bytes for them,
    and the file at most `size_max`; its SHA-256 is then not known."""

    def __init__(
        self,
        target: Any,
        records: Iterable[TensorRecord],
        *,
        key: SealingKey | None = None,
        room: int = 0,
        size_max: int | None = None,
        threads: int | None = None,
        options: WriteOptions | None = None,
    ) -> None:
        super().__init__(target, options)
        declared = list(records)
        if key is not None:
            sodium.require()
        self._key = key
        self._room = room
        self._size_max = size_max
        self._threads = threads or min(THREADS_MAX, os.cpu_count() or 1)
        size = Layout.index_size(_checked_names(declared)) + room
        self._layout = Layout(index_size=size, is_encrypted=key is not None)
        self._headers: deque[RecordHeader] = deque()
        self.declare(declared)
        self._waiting: deque[_Waiting] = deque()
        self._waiting_size = 0
        self._pool: ThreadPoolExecutor | None = None
        # Of the whole file, if its front is known before its data.
        self._hash: Any = None
        self._position = 0

    @property
    def data_size(self) -> int:
        """Bytes of all tensors declared so far."""
        return self._layout.data_size

    def declare(self, records: Sequence[TensorRecord]) -> None:
        """The tensors to come, in this order."""
        for record in _checked_names(records):
            size = None if self._key is None else self._key.block_size(record.nbytes)
            self._headers.append(self._layout.add(record, size))
        self._declare(record.name for record in records)

    def write_blocks(
        self, name: RecordName, blocks: Blocks, done: Callable[[], None] | None = None
    ) -> None:
        """As `write_later`, for data that can be made twice: `blocks` is called twice, by a thread
        and possibly later, and gives the bytes in pieces; then `done` is called by the caller's
        thread."""
        self._check_turn(name)
        self._opened()
        header = self._headers.popleft()
        self._done()
        size = header.record.nbytes
        with self._failing():
            while self._waiting and self._waiting_size + size > WAITING_SIZE_MAX:
                self._retire()
            while len(self._waiting) > self._threads:
                self._retire()
            seal = TensorSeal(self._key) if self._key is not None and size else None
            sealed = self._running_pool().submit(self._sealed, header, blocks, seal)
        self._waiting.append(_Waiting(header, blocks, seal, done, sealed))
        self._waiting_size += size

    def _extent(self) -> Extent:
        end = self._layout.end + len(END)
        return Extent(self._layout.data_begin, self._size_max or end)

    def _begin(self, sink: Sink) -> None:
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="tz-hash")
        self._position = self._layout.data_begin
        if not self._room:
            self._hash = hashlib.sha256(self._layout.front())

    def _put(self, name: Hashable, data: Any) -> None:
        """The hashes stand before the data, so an iterable is held in memory until it is
        written."""
        self._check_turn(name)
        record = self._headers[0].record
        view = byte_view(data) if is_buffer(data) else self._gathered(record, data)
        if len(view) != record.nbytes:
            raise self._wrong_size(name, record.nbytes, f"{len(view)} bytes")
        self.write_blocks(record.name, partial(list, [view]))

    def _gathered(self, record: TensorRecord, blocks: Iterable[Any]) -> memoryview:
        gathered = bytearray()
        for block in blocks:
            gathered += byte_view(block)
            if len(gathered) > record.nbytes:
                raise self._wrong_size(record.name, record.nbytes, "more")
        return memoryview(gathered)

    def _drain(self) -> None:
        while self._waiting:
            self._retire()

    def _end(self) -> Ending:
        self._write(END)
        digest = None if self._hash is None else f"sha256:{self._hash.hexdigest()}"
        return Ending(self._layout.front(), self._position, digest)

    def _stop(self) -> None:
        self._waiting.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _running_pool(self) -> ThreadPoolExecutor:
        if self._pool is None:  # for the type checker: open writers have one
            raise OptionError(f"{self._label}: the writer is {self._state}")
        return self._pool

    def _sealed(self, header: RecordHeader, blocks: Blocks, seal: TensorSeal | None) -> bytes:
        """The finished header. By a thread of the pool."""
        if seal is None:
            for block in _checked(header.record, blocks()):
                if header.has_crc32:
                    header.crc32 = lib.crc32(block, header.crc32)
                header.sha256.update(block)
            return header.finish(b"" if self._key is None else self._key.block(b"", []))

        def hashed() -> Iterator[memoryview]:
            for block in _checked(header.record, blocks()):
                header.sha256.update(block)
                yield block

        return header.finish(seal.block(hashed()))

    def _retire(self) -> None:
        """Writes the oldest tensor that waits."""
        waiting = self._waiting.popleft()
        record = waiting.header.record
        self._waiting_size -= record.nbytes
        self._write(waiting.sealed.result())
        blocks = _checked(record, waiting.blocks())
        for block in blocks if waiting.seal is None else waiting.seal.encrypted(blocks):
            self._write(block)
        if waiting.done is not None:
            waiting.done()

    def _write(self, data: bytes | memoryview) -> None:
        sink = self._opened()
        if self._size_max is not None and self._position + len(data) > self._size_max:
            raise OptionError(
                f"the file grows beyond the {self._size_max} bytes that it was planned for; write"
                " all tensors by one call of write_module or write_state_dict"
            )
        if self._hash is not None:
            self._hash.update(data)
        sink.write_at(self._position, memoryview(data))
        self._position += len(data)


def _checked_names(records: Sequence[TensorRecord]) -> Sequence[TensorRecord]:
    """The records. In nested files, readers escape what names cannot hold."""
    if all(len(record.path) == 1 for record in records):
        for record in records:
            if isinstance(record.path[0], str):
                check_name(record.path[0])
    return records


def _checked(record: TensorRecord, blocks: Iterable[Any]) -> Iterator[memoryview]:
    """The blocks, which must have as many bytes as the record says, in pieces that stay in cache
    while two hashes see them."""
    left = record.nbytes
    for block in blocks:
        data = byte_view(block)
        left -= len(data)
        if left < 0:
            raise OptionError(f"tensor {record.name!r}: more data than its dtype and shape say")
        for begin in range(0, len(data), BLOCK_SIZE):
            yield data[begin : begin + BLOCK_SIZE]
    if left:
        raise OptionError(f"tensor {record.name!r}: {left} bytes are missing")
