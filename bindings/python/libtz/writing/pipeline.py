"""The writer's pipeline: takes decoded bytes and passes encoded, checked chunks to the sink.

A tensor is cut into batches of whole chunks. Threads encode batches (CRC-32C, BLAKE3, compression
and its check) and hash the decoded bytes of each tensor for its content digest. The caller's thread
passes the results to the builder and the sink in the original order, so the file's bytes do not
depend on timing. The number of batches in flight is bounded, and so is the memory.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libtz._native import lib
from libtz.sinks.base import Sink
from libtz.transfer.signals import HeldSignals

__all__ = ["Pipeline"]

MIB = 1024 * 1024

# A batch takes a thread a few milliseconds, much longer than handing it over. A few of them take
# little memory.
BATCH_SIZE = 8 * MIB
# Two threads are faster than a disk, and eight are faster than a 100 Gbit/s network.
THREADS_MAX = 8
# Limit on the batches in flight, including their output buffers. At least two are always allowed.
MEMORY_MAX = 256 * MIB
# Encoding this much takes less time than waking a thread.
INLINE_SIZE_MAX = 64 * 1024
# The bytes that tz_chunks_encode() needs in `out` beyond the size of its input.
OUT_MARGIN = 64


class _ContentDigest:
    """BLAKE3 of one tensor's bytes. Its batches are hashed one after another, by any thread that is
    free."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._state = lib.Blake3()
        self._lock = threading.Lock()
        self._waiting: deque[tuple[memoryview, Future[None]]] = deque()
        self._is_running = False

    def push(self, data: memoryview) -> Future[None]:
        done: Future[None] = Future()
        with self._lock:
            self._waiting.append((data, done))
            start = not self._is_running
            self._is_running = True
        if start:
            self._pool.submit(self._run)
        return done

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._is_running = False
                    return
                data, done = self._waiting.popleft()
            self._state.update(data)
            done.set_result(None)

    def digest(self) -> bytes:
        return self._state.digest()


@dataclass
class _Batch:
    spec: int
    source: memoryview
    is_last: bool  # of its tensor
    out: NDArray[np.uint8]
    encoded: Future[tuple[int, NDArray[Any]]]
    content: _ContentDigest | None  # None: the whole tensor is one chunk
    hashed: Future[None] | None
    staging: NDArray[np.uint8] | None = None  # our own copy of the data, to be reused


class Pipeline:
    """For one thread. After an exception, only `stop` may be called."""

    def __init__(self, builder: lib.Builder, sink: Sink, *, compress: bool) -> None:
        self._builder = builder
        self._sink = sink
        self._compress = compress
        self._chunk_size = builder.info.chunk_size
        self._batch_size = max(BATCH_SIZE, self._chunk_size)
        threads = min(THREADS_MAX, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="tz-encode")
        batches_max = MEMORY_MAX // (2 * self._batch_size)
        self._under_way_max = max(2, min(threads + 2, batches_max))
        self._under_way: deque[_Batch] = deque()
        self._free_out: list[NDArray[np.uint8]] = []
        self._free_staging: list[NDArray[np.uint8]] = []

    def put(self, spec: int, dtype: int, data: memoryview) -> None:
        """Takes all bytes of a tensor. They must not change before the next `drain`."""
        content = self._content_for(len(data))
        for begin in range(0, len(data), self._batch_size):
            part = data[begin : begin + self._batch_size]
            is_last = begin + len(part) == len(data)
            self._submit(spec, dtype, part, is_last, content)

    def put_pieces(self, spec: int, dtype: int, size: int, pieces: Iterable[memoryview]) -> int:
        """Takes the `size` bytes of a tensor piece by piece. Each piece is copied before the next
        one is requested. Returns the number of bytes; if it is not `size`, the tensor is
        incomplete."""
        content = self._content_for(size)
        taken = 0
        staging, filled = self._staging(), 0
        for piece in pieces:
            taken += len(piece)
            if taken > size:
                return taken
            while piece:
                count = min(len(piece), len(staging) - filled)
                staging[filled : filled + count] = piece[:count]
                filled += count
                piece = piece[count:]
                if filled == len(staging) and (piece or taken < size):
                    self._submit(spec, dtype, staging.data, False, content, staging)
                    staging, filled = self._staging(), 0
        if taken == size:
            self._submit(spec, dtype, staging.data[:filled], True, content, staging)
        return taken

    def drain(self) -> None:
        """Returns when all data put so far have been passed to the sink."""
        while self._under_way:
            self._retire()

    def stop(self) -> None:
        """Ends the threads, and drops work that has not begun. Idempotent."""
        with HeldSignals():  # the threads read the caller's memory
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _content_for(self, size: int) -> _ContentDigest | None:
        return _ContentDigest(self._pool) if size > self._chunk_size else None

    def _submit(
        self,
        spec: int,
        dtype: int,
        source: memoryview,
        is_last: bool,
        content: _ContentDigest | None,
        staging: NDArray[np.uint8] | None = None,
    ) -> None:
        while len(self._under_way) >= self._under_way_max:
            self._retire()
        out = self._free_out.pop() if self._free_out else self._new(OUT_MARGIN)
        hashed = None if content is None else content.push(source)
        arguments = (dtype, self._chunk_size, self._compress, source, out)
        if len(source) <= INLINE_SIZE_MAX:
            encoded: Future[tuple[int, NDArray[Any]]] = Future()
            encoded.set_result(lib.encode_chunks(*arguments))
        else:
            encoded = self._pool.submit(lib.encode_chunks, *arguments)
        batch = _Batch(spec, source, is_last, out, encoded, content, hashed, staging)
        self._under_way.append(batch)

    def _retire(self) -> None:
        """Finishes the oldest batch."""
        batch = self._under_way.popleft()
        size, entries = batch.encoded.result()
        offset = self._builder.put_chunks(batch.spec, entries)
        self._sink.write_at(offset, batch.out.data[:size] if size else batch.source)
        if batch.hashed is not None:
            batch.hashed.result()
        if batch.is_last:
            self._builder.put_content(batch.spec, _content_digest(batch, entries))
        self._free_out.append(batch.out)
        if batch.staging is not None:
            self._free_staging.append(batch.staging)

    def _staging(self) -> NDArray[np.uint8]:
        return self._free_staging.pop() if self._free_staging else self._new(0)

    def _new(self, margin: int) -> NDArray[np.uint8]:
        return np.empty(self._batch_size + margin, np.uint8)


def _content_digest(batch: _Batch, entries: NDArray[Any]) -> bytes:
    if batch.content is not None:
        return batch.content.digest()
    if entries[0]["stored_length"] == len(batch.source):
        # The only chunk, and it is raw (encoded ones are shorter): its digest is of the same bytes.
        return bytes(entries[0]["digest"])
    return lib.blake3(batch.source)
