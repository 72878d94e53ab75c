"""How many threads a transfer has: few at first, more while that makes it faster, the last step
taken back when it did not, fewer when the server asks for it. After a rest it is tried again, since
networks and servers change during a long load."""

from __future__ import annotations

import math

__all__ = ["Concurrency"]

PERIOD_S = 0.3  # long enough to see a rate, short enough that all steps fit into two seconds
REST_S = 10.0
GAIN_MIN = 1.15  # less than this is noise, and no reason for more connections
STEP = 1.5
SHRINK = 0.5


class Concurrency:
    """`threads` is how many there should be. Knows no clock and starts nothing."""

    def __init__(self, threads: int, threads_max: int, throttled: int = 0) -> None:
        """`throttled` answers came before the load, and are not its concern."""
        self.threads = min(threads, threads_max)
        self._threads_max = threads_max
        self._threads_best = self.threads
        self._rate_best = 0.0
        self._begin: tuple[float, int] | None = None  # of the period: time and bytes
        self._rest_end = -math.inf
        self._throttled = throttled
        self._shrunk_at = -math.inf

    def note(self, now: float, byte_count: int, throttled: int) -> None:
        """`byte_count` have arrived by now; `throttled` answers, or their lack, asked to slow
        down."""
        if throttled > self._throttled:
            self._throttled = throttled
            if now >= self._shrunk_at + PERIOD_S:  # not once for each request that was under way
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
        if rate < self._rate_best:  # idle threads cost turns of the interpreter's lock
            self.threads = self._threads_best
        self._rest(now)

    def _rest(self, now: float) -> None:
        self._rest_end = now + REST_S
        self._begin = None
        self._rate_best = 0.0
