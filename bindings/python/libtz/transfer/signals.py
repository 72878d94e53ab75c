"""Holds signals back while threads write to memory.

A Python signal handler runs in the main thread, between any two instructions, and may raise there:
Ctrl-C does. If it raises while a load is being left, the load ends before its threads do. So
handlers are deferred to a point where an exception does no harm.
"""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType
from typing import Any

__all__ = ["HeldSignals"]

# Signals with which people, supervisors and timers stop programs.
_NAMES = ["SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGBREAK"]
_NUMBERS = [int(getattr(signal, name)) for name in _NAMES if hasattr(signal, name)]


class HeldSignals:
    """For one thread. Does nothing outside the main thread, since handlers only run there."""

    def __init__(self, wake: Callable[[], None] = lambda: None) -> None:
        """`wake` is called when a signal arrives, whatever the thread is doing."""
        self._wake = wake
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._is_held = False
        self._came: deque[tuple[int, FrameType | None]] = deque()

    def hold(self) -> None:
        """From now on, handlers run only in `deliver` and `release`. Idempotent."""
        if self._is_held or threading.current_thread() is not threading.main_thread():
            return
        try:
            for number in _NUMBERS:
                handler = signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal.signal(number, self._note)
        except BaseException:  # from the handler of a signal that was not yet held
            self._restore()
            raise
        self._is_held = True

    def deliver(self) -> None:
        """Runs the handlers of the signals that have arrived; raises what they raise."""
        with ExitStack() as stack:  # all of them run, even if one raises
            while self._came:
                number, frame = self._came.pop()
                stack.callback(self._handlers[number], number, frame)

    def release(self) -> None:
        """Stops holding, then delivers. Idempotent."""
        if self._is_held:
            self._restore()
            self._is_held = False
            self.deliver()

    def __enter__(self) -> None:
        self.hold()

    def __exit__(self, *_: object) -> None:
        self.release()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._is_held:
            self._came.append((number, frame))
            self._wake()
        else:
            self._handlers[number](number, frame)

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self._note:  # else a handler has replaced it
                signal.signal(number, handler)
