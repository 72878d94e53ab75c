"""The least that a load must bring to go on.

A connection that stalls is dropped and the range resumed (`reply.py`), but a server may keep each
one just alive, and a load would take weeks. Bytes are counted over all connections of a source, so
that many of them on a slow link do not look like a slow server, and time only while a thread waits
for the network.
"""

from __future__ import annotations

import threading
import time

from libtz.options import HttpOptions
from libtz.sources.retry import TryFailed

__all__ = ["Floor"]


class Floor:
    """How much one source brought, against what it must. Safe to use from many threads."""

    def __init__(self, options: HttpOptions) -> None:
        self._rate_min = options.rate_min
        self._window_s = options.retry.deadline_s
        self._lock = threading.Lock()
        self._received = 0
        self._own = threading.local()  # of a thread: seconds waited, and _received, as they began
        self._limit_s: float | None = None
        self._end_s = 0.0

    def limit(self, seconds: float | None) -> None:
        """Let nothing go on past so many seconds from now, however fast; None: without limit."""
        self._limit_s = seconds
        self._end_s = time.monotonic() + (seconds or 0.0)

    def note(self, size: int, seconds: float) -> None:
        """This thread waited so long for the network, and got so many bytes."""
        self._own.waited_s = getattr(self._own, "waited_s", 0.0) + seconds
        if size:
            with self._lock:
                self._received += size

    def check(self) -> None:
        """`TryFailed`, for good, if too little came."""
        limit_s = self._limit_s
        if limit_s is not None and time.monotonic() > self._end_s:
            raise TryFailed(
                f"opening took longer than {limit_s:g} s (ReadOptions.http.open_deadline_s)",
                is_final=True,
            )
        waited_s = getattr(self._own, "waited_s", 0.0)
        if waited_s < self._window_s:
            return
        came = self._received - getattr(self._own, "began", 0)
        self._own.waited_s, self._own.began = 0.0, self._received
        if came < self._rate_min * waited_s:
            raise TryFailed(
                f"only {came} bytes came in {waited_s:.0f} s over all connections; if the link is"
                " that slow, lower ReadOptions.http.rate_min",
                is_final=True,
            )
