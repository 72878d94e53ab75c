"""Decides whether a failed attempt is repeated, and after which delay."""

from __future__ import annotations

import datetime
import email.utils
import random
import re
import time

from libtz.options import RetryPolicy

__all__ = ["Tries", "TryFailed", "retry_after_s"]

# Attempts that received this much in all count as progress and reset the count. Less does not
# count, so a server that drops every connection after a few bytes cannot prolong a load forever.
PROGRESS_SIZE_MIN = 64 * 1024


class TryFailed(Exception):  # noqa: N818 - an event of the retry loop, never seen outside
    """One attempt at a request failed. The source tries again, or raises a SourceError."""

    def __init__(
        self,
        reason: str,
        *,
        status: int | None = None,
        retryable: bool = True,
        retry_after_s: float | None = None,
        is_restart: bool = False,
        is_final: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.is_final = is_final  # not to be repeated now, though a later call may succeed
        self.is_restart = is_restart  # cut by us, to be resumed at once on another connection


class Tries:
    """Counts the attempts of one read against its policy. For one thread."""

    def __init__(self, policy: RetryPolicy, position: int) -> None:
        self._policy = policy
        self.count = 0  # failed attempts since the last progress
        self._progress_s = time.monotonic()
        self._position = position

    def wait_after(self, failure: TryFailed, position: int) -> float | None:
        """Seconds to wait before the next attempt, or None if this failure is final.

        `position` is the byte reached so far. It shows whether the attempt made progress.
        """
        policy = self._policy
        now_s = time.monotonic()
        if position - self._position >= PROGRESS_SIZE_MIN:
            self.count = 0
            self._progress_s = now_s
            self._position = position
        self.count += 1
        if failure.is_final or not failure.retryable or self.count >= policy.attempts:
            return None
        # The exponent is capped, since 2.0 ** 2000 raises an error.
        doublings = min(self.count - 1, 60)
        backoff_s = min(policy.backoff_max_s, policy.backoff_s * 2.0**doublings)
        # Jitter, so that a thousand clients that failed at once do not all come back at once.
        wait_s = backoff_s * random.uniform(0.5, 1.0)
        if failure.retry_after_s is not None:
            wait_s = max(wait_s, min(failure.retry_after_s, policy.retry_after_max_s))
        if now_s + wait_s - self._progress_s > policy.deadline_s:
            return None
        return wait_s


def retry_after_s(value: str | None) -> float | None:
    """The delay in seconds that a Retry-After header asks for, as a number or a date."""
    if value is None:
        return None
    value = value.strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    if date.tzinfo is None:  # "-0000" is parsed as no time zone, which would mean local time
        date = date.replace(tzinfo=datetime.timezone.utc)
    return max(0.0, date.timestamp() - time.time())
