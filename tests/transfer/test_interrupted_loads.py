"""Loads that end by a signal: all threads have ended, and no memory is written any more."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.files import make_file, random_tensor
from tests.transfer.test_engine import ScriptedSource

from libtz._native import lib
from libtz.options import ReadOptions
from libtz.torch.filling import _buffer
from libtz.transfer.items import LoadItems
from libtz.transfer.load import Load, LoadOptions
from libtz.transfer.signals import HeldSignals
from libtz.transfer.verification import ChunkChecks

ROOT = Path(__file__).parents[2]
SEEDS = 60
MIB = 1 << 20


@pytest.mark.slow
def test_nothing_is_left_however_often_a_load_is_interrupted() -> None:
    command = [sys.executable, "-m", "tests.transfer.interrupted_loads", str(SEEDS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > SEEDS / 3


# ---- Held signals --------------------------------------------------------------------------------


def kill() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_signals_wait_until_they_are_called_for() -> None:
    woken = []
    held = HeldSignals(wake=lambda: woken.append(True))
    before = signal.getsignal(signal.SIGINT)
    held.hold()
    kill()
    kill()
    assert woken == [True, True]
    with pytest.raises(KeyboardInterrupt):
        held.deliver()
    held.deliver()  # both were delivered
    kill()
    with pytest.raises(KeyboardInterrupt):
        held.release()
    assert signal.getsignal(signal.SIGINT) == before
    held.release()
    with pytest.raises(KeyboardInterrupt):
        kill()


def test_handlers_of_the_user_run_and_may_be_changed_by_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []

    def first(number: int, frame: Any) -> None:
        seen.append("first")
        signal.signal(signal.SIGINT, second)

    def second(number: int, frame: Any) -> None:
        seen.append("second")

    before = signal.signal(signal.SIGINT, first)
    try:
        held = HeldSignals()
        held.hold()
        kill()
        held.deliver()
        kill()
        held.release()
        assert signal.getsignal(signal.SIGINT) is second
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == ["first", "second"]


def test_each_handler_runs_even_if_another_raises() -> None:
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("SIGTERM"))
    try:
        held = HeldSignals()
        held.hold()
        kill()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            held.release()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == ["SIGTERM"]


def test_ignored_signals_stay_ignored_and_other_threads_hold_nothing() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with HeldSignals():
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    held = HeldSignals()
    thread = threading.Thread(target=held.hold)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) == before


# ---- Memory --------------------------------------------------------------------------------------


def test_memory_of_a_module_lives_as_long_as_someone_may_write_to_it() -> None:
    tensor = torch.zeros(1000)
    storage = weakref.ref(tensor.untyped_storage())
    buffer = _buffer(tensor)
    del tensor
    gc.collect()
    assert storage() is not None
    assert buffer.view().nbytes == 4000
    del buffer
    gc.collect()
    assert storage() is None


def test_a_load_that_is_never_left_ends_when_it_is_dropped() -> None:
    data = make_file({f"{i:02}": random_tensor("u8", (MIB,), i) for i in range(16)}).data
    source = ScriptedSource(data, lambda number, place: time.sleep(0.001))
    header = lib.Header.open(data, len(data), label="file")
    assert isinstance(header, lib.Header)
    for offset, size in header.entry_ranges(None):
        header.put_entries(offset, data[offset : offset + size])
    entries = header.tensors(range(16))
    items = LoadItems(entries, np.arange(16, dtype=np.uint32))
    options = ReadOptions(request_size_max=MIB, host_memory_max=8 * MIB, progress=False)
    before = threading.active_count()
    checks = ChunkChecks(lib.VERIFY_CRC)
    load = Load(source, header, items, checks, LoadOptions(options, is_streamed=True))
    load.__enter__()
    load.wait(0)
    assert threading.active_count() > before
    del load  # its window is small, so its threads wait for a consumer
    end = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() == before
