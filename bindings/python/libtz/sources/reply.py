"""One HTTP response, whose body lands in the caller's memory.

Body bytes go from the socket into given buffers with no bytes object in between, and there is a
floor under the speed, so that a server that trickles is a stall like any other. What a response
means is not looked at here; that is `http.py`.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import re
import ssl
import time
from collections.abc import Mapping
from typing import Any

import urllib3.exceptions

from .retry import TryFailed
from .sockets import Sockets, describe

__all__ = ["Reply", "failure"]

# A connection slower than this over a whole stall time-out is dropped: it serves nobody, and a
# hostile server could hold a load for ever by sending a byte now and then.
RATE_MIN_BYTES_PER_S = 1024
# What one read of a body that cannot be received in place may allocate.
COPY_SIZE_MAX = 256 * 1024


class Reply:
    """One response: its head, and a body to be read exactly once.

    `length` is the body's declared size, None where the server declared none. Closing after the
    whole body was read keeps the connection for the next request; otherwise it is dropped.
    """

    def __init__(self, response: Any, sockets: Sockets, timeout_s: float) -> None:
        self.status: int = response.status
        self.headers: Mapping[str, str] = response.headers
        self.length: int | None = _content_length(response.headers)
        self._received = 0
        self._is_complete = self.length == 0
        self._response = response
        self._sockets = sockets
        self._timeout_s = timeout_s
        self._window_s = 0.0
        self._window_bytes = 0
        self._reader = _direct_reader(response) if self.length is not None else None
        self._buffered: int | None = None  # body bytes in the reader's memory; None: not known
        if getattr(response.connection, "sock", None) is None:
            self._watch_own_socket()

    def readinto(self, buffer: memoryview) -> int:
        """Receive into the front of `buffer`; 0 at the end of the body. `TryFailed` otherwise."""
        if self._is_complete:
            return 0
        if self.length is not None:
            buffer = buffer[: self.length - self._received]
        started_s = time.monotonic()
        try:
            count = self._receive(buffer)
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            raise failure(error, self._timeout_s) from None
        self._check_rate(time.monotonic() - started_s, count)
        self._received += count
        if self.length is None:
            self._is_complete = count == 0
        elif count == 0:
            raise TryFailed(f"the connection ended after {self._received} of {self.length} bytes")
        else:
            self._is_complete = self._received == self.length
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

    def _receive(self, buffer: memoryview) -> int:
        reader = self._reader
        if reader is None:
            read = getattr(self._response, "read1", self._response.read)
            data = read(min(len(buffer), COPY_SIZE_MAX), decode_content=False)
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
        return reader.raw.readinto(buffer) or 0

    def _check_rate(self, duration_s: float, count: int) -> None:
        # Only time spent waiting for bytes counts: the caller may be busy for long in between.
        self._window_s += duration_s
        self._window_bytes += count
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
    raw = getattr(response, "_fp", None)
    if type(raw) is not http.client.HTTPResponse or raw.chunked:
        return None
    reader: Any = raw.fp
    if type(reader) is not io.BufferedReader or not isinstance(reader.raw, io.RawIOBase):
        return None
    return reader


def _content_length(headers: Mapping[str, str]) -> int | None:
    # With a transfer coding, Content-Length does not describe what is on the wire (RFC 9112, 6.3).
    if "Transfer-Encoding" in headers:
        return None
    value = headers.get("Content-Length", "")
    return int(value) if re.fullmatch(r"[0-9]{1,19}", value) else None


def failure(error: Exception, timeout_s: float) -> TryFailed:
    """What a library's error on a request or body means for trying again."""
    if isinstance(error, (urllib3.exceptions.ReadTimeoutError, TimeoutError)):
        return TryFailed(f"the server sent nothing for {timeout_s:g} s")
    if isinstance(error, urllib3.exceptions.ProxyError):
        reason = describe(error.original_error)
        # A proxy that answers 4xx means it; one that cannot be reached may come back.
        is_final = re.search(r"failed: 4[0-9][0-9]", reason) is not None
        return TryFailed(f"the proxy failed: {reason}", retryable=not is_final)
    cause: BaseException = error
    if error.args and isinstance(error.args[-1], Exception):
        cause = error.args[-1]
    if isinstance(cause, ssl.SSLCertVerificationError):
        return TryFailed(
            f"the server's certificate was refused: {cause.verify_message}; if it is to be"
            " trusted, name its authority in HttpOptions.verify",
            retryable=False,
        )
    return TryFailed(f"the connection failed: {describe(cause)}")
