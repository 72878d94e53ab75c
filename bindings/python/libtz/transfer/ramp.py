"""How many threads a transfer has: few at first, more while that makes it faster, fewer when the
server asks for it."""

from __future__ import annotations

__all__ = ["Ramp"]

PERIOD_S = 0.3  # long enough to see a rate, short enough that all steps fit into two seconds
GAIN_MIN = 1.15  # less than this is noise, and no reason for more connections
STEP = 1.5
SHRINK = 0.5


class Ramp:
    """`threads` is how many there should be. Knows no clock and starts nothing."""

    def __init__(self, threads: int, threads_max: int) -> None:
        self.threads = min(threads, threads_max)
        self._threads_max = threads_max
        self._rate_best = 0.0
        self._is_growing = True
        self._time: float | None = None
        self._bytes = 0
        self._throttled = 0

    def note(self, now: float, byte_count: int, throttled: int) -> None:
        """`byte_count` have arrived by now, and `throttled` answers asked to slow down."""
        if throttled > self._throttled:
            self._throttled = throttled
            self.threads = max(1, int(self.threads * SHRINK))
            self._is_growing = False
        if self._time is None:
            self._time, self._bytes = now, byte_count
        if not self._is_growing or now - self._time < PERIOD_S:
            return
        rate = (byte_count - self._bytes) / (now - self._time)
        self._time, self._bytes = now, byte_count
        if rate < self._rate_best * GAIN_MIN:
            self._is_growing = False
            return
        self._rate_best = rate
        self.threads = min(self._threads_max, max(self.threads + 1, int(self.threads * STEP)))
