"""The number of threads of a transfer. It starts low and grows while the transfer gets faster; a
step that does not help is undone, and it shrinks when the server asks to slow down. After a rest,
growth is tried again, since networks and servers change during a long load."""

from __future__ import annotations

import math

__all__ = ["Concurrency"]

PERIOD_S = 0.3  # long enough to see a rate, short enough that all steps fit into two seconds
REST_S = 10.0
GAIN_MIN = 1.15  # less than this is noise, and no reason for more connections
STEP = 1.5
SHRINK = 0.5


class Concurrency:
    """`threads` is the target number. The caller supplies the time and starts the threads."""

    def __init__(self, threads: int, threads_max: int, throttled: int = 0) -> None:
        """`throttled`: the count of throttled responses before the load, which are ignored."""
        self.threads = min(threads, threads_max)
        self._threads_max = threads_max
        self._threads_best = self.threads
        self._rate_best = 0.0
        self._begin: tuple[float, int] | None = None  # of the period: time, bytes
        self._rest_end = -math.inf
        self._throttled = throttled
        self._shrunk_at = -math.inf

    def note(self, now: float, byte_count: int, throttled: int) -> None:
        """`byte_count`: bytes received so far. `throttled`: responses so far, missing ones
        included, that asked to slow down."""
        if throttled > self._throttled:
            self._throttled = throttled
            if now >= self._shrunk_at + PERIOD_S:  # not once for each request in flight
                self._shrunk_at = now
                self.threads = max(1, int(self.threads * SHRINK))
            self._rest(now)
        if now < self._rest_end:
            return
        if self._begin is None:
            self._begin = now, byte_count
        begin, bytes_before = self._begin
        if now < begin + PERIOD_S:
            return
        self._begin = now, byte_count
        self._step(now, (byte_count - bytes_before) / (now - begin))

    def _step(self, now: float, rate: float) -> None:
        if rate >= self._rate_best * GAIN_MIN:
            self._rate_best, self._threads_best = rate, self.threads
            self.threads = min(self._threads_max, max(self.threads + 1, int(self.threads * STEP)))
            return
        if rate < self._rate_best:  # idle threads contend for the GIL
            self.threads = self._threads_best
        self._rest(now)

    def _rest(self, now: float) -> None:
        self._rest_end = now + REST_S
        self._begin = None
        self._rate_best = 0.0
