"""A network link in user space: a TCP proxy with limited rate and delayed responses.

    python -m bench.shaped TO_PORT [--gbit 1] [--delay-ms 50]       prints its own port

All connections share the link, as they would a network card. A piece leaves when all earlier pieces
have left, and arrives after the delay. Requests are not delayed, so the delay is that of a round
trip. A new connection waits for one delay before its first request, as in TCP's handshake. There is
no loss and no slow start. The proxy uses one thread, and 0.4 s of CPU per GiB.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PIECE_SIZE = 256 << 10
# Pieces are read from the server this long before the link is free: timers are late by 1 ms.
AHEAD_S = 0.008
# Bytes kept in memory for a client that does not read.
UNSENT_MAX = 4 << 20


class Link:
    """Computes when pieces arrive. Independent of sockets."""

    def __init__(self, bytes_per_s: float, delay_s: float) -> None:
        self.delay_s = delay_s
        # A piece occupies the link for 2 ms at most, so that connections take turns.
        self.piece_size = max(4096, min(PIECE_SIZE, int(bytes_per_s * 0.002)))
        self._seconds_per_byte = 1 / bytes_per_s
        self.free_at = 0.0

    def send(self, now: float, size: int) -> float:
        """The time at which a piece of `size` bytes, sent now, arrives."""
        self.free_at = max(now, self.free_at) + size * self._seconds_per_byte
        return self.free_at + self.delay_s


class Client(asyncio.Protocol):
    """The proxy's connection to a client. Forwards its data to the server unchanged."""

    def __init__(self, link: Link, to_port: int) -> None:
        self._link, self._to_port = link, to_port
        self._server: asyncio.Transport | None = None
        self.transport: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self.transport = transport
            transport.pause_reading()
            transport.set_write_buffer_limits(UNSENT_MAX)
            self._connecting = asyncio.ensure_future(self._connect(transport))

    async def _connect(self, transport: asyncio.Transport) -> None:
        await asyncio.sleep(self._link.delay_s)
        loop = asyncio.get_running_loop()
        self._server, server = await loop.create_connection(
            lambda: Server(self._link, transport), "127.0.0.1", self._to_port
        )
        self._resume = server.resume
        self._pause = server.pause
        transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self._server is not None:
            self._server.write(data)

    def pause_writing(self) -> None:
        self._pause()

    def resume_writing(self) -> None:
        self._resume()

    def connection_lost(self, error: Exception | None) -> None:
        if self._server is not None:
            self._server.abort()


class Server(asyncio.BufferedProtocol):
    """The proxy's connection to the server. Forwards its data to the client through the link."""

    def __init__(self, link: Link, client: asyncio.Transport) -> None:
        self._link, self._client = link, client
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._free: list[bytearray] = []
        self._piece = bytearray()
        self._is_held = False  # the client does not read
        self._is_waiting = False  # the link is busy

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self._transport = transport

    def get_buffer(self, size_hint: int) -> bytearray:
        if not self._piece:
            self._piece = self._free.pop() if self._free else bytearray(self._link.piece_size)
        return self._piece

    def buffer_updated(self, count: int) -> None:
        piece, self._piece = self._piece, bytearray()
        now = self._loop.time()
        self._loop.call_at(self._link.send(now, count), self._deliver, piece, count)
        room_at = self._link.free_at - AHEAD_S
        if room_at > now:
            self._is_waiting = True
            self._update()
            self._loop.call_at(room_at, self._continue)

    def _deliver(self, piece: bytearray, count: int) -> None:
        if not self._client.is_closing():
            self._client.write(memoryview(piece)[:count])
        if not self._client.get_write_buffer_size():
            self._free.append(piece)

    def _continue(self) -> None:
        self._is_waiting = False
        self._update()

    def pause(self) -> None:
        self._is_held = True
        self._update()

    def resume(self) -> None:
        self._is_held = False
        self._update()

    def _update(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._is_held or self._is_waiting:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def eof_received(self) -> bool:
        self._loop.call_at(self._link.send(self._loop.time(), 1), self._client.close)
        return True  # the client decides when this end closes

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None:
            self._client.abort()


async def serve(to_port: int, link: Link) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Client(link, to_port), "127.0.0.1", 0, backlog=256)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextlib.contextmanager
def shaped(to_port: int, *, gbit: float, delay_s: float = 0.0) -> Iterator[int]:
    """Runs a link to `to_port` in another process until the block ends; yields its port."""
    command = [sys.executable, "-m", "bench.shaped", str(to_port)]
    command += ["--gbit", str(gbit), "--delay-ms", str(delay_s * 1000)]
    root = Path(__file__).resolve().parent.parent
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield int(process.stdout.readline() if process.stdout else "")
        finally:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("to_port", type=int)
    parser.add_argument("--gbit", type=float, default=1.0, help="rate in Gbit/s")
    parser.add_argument("--delay-ms", type=float, default=0.0)
    arguments = parser.parse_args()
    link = Link(arguments.gbit * 1e9 / 8, arguments.delay_ms / 1000)
    asyncio.run(serve(arguments.to_port, link))


if __name__ == "__main__":
    main()
