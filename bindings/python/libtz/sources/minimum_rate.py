"""The minimum rate of a load.

A stalled connection is dropped and the range resumed (`response.py`). But a server may keep each
connection just alive, so that a load would take weeks. Bytes are counted over all connections of a
source: many connections on a slow link are not a slow server. Time is counted only while a thread
waits for the network.
"""

from __future__ import annotations

import threading
import time

from libtz.options import HttpOptions
from libtz.sources.retry import TryFailed

__all__ = ["MinimumRate"]


class MinimumRate:
    """Compares what one source has delivered with `HttpOptions.rate_min`. Thread-safe."""

    def __init__(self, options: HttpOptions) -> None:
        self._rate_min = options.rate_min
        self._window_s = options.retry.deadline_s
        self._lock = threading.Lock()
        self._received = 0
        # Per thread: the seconds waited in this window, and `_received` when the window began.
        self._own = threading.local()
        self._limit_s: float | None = None
        self._end_s = 0.0

    def limit(self, seconds: float | None) -> None:
        """Make `check` fail this many seconds from now, however fast data arrives. None removes
        the limit."""
        self._limit_s = seconds
        self._end_s = time.monotonic() + (seconds or 0.0)

    def note(self, size: int, seconds: float) -> None:
        """Note that this thread waited `seconds` for the network and received `size` bytes."""
        self._own.waited_s = getattr(self._own, "waited_s", 0.0) + seconds
        if size:
            with self._lock:
                self._received += size

    def check(self) -> None:
        """Raise a final `TryFailed` if too few bytes have arrived."""
        limit_s = self._limit_s
        if limit_s is not None and time.monotonic() > self._end_s:
            raise TryFailed(
                f"opening took longer than {limit_s:g} s (ReadOptions.http.open_deadline_s)",
                is_final=True,
            )
        waited_s = getattr(self._own, "waited_s", 0.0)
        if waited_s < self._window_s:
            return
        arrived = self._received - getattr(self._own, "began", 0)
        self._own.waited_s, self._own.began = 0.0, self._received
        if arrived < self._rate_min * waited_s:
            raise TryFailed(
                f"only {arrived} bytes arrived in {waited_s:.0f} s over all connections; if the"
                " link is that slow, lower ReadOptions.http.rate_min",
                is_final=True,
            )
