"""Staging memory: a fixed number of equal slots, to bound host memory beyond the result."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

__all__ = ["Slot", "SlotRing", "Stopped"]

Slot = TypeVar("Slot")


class Stopped(BaseException):
    """Ends a worker whose transfer is over; never leaves this package.

    Not an `Exception`, so that no source mistakes it for a failed read and retries.
    """


class Use(Protocol):
    """A use of a slot that is still running, such as a copy to a device."""

    def synchronize(self) -> None:
        """Returns when the contents are no longer needed."""


class SlotRing(Generic[Slot]):
    """Slots are made when first needed. `release` returns a slot at once, or when its use is over.
    A caller that finds no free slot blocks; that is the back-pressure."""

    def __init__(self, make: Callable[[], Slot], count: int) -> None:
        self._make = make
        self._unmade = count
        self._free: deque[tuple[Slot, Use | None]] = deque()
        self._changed = threading.Condition()
        self._is_stopped = False
        self.made = 0

    def acquire(self) -> Slot:
        with self._changed:
            while not self._free and not self._unmade and not self._is_stopped:
                self._changed.wait()
            if self._is_stopped:
                raise Stopped
            # A slot in use is free soon; a new one takes memory permanently.
            if self._free and (self._free[0][1] is None or not self._unmade):
                slot, use = self._free.popleft()
            else:
                self._unmade -= 1
                self.made += 1
                slot, use = self._make(), None
        if use is not None:
            use.synchronize()
        return slot

    def release(self, slot: Slot, use: Use | None = None) -> None:
        with self._changed:
            # Slots that can be taken without waiting come first.
            if use is None:
                self._free.appendleft((slot, None))
            else:
                self._free.append((slot, use))
            self._changed.notify()

    def stop(self) -> None:
        """Makes waiting and later calls of `acquire` raise `Stopped`."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
