"""Loads from misbehaving HTTP servers into tensors."""

from __future__ import annotations

import gc
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tests.faults.server import Fault, FaultServer, Request
from tests.files import File, make_file, random_tensor
from tests.raising import raises
from tests.servers import Nginx

import libtz
import libtz.torch
from libtz.errors import IntegrityError, SourceError, SourceNotFoundError
from libtz.options import HttpOptions, ReadOptions, RetryPolicy
from libtz.sources.stragglers import Stragglers

MIB = 1 << 20
QUICK = RetryPolicy(attempts=10, backoff_s=0.01, backoff_max_s=0.02)
OPTIONS = ReadOptions(
    http=HttpOptions(retry=QUICK, timeout_s=5, proxies={}), request_size_max=2 * MIB
)


@pytest.fixture(scope="module")
def file() -> File:
    tensors = {f"{i:02}": random_tensor("f32", (MIB // 4 + i,), i) for i in range(20)}
    tensors |= {f"small.{i}": random_tensor("u8", (i * 10,), i) for i in range(50)}
    return make_file(tensors, metadata={"pad": "x" * 2 * MIB})  # a header of several reads


def assert_loads(url: str, file: File, **pin: str) -> libtz.Checkpoint[Any]:
    with libtz.open(url, options=OPTIONS, digest=pin.get("digest")) as f:
        loaded = {name: bytes(data) for name, data in f.iter_buffers()}
        assert loaded == {name: tensor.data for name, tensor in file.tensors.items()}
        tensors = f.load()
        assert all(
            tensor.view(-1).numpy().tobytes() == file.tensors[name].data
            for name, tensor in tensors.items()
        )
    return f


def test_loading_over_http(nginx: Nginx, file: File) -> None:
    (nginx.root / "model.tz").write_bytes(file.data)
    url = f"{nginx.http}/model.tz"
    assert assert_loads(url, file).stats.connections <= 8
    assert assert_loads(url, file, digest=file.digest).verified == "pinned"


def test_requests_do_not_exceed_what_opening_needs(file: File) -> None:
    with FaultServer(file.data) as server, libtz.open(server.url(), options=OPTIONS) as f:
        assert len(server.requests) <= 2
        f["00"]
        assert len(server.requests) <= 4  # its chunk entries, and its data


def test_a_server_without_ranges(file: File) -> None:
    with FaultServer(file.data, has_ranges=False) as server:
        assert assert_loads(server.url(), file).stats.threads == 1


def test_a_server_that_breaks_off_now_and_then(file: File) -> None:
    chance = random.Random(5)
    with FaultServer(file.data) as server:
        server.faults.extend(
            chance.choice([None, Fault(drop_after=100_000), Fault(reset=True, drop_after=5)])
            for _ in range(40)
        )
        assert_loads(server.url(), file)


def test_an_object_replaced_during_the_load(file: File) -> None:
    with FaultServer(file.data) as server:
        f = libtz.open(server.url(), options=OPTIONS)
        server.data = bytes(len(file.data))
        server.etag = '"v2"'
        before = threading.active_count()
        with f, pytest.raises(SourceError, match="changed"):
            f.load()
        assert threading.active_count() <= before


def test_a_server_that_changes_bits(file: File) -> None:
    data = bytearray(file.data)
    data[data.index(file.tensors["07"].data[1000:1064])] ^= 4
    with FaultServer(bytes(data)) as server:
        for digest in (None, file.digest):
            with (
                libtz.open(server.url(), options=OPTIONS, digest=digest) as f,
                raises(IntegrityError, tensor="07", chunk=0),
            ):
                f.load()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stragglers, "after_s", 0.3)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("where", ["head", "body"])
def test_a_request_that_hangs_is_begun_anew_elsewhere(file: File, where: str) -> None:
    options = ReadOptions(
        http=HttpOptions(retry=QUICK, timeout_s=60, proxies={}), request_size_max=MIB
    )
    released = threading.Event()
    with FaultServer(file.data) as server:
        f = libtz.open(server.url(), options=options)
        before = len(server.requests)
        # First, enough correct responses to compare with.
        hanging = Fault(stall_after=300_000 if where == "body" else 0)
        if where == "head":
            hanging = Fault(act=lambda: released.wait(30))
        faults = [None] * 8 + [hanging] + [None] * 3 + [hanging]

        def decide(request: Request) -> Fault | None:
            # Only whole megabytes: a short body would arrive completely before it stalls.
            begin, end = request.range or (0, 0)
            return faults.pop(0) if faults and end - begin == MIB else None

        server.decide = decide
        begin = time.monotonic()
        with f:
            loaded = {name: bytes(data) for name, data in f.iter_buffers()}
            seconds = time.monotonic() - begin
        released.set()
    assert loaded == {name: tensor.data for name, tensor in file.tensors.items()}
    assert seconds < 10
    assert (f.stats.restarts, f.stats.retries) == (2, 0)
    asked = [request.range for request in server.requests[before:] if request.range]
    again = sum(end - begin for begin, end in asked) - f.stats.bytes_read
    size = 2 * MIB if where == "head" else 2 * (MIB - 300_000)  # what had arrived was kept
    assert 0 < again <= size


def test_an_error_does_not_wait_for_stalled_connections(file: File) -> None:
    options = ReadOptions(
        http=HttpOptions(retry=QUICK, timeout_s=60, proxies={}), request_size_max=MIB
    )
    with FaultServer(file.data) as server:
        f = libtz.open(server.url(), options=options)
        # The first request is for chunk entries.
        stalls = [None, Fault(stall_after=1000), Fault(stall_after=1000)]
        server.faults.extend(stalls)
        server.always = Fault(status=404)
        begin = time.monotonic()
        with raises(SourceNotFoundError, status=404):
            f.load()
        assert time.monotonic() - begin < 5


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_failed_loads_leave_no_thread_descriptor_or_memory(file: File) -> None:
    data = bytearray(file.data)
    data[data.index(file.tensors["17"].data[:64])] ^= 1

    def fail() -> None:
        with FaultServer(bytes(data)) as server:
            f = libtz.open(server.url(), options=OPTIONS)
            with pytest.raises(IntegrityError):
                f.load()

    fail()
    gc.collect()
    before = threading.active_count(), _descriptors(), _resident()
    for _ in range(6):
        fail()
    gc.collect()
    assert threading.active_count() == before[0]
    assert _descriptors() <= before[1]
    # Each load's tensors have 20 MiB. The heap of a process that ran many tests also varies.
    assert _resident() - before[2] < 60 * MIB


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("end", ["404", "Ctrl-C"])
def test_loads_cut_in_the_middle_leave_nothing(file: File, end: str) -> None:
    with FaultServer(file.data) as server:
        # The interrupt comes during the load; after it, no more bytes arrive.
        cut = Fault(status=404)
        if end == "Ctrl-C":
            cut = Fault(stall_after=10)
        command = [sys.executable, "-c", CUT_LOADS, server.url(), end]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        asked = 0

        def decide(request: Request) -> Fault | None:
            nonlocal asked
            asked = 1 if request.range and request.range[0] == 0 else asked + 1
            if end == "Ctrl-C" and asked == 5:
                child.send_signal(signal.SIGINT)
            return cut if asked >= 5 else None

        server.decide = decide
        with child:
            output, _ = child.communicate(timeout=120)
    assert child.returncode == 0, output
    usages = [tuple(map(int, line.split())) for line in output.splitlines()]
    assert len(usages) == 12
    threads, descriptors, resident = zip(*usages, strict=True)
    assert set(threads) == {1}
    # The file object is still alive. The first loads include imports and cached objects.
    assert set(descriptors) == {descriptors[0]}
    assert resident[-1] - resident[2] < 16 * MIB  # one load's tensors have 20 MiB


CUT_LOADS = """
import gc, os, resource, signal, sys, threading
from typing import Any

import libtz
from libtz.options import ReadOptions
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
for _ in range(12):
    f = libtz.open(sys.argv[1], options=ReadOptions(request_size_max=1 << 20))
    try:
        loaded = dict(f.iter_buffers())
    except (libtz.SourceError if sys.argv[2] == "404" else KeyboardInterrupt):
        pass
    else:
        sys.exit("the load was not cut")
    gc.collect()
    resident = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
    print(threading.active_count(), len(os.listdir("/proc/self/fd")), resident)
"""


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
