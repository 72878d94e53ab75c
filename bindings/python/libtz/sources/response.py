"""One HTTP response, whose body is received into the caller's memory.

Body bytes go from the socket straight into the given buffers, without a bytes object in between. A
connection below a minimum speed counts as stalled. What a response means is decided in `http.py`.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import re
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

import urllib3.exceptions

from libtz.sources.deadlines import DeadlineReader, DeadlineResponse
from libtz.sources.failures import failure
from libtz.sources.minimum_rate import MinimumRate
from libtz.sources.retry import TryFailed
from libtz.sources.sockets import Sockets
from libtz.sources.stragglers import Stragglers

__all__ = ["Response"]

# A connection slower than this over a whole time-out is dropped. Otherwise a hostile server could
# keep a load waiting forever by sending a byte now and then.
RATE_MIN_BYTES_PER_S = 1024
# Memory limit of one read from a body that cannot be received in place.
COPY_SIZE_MAX = 256 * 1024
# What reading may raise. ValueError: the size of a chunk is not a valid number.
_ERRORS = (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError)
# A receiving thread wakes up this often to check how fast the body arrives.
SLEEP_S = 0.5


class Response:
    """One response: its head, and a body that can be read once.

    `length` is the declared size of the body; None if the server declared none. If the whole body
    was read, `close` keeps the connection for the next request; otherwise it drops it.
    """

    def __init__(
        self,
        response: Any,
        sockets: Sockets,
        stragglers: Stragglers,
        minimum_rate: MinimumRate,
        timeout_s: float,
    ) -> None:
        self.status: int = response.status
        self.headers: Mapping[str, str] = response.headers
        self.length: int | None = _content_length(response.headers)
        self._received = 0
        self._is_complete = self.length == 0
        self._response = response
        self._sockets = sockets
        self._stragglers = stragglers
        self._minimum_rate = minimum_rate
        self._timeout_s = timeout_s
        self._window_s = 0.0
        self._window_bytes = 0
        self._pace_s = 0.0  # the same in shorter windows, for comparison with other responses
        self._pace_bytes = 0
        self._waited_s = 0.0
        self._socket: Any = None  # to receive from directly, once the reader's buffer is empty
        self._reader = _direct_reader(response) if self.length is not None else None
        self._deadline = _deadline_reader(response)
        self._buffered: int | None = None  # body bytes in the reader's buffer; None: unknown
        if getattr(response.connection, "sock", None) is None:
            self._watch_own_socket()

    def readinto(self, buffer: memoryview) -> int:
        """Receive into the front of `buffer`. Returns the number of bytes, 0 at the end of the
        body. Raises `TryFailed`."""
        if self._is_complete:
            return 0
        if self.length is not None:
            buffer = buffer[: self.length - self._received]
        count: int | None = None
        while count is None:  # nothing has arrived yet
            self._check_rate()  # here, so that what has arrived is never thrown away
            started_s = time.monotonic()
            try:
                count = self._receive(buffer)
            except _ERRORS as error:
                raise failure(error, self._timeout_s, is_connecting=False) from None
            self._note(time.monotonic() - started_s, count or 0)
        self._received += count
        if self.length is None:
            self._is_complete = count == 0
        elif count == 0:
            raise TryFailed(f"the connection ended after {self._received} of {self.length} bytes")
        else:
            self._is_complete = self._received == self.length
            if self._is_complete:
                self._stragglers.note_body(self._received, self._waited_s)
        return count

    def read_rest(self, size_max: int) -> bytes:
        """The next bytes of the body, at most `size_max`. Fewer if reading fails."""
        data = bytearray(size_max)
        filled = 0
        with contextlib.suppress(TryFailed), memoryview(data) as view:
            while filled < size_max and (count := self.readinto(view[filled:])):
                filled += count
        return bytes(data[:filled])

    def close(self) -> None:
        """Release the connection. It can be reused if this body was read to its end."""
        self._sockets.forget(self)
        raw: Any = getattr(self._response, "_fp", None)
        # If there are bytes after the body, the connection cannot be used any more.
        if self._is_complete and not self._buffered and raw is not None:
            raw.close()  # the library did not see the body arrive, and would wait for it
        else:
            self._response.close()
        self._response.release_conn()

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _watch_own_socket(self) -> None:
        # With "Connection: close", the connection hands its socket over to this body.
        try:
            descriptor = self._response.fileno()
        except (AttributeError, OSError, ValueError):
            return  # there is no body, so there is nothing to wait for
        try:
            self._sockets.watch(self, descriptor)
        except TryFailed:
            self.close()
            raise

    def _receive(self, buffer: memoryview) -> int | None:
        """Returns the number of bytes received: 0 at the end, None if nothing arrived for a
        while."""
        if self._socket is not None:
            return self._receive_in_place(buffer)
        if self._deadline is not None:
            self._deadline.renew(self._timeout_s)
        reader = self._reader
        if reader is None:
            read = getattr(self._response, "read1", self._response.read)
            data = read(min(len(buffer), COPY_SIZE_MAX), decode_content=False)
            if len(data) > len(buffer):
                raise TryFailed("the body's framing is invalid", retryable=False)
            buffer[: len(data)] = data
            return len(data)
        if self._buffered is None:
            # The first bytes arrived with the head, or arrive now, in the reader's own buffer.
            self._buffered = len(reader.peek())
            if self._buffered == 0:
                return 0
        if self._buffered:
            count = reader.readinto(buffer[: self._buffered])
            self._buffered -= count
            return count
        # The reader's buffer is empty: bypass it, and receive straight into place.
        self._socket = _socket_of(reader.raw, min(SLEEP_S, self._timeout_s))
        if self._socket is not None:
            return self._receive_in_place(buffer)
        return reader.raw.readinto(buffer) or 0

    def _receive_in_place(self, buffer: memoryview) -> int | None:
        """Receive as much of the buffer as arrives until the socket wakes up. That way, the work of
        this class and the switching of the GIL are done per buffer, not per packet."""
        receive = self._socket.recv_into
        try:
            if self._socket.gettimeout() is None:
                return int(receive(buffer, 0, socket.MSG_WAITALL))
            filled = int(receive(buffer))
        except (BlockingIOError, TimeoutError):
            return None
        # TLS delivers one record of 16 KiB per call, and is slow to determine the size by itself.
        end_s = time.monotonic() + SLEEP_S
        count = filled
        while count and (size := len(buffer) - filled) and time.monotonic() < end_s:
            try:
                count = receive(buffer[filled:], size)
            except OSError:  # what arrived before it counts; a lasting error occurs again
                break
            filled += count
        return filled

    def _note(self, duration_s: float, count: int) -> None:
        # Only the time spent waiting for bytes counts: the caller may be busy in between.
        self._minimum_rate.note(count, duration_s)
        self._waited_s += duration_s
        self._window_s += duration_s
        self._window_bytes += count
        self._pace_s += duration_s
        self._pace_bytes += count

    def _check_rate(self) -> None:
        self._minimum_rate.check()
        if self._pace_s >= self._stragglers.after_s:
            # A server without ranges would have to start at the front again.
            is_range = self.status == http.client.PARTIAL_CONTENT
            if is_range and self._stragglers.is_straggling(self._pace_bytes, self._pace_s):
                self._stragglers.note_restart()
                raise TryFailed("far slower than other requests", is_restart=True)
            self._pace_s, self._pace_bytes = 0.0, 0
        if self._window_s < self._timeout_s:
            return
        if self._window_bytes < RATE_MIN_BYTES_PER_S * self._window_s:
            raise TryFailed(f"the server sent {self._window_bytes} bytes in {self._window_s:.1f} s")
        self._window_s = 0.0
        self._window_bytes = 0


def _direct_reader(response: Any) -> io.BufferedReader | None:
    """The buffered reader under a plain response, or None if the stack is not the expected one.

    `_fp` is private to urllib3, and some packages replace urllib3 altogether, so every step is
    checked. Without the reader, bodies are copied once more.
    """
    raw: Any = getattr(response, "_fp", None)
    if type(raw) not in (http.client.HTTPResponse, DeadlineResponse) or raw.chunked:
        return None
    reader: Any = raw.fp
    if type(reader) is not io.BufferedReader or not isinstance(reader.raw, io.RawIOBase):
        return None
    return reader


def _deadline_reader(response: Any) -> DeadlineReader | None:
    """The library's reader, if it is ours."""
    reader = getattr(getattr(response, "_fp", None), "fp", None)
    raw = getattr(reader, "raw", None)
    return raw if isinstance(raw, DeadlineReader) else None


def _socket_of(raw: Any, sleep_s: float) -> Any:
    """The socket under a body's reader, set to wake up after `sleep_s`. None if it is not known.

    A plain socket sleeps in the kernel. Python's own time-outs, which TLS needs, cost another
    system call before each read.
    """
    if isinstance(raw, DeadlineReader):
        raw = raw.raw
    sock = getattr(raw, "_sock", None)
    if type(raw) is not socket.SocketIO or not isinstance(sock, socket.socket):
        return None
    if type(sock) is socket.socket and os.name == "posix":
        seconds = struct.pack("ll", int(sleep_s), int(sleep_s % 1 * 1_000_000))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds)
        sock.setblocking(True)
    else:
        sock.settimeout(sleep_s)
    return sock


def _content_length(headers: Mapping[str, str]) -> int | None:
    # With a transfer coding, Content-Length is not the size on the wire (RFC 9112, section 6.3).
    if "Transfer-Encoding" in headers:
        return None
    value = headers.get("Content-Length", "")
    return int(value) if re.fullmatch(r"[0-9]{1,19}", value) else None
