"""What `sha256:` means: the pin of a whole file in a format that has no digest of its own.

Nothing of the file is believed before the hash of all of it was compared. A file that fits into
memory is read whole, hashed, and from then on read from that memory. A larger one is hashed while
it is loaded (transfer/verification.py): so it can only be loaded whole, and until that has been
done, names and metadata are refused.
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
    """Bytes of the largest pinned file that is read whole: half of `host_memory_max`. The rest is
    for the loads from it."""
    return min(options.host_memory_max // 2, options.host_memory_max - HOST_MEMORY_MIN)


def whole_in_memory(
    source: Source, front: memoryview, pin: bytes, options: ReadOptions
) -> tuple[Source, ReadOptions]:
    """The bytes of an open source, once their hash was compared, as a source, and options that
    leave room for them. `front` is what is known of the beginning. Closes the source that was
    given. IntegrityError if it is another file."""
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
