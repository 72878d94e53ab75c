"""Servers that send very slowly: the minimum rate of loads, and the deadline for opening."""

from __future__ import annotations

import time

import pytest
from tests.faults.server import Fault, FaultServer, Request

import libtz
from libtz.errors import SourceError
from libtz.options import HttpOptions, ReadOptions, RetryPolicy
from libtz.sources.http import HttpSource

DATA = bytes(range(256)) * 4000
# The minimum rate is checked once in this time.
WINDOW_S = 0.3
# How long other programs may hold up a load that is fast enough.
PATIENT = RetryPolicy(attempts=3, backoff_s=0.01, deadline_s=1.0)
RETRY = RetryPolicy(attempts=3, backoff_s=0.01, deadline_s=WINDOW_S)


def options(**changes: object) -> HttpOptions:
    named = {"retry": RETRY, "timeout_s": 0.4, "proxies": {}, **changes}
    return HttpOptions(**named)  # type: ignore[arg-type]


def trickle(pause_s: float) -> Fault:
    """Sends single bytes: about 2,000 per second with a pause of half a millisecond."""
    return Fault(trickle_s=pause_s)


def test_opening_from_a_server_that_trickles_ends() -> None:
    with FaultServer(DATA) as server:
        server.always = trickle(0.0005)
        begin_s = time.monotonic()
        with pytest.raises(SourceError, match=r"http\.rate_min") as caught:
            libtz.open(server.url(), options=ReadOptions(http=options(rate_min=100_000)))
        assert WINDOW_S <= time.monotonic() - begin_s < 10
        assert caught.value.retryable


def test_a_read_in_the_middle_of_a_load_ends() -> None:
    with FaultServer(DATA) as server:
        source = HttpSource(server.url(), options(rate_min=100_000))
        source.open(memoryview(bytearray(1000)))
        server.always = trickle(0.0005)
        with pytest.raises(SourceError, match=r"http\.rate_min"):
            source.read_into(0, len(DATA), [memoryview(bytearray(len(DATA)))])
        source.close()


def test_small_reads_add_up() -> None:
    """Each load ends long before the rate is checked."""
    with FaultServer(DATA) as server:
        source = HttpSource(server.url(), options(rate_min=100_000))
        source.open(memoryview(bytearray(1000)))
        server.always = trickle(0.001)

        def read_on() -> None:
            for _ in range(1000):
                source.read_into(0, 100, [memoryview(bytearray(100))])

        with pytest.raises(SourceError, match=r"http\.rate_min"):
            read_on()
        source.close()


@pytest.mark.slow
def test_a_slow_link_above_the_floor_is_waited_for() -> None:
    with FaultServer(DATA[:3000]) as server:
        server.always = trickle(0.001)
        source = HttpSource(server.url(), options(rate_min=50, timeout_s=5, retry=PATIENT))
        front = memoryview(bytearray(3000))
        begin_s = time.monotonic()
        assert source.open(front) == 3000
        assert front == DATA[:3000]
        assert time.monotonic() - begin_s > 2 * PATIENT.deadline_s
        source.close()


@pytest.mark.slow
def test_time_that_nobody_waits_for_the_network_does_not_count() -> None:
    with FaultServer(DATA) as server:
        source = HttpSource(server.url(), options(rate_min=100_000, retry=PATIENT))
        source.open(memoryview(bytearray(10)))
        time.sleep(1.5 * PATIENT.deadline_s)
        source.read_into(0, 10, [memoryview(bytearray(10))])
        source.close()


def test_opening_has_a_deadline_and_loading_none() -> None:
    """The deadline also applies if the bytes of an endless header arrive fast."""
    with FaultServer(DATA) as server:
        source = HttpSource(server.url(), options(rate_min=0))
        source.open(memoryview(bytearray(10)))
        source.limit(0.05)
        time.sleep(0.1)
        with pytest.raises(SourceError, match=r"http\.open_deadline_s"):
            source.read_into(0, 10, [memoryview(bytearray(10))])
        source.limit(None)
        source.read_into(0, 10, [memoryview(bytearray(10))])
        source.close()

        def slow_head(_: Request) -> Fault:
            time.sleep(0.1)
            return Fault(status=503)

        server.decide = slow_head
        patient = options(retry=RetryPolicy(attempts=1000, backoff_s=0), open_deadline_s=0.3)
        begin_s = time.monotonic()
        with pytest.raises(SourceError, match=r"http\.open_deadline_s"):
            libtz.open(server.url(), options=ReadOptions(http=patient))
        assert time.monotonic() - begin_s < 5
