"""One HTTP response, whose body lands in the caller's memory.

Body bytes go from the socket into given buffers with no bytes object in between, and there is a
floor under the speed, so that a server that trickles is a stall like any other. What a response
means is not looked at here; that is `http.py`.
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

from libtz.sources.failures import failure
from libtz.sources.floor import Floor
from libtz.sources.retry import TryFailed
from libtz.sources.sockets import Sockets
from libtz.sources.stragglers import Stragglers
from libtz.sources.timed import TimedReader, TimedResponse

__all__ = ["Reply"]

# A connection slower than this over a whole stall time-out is dropped: it serves nobody, and a
# hostile server could hold a load for ever by sending a byte now and then.
RATE_MIN_BYTES_PER_S = 1024
# What one read of a body that cannot be received in place may allocate.
COPY_SIZE_MAX = 256 * 1024
# What reading may raise; ValueError where a body's framing is no number, or none that can be.
_ERRORS = (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError)
# How long a receiving thread sleeps before it looks at how fast the body comes.
SLEEP_S = 0.5


class Reply:
    """One response: its head, and a body to be read exactly once.

    `length` is the body's declared size, None where the server declared none. Closing after the
    whole body was read keeps the connection for the next request; otherwise it is dropped.
    """

    def __init__(
        self,
        response: Any,
        sockets: Sockets,
        stragglers: Stragglers,
        floor: Floor,
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
        self._floor = floor
        self._timeout_s = timeout_s
        self._window_s = 0.0
        self._window_bytes = 0
        self._pace_s = 0.0  # the same in shorter windows, for comparison with other replies
        self._pace_bytes = 0
        self._waited_s = 0.0
        self._socket: Any = None  # to receive from directly, when the reader's memory is empty
        self._reader = _direct_reader(response) if self.length is not None else None
        self._timed = _timed_reader(response)
        self._buffered: int | None = None  # body bytes in the reader's memory; None: not known
        if getattr(response.connection, "sock", None) is None:
            self._watch_own_socket()

    def readinto(self, buffer: memoryview) -> int:
        """Receive into the front of `buffer`; 0 at the end of the body. `TryFailed` otherwise."""
        if self._is_complete:
            return 0
        if self.length is not None:
            buffer = buffer[: self.length - self._received]
        count: int | None = None
        while count is None:  # nothing has come yet
            self._check_rate()  # here, so that what has come is never thrown away
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
        """The body's next bytes, `size_max` at most; what cannot be read is left out."""
        data = bytearray(size_max)
        filled = 0
        with contextlib.suppress(TryFailed), memoryview(data) as view:
            while filled < size_max and (count := self.readinto(view[filled:])):
                filled += count
        return bytes(data[:filled])

    def close(self) -> None:
        """Free the connection, for another request if this body was read to its end."""
        self._sockets.forget(self)
        raw: Any = getattr(self._response, "_fp", None)
        # Bytes past the body belong to nothing: such a connection is out of step.
        if self._is_complete and not self._buffered and raw is not None:
            raw.close()  # the library did not see the body pass, and would wait for it
        else:
            self._response.close()
        self._response.release_conn()

    def __enter__(self) -> Reply:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _watch_own_socket(self) -> None:
        # "Connection: close": the connection gave its socket up to this body, and is forgotten.
        try:
            descriptor = self._response.fileno()
        except (AttributeError, OSError, ValueError):
            return  # no body, hence nothing to wait for
        try:
            self._sockets.watch(self, descriptor)
        except TryFailed:
            self.close()
            raise

    def _receive(self, buffer: memoryview) -> int | None:
        """Some bytes, 0 at the end; None when there were none for a while."""
        if self._socket is not None:
            return self._receive_in_place(buffer)
        if self._timed is not None:
            self._timed.renew(self._timeout_s)
        reader = self._reader
        if reader is None:
            read = getattr(self._response, "read1", self._response.read)
            data = read(min(len(buffer), COPY_SIZE_MAX), decode_content=False)
            if len(data) > len(buffer):
                raise TryFailed("the body's framing makes no sense", retryable=False)
            buffer[: len(data)] = data
            return len(data)
        if self._buffered is None:
            # The first bytes came with the head, or come now, into the reader's own memory.
            self._buffered = len(reader.peek())
            if self._buffered == 0:
                return 0
        if self._buffered:
            count = reader.readinto(buffer[: self._buffered])
            self._buffered -= count
            return count
        # The reader's memory is empty: receive past it, straight into place.
        self._socket = _socket_of(reader.raw, min(SLEEP_S, self._timeout_s))
        if self._socket is not None:
            return self._receive_in_place(buffer)
        return reader.raw.readinto(buffer) or 0

    def _receive_in_place(self, buffer: memoryview) -> int | None:
        """As much of the buffer as comes until the socket wakes up. All that this class does in a
        call, and the turns of the interpreter's lock, are done per buffer, not per packet."""
        receive = self._socket.recv_into
        try:
            if self._socket.gettimeout() is None:
                return int(receive(buffer, 0, socket.MSG_WAITALL))
            filled = int(receive(buffer))
        except (BlockingIOError, TimeoutError):
            return None
        # TLS gives one record of 16 KiB in a call, and finds the size out slowly if not told.
        end_s = time.monotonic() + SLEEP_S
        count = filled
        while count and (size := len(buffer) - filled) and time.monotonic() < end_s:
            try:
                count = receive(buffer[filled:], size)
            except OSError:  # what came before it counts; if it was no time-out, it comes again
                break
            filled += count
        return filled

    def _note(self, duration_s: float, count: int) -> None:
        # Only time spent waiting for bytes counts: the caller may be busy for long in between.
        self._floor.note(count, duration_s)
        self._waited_s += duration_s
        self._window_s += duration_s
        self._window_bytes += count
        self._pace_s += duration_s
        self._pace_bytes += count

    def _check_rate(self) -> None:
        self._floor.check()
        if self._pace_s >= self._stragglers.after_s:
            # A server without ranges would have to begin at the front again.
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
    """The buffered reader under a plain response, or None where the stack is not as expected.

    `_fp` is private to urllib3, and other packages replace urllib3 altogether, so every step is
    tested; without it bodies are copied once more.
    """
    raw: Any = getattr(response, "_fp", None)
    if type(raw) not in (http.client.HTTPResponse, TimedResponse) or raw.chunked:
        return None
    reader: Any = raw.fp
    if type(reader) is not io.BufferedReader or not isinstance(reader.raw, io.RawIOBase):
        return None
    return reader


def _timed_reader(response: Any) -> TimedReader | None:
    """What the library reads from, if that is ours."""
    reader = getattr(getattr(response, "_fp", None), "fp", None)
    raw = getattr(reader, "raw", None)
    return raw if isinstance(raw, TimedReader) else None


def _socket_of(raw: Any, sleep_s: float) -> Any:
    """The socket under a body's reader, made to wake up after `sleep_s`; None if that is unknown.

    A plain socket sleeps in the kernel. Python's own time-outs, which TLS needs, ask before each
    read whether there is something: another call.
    """
    if isinstance(raw, TimedReader):
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
    # With a transfer coding, Content-Length does not describe what is on the wire (RFC 9112, 6.3).
    if "Transfer-Encoding" in headers:
        return None
    value = headers.get("Content-Length", "")
    return int(value) if re.fullmatch(r"[0-9]{1,19}", value) else None
