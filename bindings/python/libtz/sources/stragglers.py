"""Tells which requests are far slower than the others, so that they are begun anew elsewhere.

A connection may lead to a sick server or along a bad way; waiting for its time-out would make a
load of seconds take half a minute. Such a request is cut, and resumed on another connection at the
byte it has reached. Racing a second request against it would win hardly more, and would need memory
to receive into twice.
"""

from __future__ import annotations

import statistics
import threading
from collections import deque

__all__ = ["Stragglers"]

RATIO = 10  # slower than the median by this factor is far slower
KNOWN_MIN = 4  # requests that must have ended before others are judged by them
KNOWN_MAX = 32
SIZE_MIN = 64 * 1024  # the time of smaller bodies says nothing about the rate
# Where everything became slow at once, restarts only add load: so a few, and a share of the rest.
RESTARTS_MIN = 4
RESTARTS_SHARE = 8


class Stragglers:
    """What the requests of one source took. Safe to use from many threads."""

    after_s = 2.0  # no request is judged sooner

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rates: deque[float] = deque(maxlen=KNOWN_MAX)  # bytes per second of whole bodies
        self._heads: deque[float] = deque(maxlen=KNOWN_MAX)  # seconds until an answer began
        self._ended = 0
        self._restarts = 0

    def note_head(self, seconds: float) -> None:
        """An answer began this long after its request."""
        with self._lock:
            self._heads.append(seconds)

    def note_body(self, size: int, seconds: float) -> None:
        """A body was received to its end, in so many seconds of waiting for it."""
        if size >= SIZE_MIN:
            with self._lock:
                self._rates.append(size / max(seconds, 1e-6))
                self._ended += 1

    def head_timeout_s(self, timeout_s: float) -> float:
        """How long to wait for an answer to begin, at most `timeout_s`."""
        with self._lock:
            if len(self._heads) < KNOWN_MIN or not self._may_restart():
                return timeout_s
            return min(timeout_s, max(self.after_s, RATIO * statistics.median(self._heads)))

    def is_straggling(self, size: int, seconds: float) -> bool:
        """Whether a body with `size` bytes in the last `seconds` is far slower than most are."""
        with self._lock:
            return (
                seconds >= self.after_s
                and len(self._rates) >= KNOWN_MIN
                and size * RATIO < statistics.median(self._rates) * seconds
                and self._may_restart()
            )

    def note_restart(self) -> None:
        """A request was cut for being slow."""
        with self._lock:
            self._restarts += 1

    def _may_restart(self) -> bool:
        return self._restarts < RESTARTS_MIN + self._ended // RESTARTS_SHARE
