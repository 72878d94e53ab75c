"""Reads files into the page cache, and evicts them."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

_PIECE_SIZE = 16 << 20
_TRIES = 30
_SYS_CACHESTAT = 451  # Linux 6.5 and newer


class _Range(ctypes.Structure):
    _fields_ = [("offset", ctypes.c_uint64), ("size", ctypes.c_uint64)]


class _Cachestat(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in ("cached", "dirty", "writeback", "evicted", "recently_evicted")
    ]


def cached_pages(file: int) -> int:
    stat = _Cachestat()
    whole = _Range(0, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(_SYS_CACHESTAT, file, ctypes.byref(whole), ctypes.byref(stat), 0)
    if result != 0:
        raise OSError(ctypes.get_errno(), "cachestat")
    return int(stat.cached)


def fill(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        piece = bytearray(_PIECE_SIZE)
        while file.readinto(piece):
            pass


def evict(path: Path) -> None:
    """Drops all of a file's pages from the page cache, or raises."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
        for _ in range(_TRIES):  # pages that were just sent to a socket are in use for a moment
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            left = cached_pages(file)
            if not left:
                break
            time.sleep(0.1)
    finally:
        os.close(file)
    if left:
        raise RuntimeError(f"{path} still has {left} pages in the page cache")
