"""The transfer engine with sources that fail, block, or are sequential."""

from __future__ import annotations

import contextlib
import gc
import io
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from tests.files import File, Tensor, make_file, random_tensor, weights

import libtz
from libtz import opening
from libtz.errors import IntegrityError, SourceError
from libtz.options import ReadOptions
from libtz.sources.base import Profile, Source
from libtz.sources.memory import MemorySource
from libtz.transfer import engine
from libtz.transfer.concurrency import Concurrency
from libtz.transfer.engine import Transfer
from libtz.transfer.host import HostTarget
from libtz.transfer.staging import SlotRing, Stopped

MIB = 1 << 20


class ScriptedSource(Source):
    """Bytes in memory behind a script, which is called before each buffer is filled: with the
    number of the read, and the place in the file. Looks remote to the engine."""

    url = "scripted"
    identity: str | None = None

    def __init__(
        self, data: bytes, script: Callable[[int, int], None], *, sequential: bool = False
    ) -> None:
        self._memory = MemorySource(data)
        self._script = script
        self._lock = threading.Lock()
        self.size = len(data)
        self.stats = self._memory.stats
        self.sequential = sequential
        self.closed = threading.Event()
        self.reads: list[tuple[int, int, int]] = []  # offset, size, thread

    def open(self, front: memoryview) -> int:
        return self._memory.open(front)

    def read_into(self, offset: int, size: int, buffers: Iterable[memoryview]) -> None:
        with self._lock:
            number = len(self.reads)
            self.reads.append((offset, size, threading.get_ident()))

        def scripted() -> Iterator[memoryview]:
            place = offset
            for buffer in buffers:
                self._script(number, place)
                yield buffer
                place += len(buffer)

        self._memory.read_into(offset, size, scripted())

    def profile(self, begin: int, end: int, options: ReadOptions) -> Profile:
        if self.sequential:
            return Profile(1, 1)
        return Profile(min(4, options.connections_max), options.connections_max, ramps=True)

    def check_unchanged(self) -> None:
        pass

    def close(self) -> None:
        self.closed.set()
        self._memory.close()


@pytest.fixture(scope="module")
def file() -> File:
    tensors = {f"{i:02}": random_tensor("u8", (2 * MIB,), i) for i in range(32)}
    tensors |= {f"small.{i}": random_tensor("f32", (i,), i) for i in range(100)}
    return make_file(tensors)


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert not set(threading.enumerate()) - before  # threads of earlier tests may end meanwhile


def open_scripted(
    monkeypatch: pytest.MonkeyPatch,
    data: bytes,
    script: Callable[[int, int], None] = lambda number, place: None,
    *,
    sequential: bool = False,
    **options: Any,
) -> tuple[libtz.Checkpoint[Any], ScriptedSource]:
    source = ScriptedSource(data, script, sequential=sequential)
    monkeypatch.setattr(opening, "resolve_source", lambda *_: source)
    anything: Any = source
    return libtz.open(anything, options=ReadOptions(**options)), source


def contents(file: File) -> dict[str, bytes]:
    return {name: tensor.data for name, tensor in file.tensors.items()}


def test_requests_run_on_several_threads(monkeypatch: pytest.MonkeyPatch, file: File) -> None:
    f, source = open_scripted(monkeypatch, file.data, lambda *_: time.sleep(0.001))
    with f:
        assert {name: bytes(data) for name, data in f.iter_buffers()} == contents(file)
    assert len({thread for *_, thread in source.reads}) > 1
    assert source.closed.is_set()


def test_a_sequential_source_is_read_forward_by_one_thread(
    monkeypatch: pytest.MonkeyPatch, file: File
) -> None:
    f, source = open_scripted(monkeypatch, file.data, sequential=True)
    with f:
        f.load()
        assert f.stats.threads == 1
    ends = [offset + size for offset, size, _ in source.reads]
    assert all(begin >= end for (begin, *_), end in zip(source.reads[1:], ends, strict=False))
    assert {thread for *_, thread in source.reads} == {threading.get_ident()}


def test_a_system_without_more_threads(monkeypatch: pytest.MonkeyPatch, file: File) -> None:
    start = threading.Thread.start
    for allowed in (0, 1):
        left = [None] * allowed

        def start_some(thread: threading.Thread, left: list[None] = left) -> None:
            if not left:
                raise RuntimeError("can't start new thread")
            left.pop()
            start(thread)

        f, _ = open_scripted(monkeypatch, file.data)
        with f, monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", start_some)
            assert {name: bytes(data) for name, data in f.iter_buffers()} == contents(file)
            assert f.stats.threads == 1


class OopsError(Exception):
    pass


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("error", [SourceError("gone", url="x"), OopsError("bug"), MemoryError()])
def test_the_first_error_ends_everything(
    monkeypatch: pytest.MonkeyPatch, file: File, error: Exception, sequential: bool
) -> None:
    def script(number: int, place: int) -> None:
        if place > 20 * MIB:
            raise error

    f, source = open_scripted(monkeypatch, file.data, script, sequential=sequential)
    with pytest.raises(type(error)):
        f.load()
    assert source.closed.is_set()
    with pytest.raises(libtz.OptionError, match="is closed"):
        f.load()


def test_an_error_frees_threads_that_wait_for_the_network(
    monkeypatch: pytest.MonkeyPatch, file: File
) -> None:
    waiting = threading.Event()

    def script(number: int, place: int) -> None:
        if number == 0:
            waiting.set()
            assert source.closed.wait(30)  # like a socket, which wakes when it is closed
            raise SourceError("closed", url="x")
        if number == 2:
            assert waiting.wait(30)
            raise OopsError

    f, source = open_scripted(monkeypatch, file.data, script)
    begin = time.monotonic()
    with pytest.raises(OopsError):
        f.load()
    assert time.monotonic() - begin < 5


def test_ctrl_c_ends_everything(monkeypatch: pytest.MonkeyPatch, file: File) -> None:
    def script(number: int, place: int) -> None:
        if number == 1:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        if number > 0 and not source.closed.wait(30):
            raise OopsError("nobody closed the source")

    f, source = open_scripted(monkeypatch, file.data, script)
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        f.load()
    assert time.monotonic() - begin < 5
    assert source.closed.is_set()


def test_ctrl_c_while_threads_start_ends_everything(
    monkeypatch: pytest.MonkeyPatch, file: File
) -> None:
    start = threading.Thread.start

    def start_and_interrupt(thread: threading.Thread) -> None:
        start(thread)
        if threading.current_thread() is threading.main_thread():
            signal.raise_signal(signal.SIGINT)

    def script(number: int, place: int) -> None:
        if not source.closed.wait(30):
            raise OopsError("nobody closed the source")

    f, source = open_scripted(monkeypatch, file.data, script)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start_and_interrupt)
        with pytest.raises(KeyboardInterrupt):
            f.load()
    assert source.closed.is_set()


def test_ctrl_c_after_threads_were_started_waits_for_them(
    monkeypatch: pytest.MonkeyPatch, file: File
) -> None:
    enter = Transfer.__enter__

    def enter_and_interrupt(transfer: Transfer) -> None:
        enter(transfer)
        raise KeyboardInterrupt

    def script(number: int, place: int) -> None:
        assert source.closed.wait(30)
        time.sleep(0.3)  # what is seen by the thread count of a load that does not wait

    f, source = open_scripted(monkeypatch, file.data, script)
    with monkeypatch.context() as patched:
        patched.setattr(Transfer, "__enter__", enter_and_interrupt)
        with pytest.raises(KeyboardInterrupt):
            f.load()


def test_damage_in_the_middle_names_tensor_and_chunk(
    monkeypatch: pytest.MonkeyPatch, file: File
) -> None:
    data = bytearray(file.data)
    data[data.index(file.tensors["20"].data[MIB : MIB + 64])] ^= 1
    f, _ = open_scripted(monkeypatch, bytes(data))
    with pytest.raises(IntegrityError) as caught:
        f.load()
    assert (caught.value.tensor, caught.value.chunk) == ("20", 1)
    f, _ = open_scripted(monkeypatch, bytes(data))
    seen: dict[str, Any] = {}
    with pytest.raises(IntegrityError):
        seen.update(f.iter_tensors())
    assert "20" not in seen
    assert all(tensor.numpy().tobytes() == file.tensors[n].data for n, tensor in seen.items())


def test_an_error_does_not_keep_what_was_received(
    monkeypatch: pytest.MonkeyPatch, file: File
) -> None:
    def script(number: int, place: int) -> None:
        if place > 30 * MIB:
            raise OopsError

    f, _ = open_scripted(monkeypatch, file.data, script)
    gc.collect()
    before = set(map(id, targets()))
    gc.disable()  # it must be freed with the exception, not later
    try:
        with contextlib.suppress(OopsError):
            f.load()
        assert [target for target in targets() if id(target) not in before] == []
    finally:
        gc.enable()


def targets() -> list[object]:
    return [item for item in gc.get_objects() if type(item) is HostTarget]


def test_tensors_come_before_the_last_byte(monkeypatch: pytest.MonkeyPatch, file: File) -> None:
    reached = threading.Event()

    def script(number: int, place: int) -> None:
        if place > 40 * MIB:
            assert reached.wait(30)

    f, _ = open_scripted(monkeypatch, file.data, script, request_size_max=MIB)
    with f:
        for name, _ in f.iter_tensors():
            if name == "05":
                reached.set()
    assert reached.is_set()


def test_reading_ahead_is_bounded(monkeypatch: pytest.MonkeyPatch, file: File) -> None:
    f, source = open_scripted(monkeypatch, file.data, host_memory_max=16 * MIB)
    with f:
        before = source.stats.bytes
        handed_out = 0
        for _, tensor in f.iter_tensors():
            time.sleep(0.005)
            handed_out += tensor.nbytes
            ahead = source.stats.bytes - before - handed_out
            assert ahead < 20 * MIB


def test_an_iteration_given_up_leaves_the_file_usable(
    monkeypatch: pytest.MonkeyPatch, file: File
) -> None:
    f, source = open_scripted(monkeypatch, file.data)
    with f:
        iterator = f.iter_tensors()
        next(iterator)
        del iterator
        gc.collect()
        assert not source.closed.is_set()
        assert len(f.load()) == len(file.tensors)


def test_an_iteration_given_up_does_not_wait_for_a_server_that_stalls(
    monkeypatch: pytest.MonkeyPatch, file: File
) -> None:
    def script(number: int, place: int) -> None:
        if place > 10 * MIB and not source.closed.wait(30):
            raise OopsError("nobody closed the source")

    monkeypatch.setattr(engine, "GRACE_S", 0.1)
    f, source = open_scripted(monkeypatch, file.data, script)
    iterator = f.iter_tensors()
    next(iterator)
    begin = time.monotonic()
    iterator.close()  # type: ignore[attr-defined]
    assert time.monotonic() - begin < 5
    f.close()


def test_an_iteration_collected_by_a_thread_of_its_own(
    monkeypatch: pytest.MonkeyPatch, file: File
) -> None:
    is_left_over, collected = threading.Event(), threading.Event()

    def script(number: int, place: int) -> None:
        if place > 10 * MIB:
            assert is_left_over.wait(30)

    prepare = HostTarget.prepare

    def prepare_and_collect(target: HostTarget, count: int) -> None:
        prepare(target, count)  # by a worker that has the lock that all workers need
        if is_left_over.is_set() and not collected.is_set():
            collected.set()
            gc.collect()

    monkeypatch.setattr(HostTarget, "prepare", prepare_and_collect)
    monkeypatch.setattr(engine, "GRACE_S", 60)  # a thread that waits for others is still there
    f, _ = open_scripted(monkeypatch, file.data, script, request_size_max=MIB)
    with f:
        before = threading.active_count()
        cycle: list[Any] = [f.iter_tensors()]
        cycle.append(cycle)
        next(cycle[0])
        gc.disable()
        try:
            del cycle
            is_left_over.set()
            deadline = time.monotonic() + 30
            while threading.active_count() > before and time.monotonic() < deadline:
                time.sleep(0.01)
        finally:
            gc.enable()
        assert collected.is_set()
        assert threading.active_count() <= before
        assert len(f.load()) == len(file.tensors)


def test_a_tensor_larger_than_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    data = weights(MIB) * 16
    file = make_file({"t": Tensor("bf16", (len(data) // 2,), data)}, compress=True)
    f, _ = open_scripted(monkeypatch, file.data, host_memory_max=8 * MIB)
    with f:
        assert [bytes(view) for _, view in f.iter_buffers()] == [data]
        assert f.stats.host_memory <= 8 * MIB


def test_a_bar_on_request_only(
    monkeypatch: pytest.MonkeyPatch, file: File, capfd: pytest.CaptureFixture[str]
) -> None:
    for sequential in (False, True):
        f, _ = open_scripted(monkeypatch, file.data, sequential=sequential)
        with f:
            f.load()
        assert capfd.readouterr().err == ""
        f, _ = open_scripted(monkeypatch, file.data, sequential=sequential, progress=True)
        with f:
            f.load()
        assert "scripted" in capfd.readouterr().err


def test_a_bar_on_terminals(monkeypatch: pytest.MonkeyPatch, file: File) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for wish, is_shown in ((None, True), (False, False)):
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stderr", terminal := Terminal())
            f, _ = open_scripted(monkeypatch, file.data, progress=wish)
            with f:
                f.load()
        assert ("scripted" in terminal.getvalue()) == is_shown


# ---- Slots ---------------------------------------------------------------------------------------


class Use:
    def __init__(self) -> None:
        self.waited = 0

    def synchronize(self) -> None:
        self.waited += 1


def test_slots_are_made_when_needed_and_used_again() -> None:
    ring = SlotRing(object, 2)
    first = ring.acquire()
    ring.release(first)
    assert ring.acquire() is first
    assert ring.made == 1
    second = ring.acquire()
    assert ring.made == 2
    use = Use()
    ring.release(second, use)
    assert ring.acquire() is second
    assert use.waited == 1


def test_a_slot_in_use_is_not_waited_for_while_another_can_be_made() -> None:
    ring = SlotRing(object, 2)
    use = Use()
    slot = ring.acquire()
    ring.release(slot, use)
    assert ring.acquire() is not slot
    assert use.waited == 0


def test_waiting_for_a_slot() -> None:
    ring = SlotRing(object, 1)
    slot = ring.acquire()
    got: list[object] = []

    def take() -> None:
        try:
            got.append(ring.acquire())
        except Stopped:
            got.append("stopped")

    threads = [threading.Thread(target=take) for _ in range(2)]
    for thread in threads:
        thread.start()
    ring.release(slot)
    deadline = time.monotonic() + 10
    while not got and time.monotonic() < deadline:
        time.sleep(0.001)
    assert got == [slot]
    ring.stop()
    for thread in threads:
        thread.join()
    assert got == [slot, "stopped"]


# ---- The number of threads -----------------------------------------------------------------------


def rates(
    concurrency: Concurrency, rate_of: Callable[[int], float], seconds: float = 5
) -> list[int]:
    """Simulates a link. Returns the number of threads in every tenth of a second."""
    threads, total = [], 0.0
    for step in range(int(seconds * 10)):
        concurrency.note(step / 10, int(total), 0)
        total += rate_of(concurrency.threads) / 10
        threads.append(concurrency.threads)
    return threads


def test_more_threads_while_they_help() -> None:
    threads = rates(Concurrency(4, 32), lambda n: 10e6 * min(n, 20))
    assert threads[0] == 4
    assert 20 <= threads[29] <= 32  # within three seconds


def test_no_more_threads_on_a_full_link() -> None:
    assert max(rates(Concurrency(4, 32), lambda n: 100e6)) <= 6


def test_a_step_that_costs_is_taken_back_and_tried_again_after_a_rest() -> None:
    threads = rates(Concurrency(4, 32), lambda n: 100e6 - 1e6 * n, seconds=25)
    begins = [i for i in range(1, len(threads)) if threads[i] == 6 and threads[i - 1] == 4]
    assert 2 <= len(begins) <= 4
    assert threads.count(4) > 0.9 * len(threads)


def test_threads_follow_a_link_that_becomes_faster() -> None:
    concurrency, total, faster_at = Concurrency(4, 32), 0.0, 3.0
    for step in range(300):
        now = step / 10
        concurrency.note(now, int(total), 0)
        total += (1e6 * min(concurrency.threads, 4 if now < faster_at else 20)) / 10
        if now == faster_at:
            assert concurrency.threads <= 6
    assert concurrency.threads >= 20


def test_fewer_threads_when_asked_to_slow_down() -> None:
    concurrency = Concurrency(8, 32)
    concurrency.note(0, 0, 0)
    concurrency.note(0.1, 100, 1)
    assert concurrency.threads == 4
    concurrency.note(0.2, 200, 1)
    assert concurrency.threads == 4
    concurrency.note(0.3, 300, 4)  # responses to requests of the same time
    assert concurrency.threads == 4
    for step in range(10):
        concurrency.note(1 + step, 10_000 * step, 2 + step)
    assert concurrency.threads == 1


def test_throttling_before_the_load_does_not_count(
    monkeypatch: pytest.MonkeyPatch, file: File
) -> None:
    f, source = open_scripted(
        monkeypatch, file.data, lambda *_: time.sleep(0.01), request_size_max=MIB
    )
    source.stats.throttled = 3  # from an earlier load, or from opening
    with f:
        f.load()
    assert len({thread for *_, thread in source.reads[-20:]}) > 2


def test_fewer_threads_when_some_get_nothing(monkeypatch: pytest.MonkeyPatch, file: File) -> None:
    def script(number: int, place: int) -> None:
        time.sleep(0.01)
        if number == 8:
            source.stats.add(repeated_failures=1)

    f, source = open_scripted(monkeypatch, file.data, script, request_size_max=MIB)
    with f:
        f.load()
    assert len({thread for *_, thread in source.reads[-20:]}) <= 2


def test_threads_come_back_when_the_server_has_recovered() -> None:
    concurrency, total = Concurrency(8, 32), 0.0
    for step in range(300):
        concurrency.note(step / 10, int(total), min(step // 5, 3))
        total += 1e6 * min(concurrency.threads, 16) / 10
        if step == 60:
            assert concurrency.threads == 1
    assert concurrency.threads >= 16


def test_the_limit_holds() -> None:
    assert max(rates(Concurrency(4, 5), lambda n: 10e6 * n)) == 5
    assert Concurrency(4, 2).threads == 2
