"""The simulated link of benchmarks and tests with many connections."""

from __future__ import annotations

import http.client
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from bench.shaped import Link, shaped
from tests.faults.server import Fault, FaultServer

pytestmark = pytest.mark.slow

MIB = 1 << 20


def test_pieces_leave_one_after_another_and_arrive_late() -> None:
    link = Link(1000.0, 0.5)
    assert link.send(10.0, 100) == pytest.approx(10.6)
    assert link.send(10.0, 100) == pytest.approx(10.7)
    assert link.send(20.0, 100) == pytest.approx(20.6)


def test_connections_share_the_rate_and_each_answer_is_late() -> None:
    data = bytes(range(256)) * (4 * MIB // 256)
    with FaultServer(data) as server, shaped(server.port, gbit=0.2, delay_s=0.05) as port:

        def get(_: int) -> bytes:
            with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
                connection.request("GET", "/")
                return connection.getresponse().read()

        begin = time.monotonic()
        with ThreadPoolExecutor(2) as executor:
            assert list(executor.map(get, range(2))) == [data, data]
        seconds = time.monotonic() - begin
        wire = 2 * len(data) * 8 / 0.2e9
        assert 0.95 * (wire + 0.1) < seconds < 1.5 * wire + 2


def test_a_server_that_goes_away_is_noticed() -> None:
    with FaultServer(bytes(MIB)) as server, shaped(server.port, gbit=1) as port:
        server.always = Fault(drop_after=1000)
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
            connection.request("GET", "/")
            reply = connection.getresponse()
            with pytest.raises(http.client.IncompleteRead) as caught:
                reply.read()
        assert len(caught.value.partial) == 1000
