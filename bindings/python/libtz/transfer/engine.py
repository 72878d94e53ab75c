"""Runs a plan: takes its requests in order, receives their bytes into the right memory, and checks
and decodes them while they are still in cache.

Threads. Each worker takes the next request, so the file is read roughly front to back. The calling
thread waits, or does the work itself if one worker is enough. The first error stops everything:
the source is closed, which ends reads that wait for the network, and received data is dropped.

A load does not return before its workers have ended, because they may write to the caller's memory.
Until then, signals are held back: `wait` raises the first Ctrl-C, and a later one is raised when
all workers have ended. An iteration delivers signals between two tensors: its workers write to
memory that the transfer keeps alive.

Memory. A request waits for a staging slot if its plan needs one. With a window, it also waits until
the consumer has taken enough complete tensors.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType

from libtz._native import lib
from libtz.sources.base import Source
from libtz.transfer.concurrency import Concurrency
from libtz.transfer.progress import PERIOD_S, Progress
from libtz.transfer.schedule import Schedule
from libtz.transfer.signals import HeldSignals
from libtz.transfer.staging import Stopped
from libtz.transfer.stats import WorkerTimes
from libtz.transfer.target import Request, StagingBuffer, Target

__all__ = ["SCRATCH_SIZE_MAX", "EngineOptions", "Transfer"]

# Bytes that are not wanted are read into memory of at most this size.
SCRATCH_SIZE_MAX = 1 << 20

# How often a worker that waits for the consumer checks for room.
WINDOW_POLL_S = 0.002

# When an iteration is abandoned, its workers have this long to finish their current pieces before
# the source is closed to wake them.
GRACE_S = 5.0


@dataclass(frozen=True)
class EngineOptions:
    threads: int  # to begin with
    threads_max: int
    verify: int  # lib.VERIFY_*
    piece_size: int
    window: int | None = None  # bytes of allocations that may wait for the consumer
    observe: Callable[[memoryview], None] | None = None  # gets all bytes in order; one thread only
    # Called by the worker for each request that has arrived, before waiting threads wake.
    arrived: Callable[[int], None] | None = None


@dataclass
class _Worker:
    times: WorkerTimes = field(default_factory=WorkerTimes)
    scratch: memoryview = field(default_factory=lambda: memoryview(b""))


class Transfer:
    """A context manager, for one thread. Call `wait` and `release` inside it."""

    def __init__(
        self,
        source: Source,
        schedule: Schedule,
        target: Target,
        options: EngineOptions,
        progress: Progress,
    ) -> None:
        self._source = source
        self._schedule = schedule
        self._plan = schedule.plan
        self._target = target
        self._options = options
        self._progress = progress
        # These only ever grow. The last two are set by the consumer.
        self._is_stopped = False
        self._required_end = 0  # the consumer waits for the requests before this one
        self._released = 0  # bytes of allocations that the consumer has taken
        # One entry per finished request, error or signal.
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._signals = HeldSignals(wake=functools.partial(self._news.put, None))
        # Among workers, this condition guards everything below.
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._next = 0  # the next request to take
        self._done = bytearray(schedule.request_count)
        self._done_end = 0  # all requests before this one are done
        self._active = 0
        self._running = 0  # threads that have not ended
        self._is_abandoned = False  # the last thread cleans up
        self._concurrency = Concurrency(
            options.threads,
            min(options.threads_max, schedule.request_count),
            _refusals(source),
        )
        self._threads: list[threading.Thread] = []
        self._workers: list[_Worker] = []

    def __enter__(self) -> Transfer:
        if self._options.threads > 1 and self._schedule.request_count > 1:
            self._signals.hold()
            if self._start_thread():  # this one starts the others
                return self
            self._signals.release()
        self._workers.append(self._new_worker())
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if threading.current_thread() in self._threads:
            # The garbage collector closes an abandoned iteration in one of its own threads, which
            # cannot wait for itself, nor for the others while it holds a lock. They end soon.
            self.abandon()
            return
        self._signals.hold()  # an iteration may have released them
        try:
            self._stop()
            # A consumer that stops early leaves the source open for the next load.
            if error_type is not None and not issubclass(error_type, GeneratorExit):
                self._source.close()
            self._join()
            self._clean_up()
        finally:
            self._signals.release()

    def _join(self) -> None:
        with self._changed:
            threads = list(self._threads)  # all have started, and no others will
        end_s = time.monotonic() + GRACE_S
        for thread in threads:
            thread.join(max(0.0, end_s - time.monotonic()))
            if thread.is_alive():
                self._source.close()
                thread.join()

    def _clean_up(self) -> None:
        self._target.close()
        self._progress.close()

    def abandon(self) -> None:
        """Stops the workers without waiting for them. The last one cleans up."""
        with self._changed:
            self._is_abandoned = True
            is_over = self._running == 0
        self._stop()
        if is_over:
            self._clean_up()

    def _stop(self) -> None:
        self._is_stopped = True
        self._target.stop()

    @property
    def times(self) -> WorkerTimes:
        """Sums over all workers so far."""
        all_times = [worker.times for worker in self._workers]
        return WorkerTimes(
            receive=sum(times.receive for times in all_times),
            process=sum(times.process for times in all_times),
            upload=sum(times.upload for times in all_times),
            bytes_read=sum(times.bytes_read for times in all_times),
        )

    @property
    def thread_count(self) -> int:
        return max(1, len(self._threads))

    # ---- The consumer's side ----

    def wait(self, request_end: int) -> None:
        """Returns when all requests before `request_end` are done. Raises the first error, and what
        signal handlers raise. After an exception, the transfer can only be left."""
        if not self._threads:
            self._work_here(request_end)
            return
        self._required_end = max(self._required_end, request_end)
        if self._done_end < request_end and self._error is None:
            self._signals.hold()
        while self._done_end < request_end and self._error is None:
            with contextlib.suppress(queue.Empty):
                self._news.get(timeout=PERIOD_S if self._progress.is_shown else None)
            self._signals.deliver()
            self._progress.show(self.times.bytes_read, self._source.stats.trouble)
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # else a reference cycle with this frame would keep all received data
        if self._options.window is not None:
            self._signals.release()

    def release(self, size: int) -> None:
        """The consumer has taken allocations of `size` bytes."""
        self._released += size

    def _work_here(self, request_end: int) -> None:
        worker = self._workers[0]
        while self._next < request_end:
            self._target.prepare(int(self._schedule.allocation_count_at[self._next]))
            self._run(self._next, worker)
            self._next += 1

    # ---- The workers' side ----

    def _new_worker(self) -> _Worker:
        size = min(self._plan.info.gap_size_max, SCRATCH_SIZE_MAX)
        return _Worker(scratch=memoryview(bytearray(size)))

    def _start_threads(self) -> None:
        while (
            not self._is_stopped
            and self._active < self._concurrency.threads
            and self._start_thread()
        ):
            pass

    def _start_thread(self) -> bool:
        worker = self._new_worker()
        self._workers.append(worker)
        thread = threading.Thread(
            target=self._work, args=(worker,), name=f"libtz-{len(self._workers)}", daemon=True
        )
        self._active += 1
        self._running += 1
        self._threads.append(thread)
        try:
            thread.start()
        except RuntimeError:  # a limit, or interpreter shutdown: go on with the others
            self._threads.remove(thread)
            self._active -= 1
            self._running -= 1
            return False
        return True

    def _work(self, worker: _Worker) -> None:
        try:
            with self._changed:
                self._start_threads()
            while (request := self._take()) is not None:
                self._run(request, worker)
                self._finish(request)
        except Stopped:
            pass
        except BaseException as error:
            self._fail(error)
        finally:
            with self._changed:
                self._running -= 1
                is_last = self._running == 0
            if is_last and self._is_abandoned:
                self._clean_up()

    def _take(self) -> int | None:
        with self._changed:
            while True:
                if self._is_stopped or self._next == self._schedule.request_count:
                    return None
                if self._active > self._concurrency.threads:
                    self._active -= 1
                    return None
                if self._is_admitted(self._next):
                    break
                self._changed.wait(WINDOW_POLL_S)
            request = self._next
            self._next += 1
            self._target.prepare(int(self._schedule.allocation_count_at[request]))
            return request

    def _is_admitted(self, request: int) -> bool:
        window = self._options.window
        if window is None or request < self._required_end:
            return True
        return int(self._schedule.bytes_at[request]) - self._released <= window

    def _finish(self, request: int) -> None:
        with self._changed:
            self._done[request] = 1
            while self._done_end < len(self._done) and self._done[self._done_end]:
                self._done_end += 1
            self._concurrency.note(time.monotonic(), self.times.bytes_read, _refusals(self._source))
            if self._next < self._schedule.request_count and not self._is_stopped:
                self._start_threads()
            self._changed.notify_all()
        self._news.put(None)

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            if self._error is None and not self._is_stopped:
                self._error = error
        self._stop()
        self._source.close()
        self._news.put(None)

    # ---- One request ----

    def _run(self, number: int, worker: _Worker) -> None:
        request = Request(*self._plan.requests[number].item())
        slot = self._target.acquire() if request.staging_size else None
        cursor = lib.new_cursor()

        def process(received: int) -> None:
            begin = time.perf_counter()
            self._plan.process(
                number,
                received,
                slot.address if slot else 0,
                self._target.addresses,
                self._options.verify,
                cursor,
            )
            worker.times.process += time.perf_counter() - begin

        processed_before = worker.times.process
        begin = time.perf_counter()
        buffers = self._buffers(request, slot, worker, process)
        self._source.read_into(request.offset, request.size, buffers)
        process(request.size)
        if self._options.arrived is not None:
            begin_check = time.perf_counter()
            self._options.arrived(number)
            worker.times.process += time.perf_counter() - begin_check
        now = time.perf_counter()
        worker.times.receive += now - begin - (worker.times.process - processed_before)
        if slot is not None:
            self._target.deliver(request, slot)
            worker.times.upload += time.perf_counter() - now

    def _buffers(
        self,
        request: Request,
        slot: StagingBuffer | None,
        worker: _Worker,
        process: Callable[[int], None],
    ) -> Iterator[memoryview]:
        """The memory for a request's bytes, piece by piece. When the next piece is requested, the
        one before it has arrived."""
        received = processed = 0
        piece_size = self._options.piece_size
        for view in self._segments(request, slot, worker.scratch):
            for begin in range(0, len(view), piece_size):
                if self._is_stopped:
                    raise Stopped
                piece = view[begin : begin + piece_size]
                yield piece
                received += len(piece)
                worker.times.bytes_read += len(piece)
                if self._options.observe is not None:
                    self._options.observe(piece)
                if not self._threads:
                    self._progress.show(worker.times.bytes_read, self._source.stats.trouble)
                if received - processed >= piece_size and received < request.size:
                    process(received)
                    processed = received

    def _segments(
        self, request: Request, slot: StagingBuffer | None, scratch: memoryview
    ) -> Iterator[memoryview]:
        begin = request.segment_begin
        segments = self._plan.segments[begin : begin + request.segment_count]
        for size, position, allocation, _ in segments.tolist():
            if allocation == lib.TO_NOWHERE:
                for done in range(0, size, len(scratch)):
                    yield scratch[: size - done]
            elif allocation == lib.TO_STAGING:
                if slot is None:
                    raise RuntimeError("a request without staging memory has a segment there")
                yield slot.view[position : position + size]
            else:
                yield self._target.view(allocation)[position : position + size]


def _refusals(source: Source) -> int:
    """A server at its connection limit may not say so: further connections just get no data."""
    return source.stats.throttled + source.stats.repeated_failures
