"""Writes .tensors files, which CoreWeave Tensorizer reads, tensor by tensor.

A record's hashes stand before its data, so the data of a tensor are gone through twice: threads
hash those of several tensors, and the caller's thread writes them in order. Nothing is copied, and
with encryption the caller's memory is not touched.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from libtz import sodium
from libtz._native import lib
from libtz.errors import OptionError
from libtz.locations import resolve_sink
from libtz.options import WriteOptions
from libtz.sinks.base import Sink
from libtz.writing.buffers import byte_view
from libtz.writing.coreweave_layout import END, Kind, Layout, RecordHeader, TensorRecord
from libtz.writing.coreweave_sealing import SealingKey, TensorSeal
from libtz.writing.names import check_name

__all__ = ["CoreweaveWriter", "Kind", "TensorRecord"]

Blocks = Callable[[], Iterable[Any]]

THREADS_MAX = 8
BLOCK_SIZE = 1 << 20
# What may wait to be written, beyond one tensor: converters hold it in memory for this only.
WAITING_SIZE_MAX = 256 << 20

_DEFAULTS = WriteOptions()


class _Waiting(NamedTuple):
    """A tensor whose hashes are being made."""

    header: RecordHeader
    blocks: Blocks
    seal: TensorSeal | None
    done: Callable[[], None] | None
    sealed: Future[bytes]


class CoreweaveWriter:
    """Declared and used like `libtz.Writer`. With `room`, more tensors may be declared on the way,
    as long as the index has that many bytes for them, and the file at most `size_max`."""

    def __init__(
        self,
        target: Any,
        records: Iterable[TensorRecord],
        *,
        key: SealingKey | None = None,
        room: int = 0,
        size_max: int | None = None,
        threads: int | None = None,
        options: WriteOptions = _DEFAULTS,
    ) -> None:
        declared = list(records)
        if key is not None:
            sodium.require()
        self._target = target
        self._key = key
        self._room = room
        self._size_max = size_max
        self._options = options
        self._threads = threads or min(THREADS_MAX, os.cpu_count() or 1)
        _check_names(declared)
        size = Layout.index_size(declared) + room
        self._layout = Layout(index_size=size, is_encrypted=key is not None)
        self._declared: deque[RecordHeader] = deque()
        self._declare(declared)
        self._waiting: deque[_Waiting] = deque()
        self._waiting_size = 0
        self._pool: ThreadPoolExecutor | None = None
        self._sink: Sink | None = None
        # Of the whole file, if its front is known before its data.
        self._hash: Any = None
        self._position = 0
        self.digest: str | None = None  # "sha256:…", when the file is complete

    @property
    def data_size(self) -> int:
        """Bytes of all tensors declared so far."""
        return self._layout.data_size

    def declare(self, records: Sequence[TensorRecord]) -> None:
        """The tensors to come, in this order."""
        _check_names(records)
        self._declare(records)

    def _declare(self, records: Sequence[TensorRecord]) -> None:
        for record in records:
            size = None if self._key is None else self._key.block_size(record.nbytes)
            self._declared.append(self._layout.add(record, size))

    def put(
        self,
        name: str | tuple[str | int, ...],
        blocks: Blocks,
        done: Callable[[], None] | None = None,
    ) -> None:
        """The bytes of a tensor in pieces. Tensors come in the declared order, each under the
        `name` of its record. `blocks` is called twice, by a thread and possibly later; then `done`
        is called by the caller's."""
        if self._sink is None or self._pool is None:
            raise OptionError("a CoreweaveWriter is used in a with block")
        if not self._declared or self._declared[0].record.name != name:
            expected = repr(self._declared[0].record.name) if self._declared else "nothing more"
            raise OptionError(
                f"tensors are written in the declared order; got {name!r}, expected {expected}"
            )
        header = self._declared.popleft()
        size = header.record.nbytes
        while self._waiting and self._waiting_size + size > WAITING_SIZE_MAX:
            self._retire()
        while len(self._waiting) > self._threads:
            self._retire()
        seal = TensorSeal(self._key) if self._key is not None and size else None
        sealed = self._pool.submit(self._sealed, header, blocks, seal)
        self._waiting.append(_Waiting(header, blocks, seal, done, sealed))
        self._waiting_size += size

    def drain(self) -> None:
        """Returns when everything put so far is written."""
        while self._waiting:
            self._retire()

    def __enter__(self) -> CoreweaveWriter:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def open(self) -> None:
        self._sink = resolve_sink(
            self._target,
            self._options,
            header_size=self._layout.data_begin,
            file_size_max=self._size_max or self._layout.end + len(END),
        )
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="tz-hash")
        self._position = self._layout.data_begin
        if not self._room:
            self._hash = hashlib.sha256(self._layout.front())

    def close(self) -> None:
        """Completes the file. Every tensor must have been put."""
        if self._sink is None:
            return
        try:
            self.drain()
            if self._declared:
                name = self._declared[0].record.name
                raise OptionError(f"tensor {name!r} was declared but not written")
            self._write(END)
            self._sink.write_at(0, memoryview(self._layout.front()))
            self._sink.commit(self._position)
        except BaseException:
            self.abort()
            raise
        if self._hash is not None:
            self.digest = f"sha256:{self._hash.hexdigest()}"
        self._stop()

    def abort(self) -> None:
        """Discards everything. Does nothing after `close`."""
        sink = self._sink
        self._stop()
        if sink is not None:
            sink.abort()

    def _stop(self) -> None:
        self._sink = None
        self._waiting.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

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
        if self._sink is None:
            raise OptionError("the writer is closed")
        if self._size_max is not None and self._position + len(data) > self._size_max:
            raise OptionError(
                f"the file grows beyond the {self._size_max} bytes that it was planned for; write"
                " all tensors by one call of write_module or write_state_dict"
            )
        if self._hash is not None:
            self._hash.update(data)
        self._sink.write_at(self._position, memoryview(data))
        self._position += len(data)


def _check_names(records: Sequence[TensorRecord]) -> None:
    """In nested files, readers escape what names cannot hold."""
    if all(len(record.path) == 1 for record in records):
        for record in records:
            if isinstance(record.path[0], str):
                check_name(record.path[0])


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
