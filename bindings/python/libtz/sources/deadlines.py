"""Responses whose whole head must arrive before a deadline.

A socket's time-out starts again with every byte. So a server could take forever to send a head, or
the framing between the chunks of a body.
"""

from __future__ import annotations

import http.client
import io
import time
from typing import Any

__all__ = ["DeadlineReader", "DeadlineResponse"]


class DeadlineReader(io.RawIOBase):
    """A socket's reader that raises TimeoutError after a deadline, which `renew` moves."""

    def __init__(self, raw: Any, timeout_s: float | None) -> None:
        self.raw = raw
        self._end_s = float("inf")
        if timeout_s is not None:
            self.renew(timeout_s)

    def renew(self, timeout_s: float) -> None:
        self._end_s = time.monotonic() + timeout_s

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return int(self.raw.fileno())

    def readinto(self, buffer: Any) -> int | None:
        if time.monotonic() > self._end_s:
            raise TimeoutError("timed out")
        count: int | None = self.raw.readinto(buffer)
        return count

    def close(self) -> None:
        self.raw.close()
        super().close()


class DeadlineResponse(http.client.HTTPResponse):
    """A response whose whole head must arrive within the socket's time-out. To be used as the
    `response_class` of a connection."""

    def __init__(self, sock: Any, *args: Any, **named: Any) -> None:
        super().__init__(sock, *args, **named)
        self.fp: Any = io.BufferedReader(DeadlineReader(self.fp.detach(), sock.gettimeout()))

    def _read_next_chunk_size(self) -> int:
        # The library accepts any number that Python can parse. If it is negative, the library reads
        # to the end of the connection.
        size: int = super()._read_next_chunk_size()  # type: ignore[misc]
        if size < 0:
            raise http.client.HTTPException("a chunk of negative size")
        return size
