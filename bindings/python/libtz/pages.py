"""Memory from the system, in huge pages if it has them."""

from __future__ import annotations

import contextlib
import mmap
import sys

__all__ = ["HAS_HUGE_PAGES", "ask_for_huge_pages", "map_pages"]

HAS_HUGE_PAGES = sys.platform == "linux" and hasattr(mmap, "MADV_HUGEPAGE")


def map_pages(length: int) -> mmap.mmap:
    """Maps `length` bytes of zeroed memory without touching it. Raises MemoryError."""
    try:
        if sys.platform == "win32":
            return mmap.mmap(-1, length)
        # Python's default is MAP_SHARED, to which huge pages do not apply.
        return mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError):
        raise MemoryError(
            f"there is no memory for {length:,} bytes at once; load fewer tensors, or slices"
        ) from None


def ask_for_huge_pages(mapping: mmap.mmap) -> None:
    """Ask for huge pages. Without them, the memory is slower to fill, but works."""
    if HAS_HUGE_PAGES:
        with contextlib.suppress(OSError):  # a kernel without huge pages
            mapping.madvise(mmap.MADV_HUGEPAGE)
