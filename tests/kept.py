"""Errors that only the garbage collector frees, as when a caller keeps one in a variable."""

from __future__ import annotations

import gc
import itertools
from typing import Any

__all__ = ["keep"]

# Each error may hold the front of a file.
COLLECT_EVERY = 100

_count = itertools.count(1)


def keep(error: BaseException) -> None:
    """Makes the error refer to itself. The collector then frees its frames and their buffers in any
    order, which kills the interpreter if a buffer is still exported to C."""
    fields: dict[str, Any] = vars(error)
    fields["kept"] = error
    if next(_count) % COLLECT_EVERY == 0:
        gc.collect()
