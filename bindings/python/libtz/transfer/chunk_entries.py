"""Fetches the chunk entries of the tensors that are about to be loaded."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from libtz._native import lib
from libtz.memory import allocate
from libtz.sources.base import Source

__all__ = ["fetch_chunk_entries"]

# Reading this many unneeded entries costs less than another request.
GAP_MAX = 256 * 1024


def fetch_chunk_entries(
    source: Source, header: lib.Header, tensors: NDArray[np.uint32], front: memoryview
) -> int:
    """Reads the missing chunk entries of these tensors into the header. Returns the number of bytes
    read. `front` holds the bytes from the start of the file that are already in memory.
    """
    missing = header.entry_ranges(tensors)
    unknown = []
    for offset, size in missing:
        if offset + size <= len(front):
            header.put_entries(offset, front[offset : offset + size])
        else:
            unknown.append((offset, size))
    read = 0
    for ranges in _joined(unknown):
        begin = ranges[0][0]
        end = ranges[-1][0] + ranges[-1][1]
        data = allocate(end - begin).view()
        source.read_into(begin, end - begin, [data])
        read += end - begin
        # Only these tensors: a bad entry of another tensor must not fail this load.
        for offset, size in ranges:
            header.put_entries(offset, data[offset - begin : offset - begin + size])
    return read


def _joined(ranges: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    groups: list[list[tuple[int, int]]] = []
    end = 0
    for offset, size in ranges:
        if groups and offset - end <= GAP_MAX:
            groups[-1].append((offset, size))
        else:
            groups.append([(offset, size)])
        end = offset + size
    return groups
