"""The pin `sha256:`, of a whole file in a format that has no digest of its own.

Nothing in the file is trusted before its whole hash has been compared. A file that fits in memory
is read whole and hashed, and then loaded from that memory. A larger one is hashed while it is
loaded (transfer/verification.py). So it can only be loaded whole, and until then its names and
metadata are not available.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from libtz.memory import allocate
from libtz.options import HOST_MEMORY_MIN, ReadOptions
from libtz.sources.base import Source
from libtz.sources.memory import MemorySource
from libtz.transfer.verification import require_sha256

__all__ = ["in_memory_max", "whole_in_memory"]


def in_memory_max(options: ReadOptions) -> int:
    """The size of the largest pinned file that is read whole: half of `host_memory_max`. The other
    half is for loads from it."""
    return min(options.host_memory_max // 2, options.host_memory_max - HOST_MEMORY_MIN)


def whole_in_memory(
    source: Source, front: memoryview, pin: bytes, options: ReadOptions
) -> tuple[Source, ReadOptions]:
    """Reads an open source into memory, compares its hash with `pin`, and closes it. Returns a
    source of these bytes, and options reduced by the memory they take. `front` holds the bytes read
    so far. Raises IntegrityError if the hash differs."""
    data = allocate(source.size).view()
    data[: len(front)] = front
    rest = data[len(front) :]
    if rest:
        source.read_into(len(front), len(rest), [rest])
    source.check_unchanged()
    source.close()
    require_sha256(hashlib.sha256(data).digest(), pin, source.url)
    left = options.host_memory_max - source.size
    return MemorySource(data, url=source.url), replace(options, host_memory_max=left)
