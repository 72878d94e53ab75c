"""Reads a local file into fresh memory, with preadv in two threads. Nothing is checked."""

from __future__ import annotations

import os

from bench.floors.memory import REQUEST_SIZE, fresh, in_threads


def load(path: str) -> object:
    file = os.open(path, os.O_RDONLY)
    size = os.fstat(file).st_size
    memory = fresh(size)

    def work(offsets: range) -> None:
        for begin in offsets:
            end = min(begin + REQUEST_SIZE, size)
            while begin < end:
                begin += os.preadv(file, [memory[begin:end]], begin)

    in_threads(2, size, work)
    os.close(file)
    return memory
