"""Responses whose head has to come in time, as a whole.

Time-outs of sockets begin anew with every byte, so a server could send a head, or what stands
between the parts of a body, for ever.
"""

from __future__ import annotations

import http.client
import io
import time
from typing import Any

__all__ = ["TimedReader", "TimedResponse"]


class TimedReader(io.RawIOBase):
    """A socket's reader that raises TimeoutError past its end, which `renew` moves."""

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


class TimedResponse(http.client.HTTPResponse):
    """Its head has as long as the socket's time-out. Give a connection it as `response_class`."""

    def __init__(self, sock: Any, *args: Any, **named: Any) -> None:
        super().__init__(sock, *args, **named)
        self.fp: Any = io.BufferedReader(TimedReader(self.fp.detach(), sock.gettimeout()))

    def _read_next_chunk_size(self) -> int:
        # The library takes any number that Python reads, negative ones included, and then reads to
        # the end of the connection.
        size: int = super()._read_next_chunk_size()  # type: ignore[misc]
        if size < 0:
            raise http.client.HTTPException("a chunk of negative size")
        return size
