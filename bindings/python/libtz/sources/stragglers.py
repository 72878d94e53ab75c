"""Finds requests that are far slower than the others, so that they can be restarted.

A connection may lead to a faulty server or over a bad route. Waiting for its time-out would make a
load of seconds take half a minute. Such a request is cut, and resumed on another connection at the
byte reached. Racing a second request against it would gain little, and would need a second buffer
to receive into.
"""

from __future__ import annotations

import statistics
import threading
from collections import deque

__all__ = ["Stragglers"]

RATIO = 10  # "far slower" means slower than the median by this factor
KNOWN_MIN = 4  # requests that must have ended before others are compared with them
KNOWN_MAX = 32
SIZE_MIN = 64 * 1024  # the duration of a smaller body says nothing about the rate
# If everything has become slow, restarts only add load. So allow a few, plus a share of the
# requests that ended.
RESTARTS_MIN = 4
RESTARTS_SHARE = 8


class Stragglers:
    """The speed of one source's requests. Thread-safe."""

    after_s = 2.0  # a request is not judged before it has waited this long

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rates: deque[float] = deque(maxlen=KNOWN_MAX)  # bytes per second of whole bodies
        self._heads: deque[float] = deque(maxlen=KNOWN_MAX)  # seconds until a response began
        self._ended = 0
        self._restarts = 0

    def note_head(self, seconds: float) -> None:
        """Note that a response began this long after its request."""
        with self._lock:
            self._heads.append(seconds)

    def note_body(self, size: int, seconds: float) -> None:
        """Note that a body of `size` bytes was received in `seconds` of waiting."""
        if size >= SIZE_MIN:
            with self._lock:
                self._rates.append(size / max(seconds, 1e-6))
                self._ended += 1

    def head_timeout_s(self, timeout_s: float) -> float:
        """How long to wait for a response to begin, at most `timeout_s`."""
        with self._lock:
            if len(self._heads) < KNOWN_MIN or not self._may_restart():
                return timeout_s
            return min(timeout_s, max(self.after_s, RATIO * statistics.median(self._heads)))

    def is_straggling(self, size: int, seconds: float) -> bool:
        """Whether a body that received `size` bytes in the last `seconds` is far slower than the
        others."""
        with self._lock:
            return (
                seconds >= self.after_s
                and len(self._rates) >= KNOWN_MIN
                and size * RATIO < statistics.median(self._rates) * seconds
                and self._may_restart()
            )

    def note_restart(self) -> None:
        """Note that a request was cut because it was slow."""
        with self._lock:
            self._restarts += 1

    def _may_restart(self) -> bool:
        return self._restarts < RESTARTS_MIN + self._ended // RESTARTS_SHARE
