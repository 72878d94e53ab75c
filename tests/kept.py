"""Errors that are left to the garbage collector, as callers do who hold one in a variable."""

from __future__ import annotations

import gc
import itertools
from typing import Any

__all__ = ["keep"]

# Each may hold the front of a file.
COLLECT_EVERY = 100

_count = itertools.count(1)


def keep(error: BaseException) -> None:
    """Makes the error hold itself. Its frames and their buffers then end in the order the collector
    chooses, which kills the interpreter if one of them is exported to C for good."""
    fields: dict[str, Any] = vars(error)
    fields["kept"] = error
    if next(_count) % COLLECT_EVERY == 0:
        gc.collect()
