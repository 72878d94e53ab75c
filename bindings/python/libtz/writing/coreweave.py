"""Writes .tensors files for CoreWeave Tensorizer, tensor by tensor.

A record's hashes come before its data, so the data of a tensor are read twice: threads hash several
tensors at a time, and the caller's thread writes them in order. Nothing is copied, and encryption
does not modify the caller's memory.
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
from libtz.writing.coreweave_layout import END, Layout, RecordHeader, Role, TensorRecord
from libtz.writing.coreweave_sealing import SealingKey, TensorSeal
from libtz.writing.names import check_name

__all__ = ["CoreweaveWriter", "Pieces", "RecordName", "Role", "TensorRecord"]

Pieces = Callable[[], Iterable[Any]]
RecordName = str | tuple[str | int, ...]

THREADS_MAX = 8
PIECE_SIZE = 1 << 20
# Limit on the data that wait to be written, in addition to one tensor. A converter holds them in
# memory.
WAITING_SIZE_MAX = 256 << 20


class _Waiting(NamedTuple):
    """A tensor whose hashes are being computed."""

    header: RecordHeader
    pieces: Pieces
    seal: TensorSeal | None
    done: Callable[[], None] | None
    sealed: Future[bytes]


class CoreweaveWriter(CheckpointWriter):
    """The same as `libtz.Writer`, but tensors are declared as records, each under the `name` of its
    record.

    `room` reserves that many bytes of the index, so that more tensors can be declared later; the
    file may then have up to `size_max` bytes, and there is no `digest`.
    """

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
        # The hash of the whole file, if its beginning is known before the data.
        self._hash: Any = None
        self._position = 0

    @property
    def data_size(self) -> int:
        """The size in bytes of all tensors declared so far."""
        return self._layout.data_size

    def declare(self, records: Sequence[TensorRecord]) -> None:
        """Declares the next tensors, in this order. Raises OptionError if the format cannot hold
        them or the index is full."""
        for record in _checked_names(records):
            size = None if self._key is None else self._key.block_size(record.nbytes)
            self._headers.append(self._layout.add(record, size))
        self._declare(record.name for record in records)

    def write_pieces(
        self, name: RecordName, pieces: Pieces, done: Callable[[], None] | None = None
    ) -> None:
        """The same as `write_later`, for data that can be produced twice. `pieces` returns the
        bytes in pieces; it is called by a thread and again by the caller's thread, possibly later.
        Then `done` is called in the caller's thread."""
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
            sealed = self._running_pool().submit(self._sealed, header, pieces, seal)
        self._waiting.append(_Waiting(header, pieces, seal, done, sealed))
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
        """Holds the data of an iterable in memory, because the hashes come first in the file."""
        self._check_turn(name)
        record = self._headers[0].record
        view = byte_view(data) if is_buffer(data) else self._gathered(record, data)
        if len(view) != record.nbytes:
            raise self._wrong_size(name, record.nbytes, f"{len(view)}")
        self.write_pieces(record.name, partial(list, [view]))

    def _gathered(self, record: TensorRecord, pieces: Iterable[Any]) -> memoryview:
        gathered = bytearray()
        for piece in pieces:
            gathered += byte_view(piece)
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
        if self._pool is None:  # for the type checker: an open writer has one
            raise OptionError(f"{self._label}: the writer is {self._state}")
        return self._pool

    def _sealed(self, header: RecordHeader, pieces: Pieces, seal: TensorSeal | None) -> bytes:
        """The finished record header. Called by a thread of the pool."""
        if seal is None:
            for piece in _checked(header.record, pieces()):
                if header.has_crc32:
                    header.crc32 = lib.crc32(piece, header.crc32)
                header.sha256.update(piece)
            return header.finish(b"" if self._key is None else self._key.block(b"", []))

        def hashed() -> Iterator[memoryview]:
            for piece in _checked(header.record, pieces()):
                header.sha256.update(piece)
                yield piece

        return header.finish(seal.block(hashed()))

    def _retire(self) -> None:
        """Writes the tensor that has waited longest."""
        waiting = self._waiting.popleft()
        record = waiting.header.record
        self._waiting_size -= record.nbytes
        self._write(waiting.sealed.result())
        pieces = _checked(record, waiting.pieces())
        for piece in pieces if waiting.seal is None else waiting.seal.encrypted(pieces):
            self._write(piece)
        if waiting.done is not None:
            waiting.done()

    def _write(self, data: bytes | memoryview) -> None:
        sink = self._opened()
        if self._size_max is not None and self._position + len(data) > self._size_max:
            raise OptionError(
                f"the file would exceed the planned {self._size_max} bytes; write all tensors in"
                " one call of write_module or write_state_dict"
            )
        if self._hash is not None:
            self._hash.update(data)
        sink.write_at(self._position, memoryview(data))
        self._position += len(data)


def _checked_names(records: Sequence[TensorRecord]) -> Sequence[TensorRecord]:
    """The records, after their names were checked. In nested files, readers escape names."""
    if all(len(record.path) == 1 for record in records):
        for record in records:
            if isinstance(record.path[0], str):
                check_name(record.path[0])
    return records


def _checked(record: TensorRecord, pieces: Iterable[Any]) -> Iterator[memoryview]:
    """The data in pieces small enough to stay in the cache for two hashes. Raises OptionError if
    their size is not that of the record."""
    left = record.nbytes
    for piece in pieces:
        data = byte_view(piece)
        left -= len(data)
        if left < 0:
            raise OptionError(f"tensor {record.name!r}: more data than its dtype and shape need")
        for begin in range(0, len(data), PIECE_SIZE):
            yield data[begin : begin + PIECE_SIZE]
    if left:
        raise OptionError(f"tensor {record.name!r}: {left} bytes are missing")
