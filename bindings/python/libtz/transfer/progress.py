"""A progress bar: only on terminals, unless it is requested."""

from __future__ import annotations

import sys
from typing import Any

from libtz.text import printable

__all__ = ["PERIOD_S", "Progress"]

PERIOD_S = 0.1
TROUBLE_SIZE_MAX = 60


class Progress:
    """Shows how many of `total` bytes have arrived. `is_shown` None: only on a terminal."""

    def __init__(self, total: int, label: str, is_shown: bool | None) -> None:
        self.is_shown = sys.stderr.isatty() if is_shown is None else is_shown
        self._bar: Any = None
        self._trouble = ""
        if self.is_shown:
            from tqdm import tqdm  # most loads do not need this import

            class Bar(tqdm):  # type: ignore[type-arg]
                monitor_interval = 0  # no thread that outlives the bar

            self._bar = Bar(
                total=total,
                desc=printable(label),
                unit="B",
                unit_scale=True,
                unit_divisor=1000,
                leave=False,
            )

    def show(self, done: int, trouble: str = "") -> None:
        """`done` bytes have arrived; `trouble` is the reason for a delay."""
        if self._bar is not None:
            if trouble != self._trouble:
                self._trouble = trouble
                self._bar.set_postfix_str(printable(trouble[:TROUBLE_SIZE_MAX]), refresh=False)
            self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
