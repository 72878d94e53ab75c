"""Reads a local file around the page cache, with preadv and O_DIRECT in four threads. The kernel
splits the requests of 16 MiB, which keeps the device's queue full. Nothing is checked."""

from __future__ import annotations

import os

from bench.floors.memory import REQUEST_SIZE, fresh, in_threads

THREADS = 4
ALIGNMENT = 4096


def load(path: str) -> object:
    file = os.open(path, os.O_RDONLY | os.O_DIRECT)
    size = os.fstat(file).st_size
    memory = fresh(-(-size // ALIGNMENT) * ALIGNMENT)

    def work(offsets: range) -> None:
        for begin in offsets:
            end = min(begin + REQUEST_SIZE, len(memory))
            while begin < min(end, size):
                begin += os.preadv(file, [memory[begin:end]], begin)

    in_threads(THREADS, size, work)
    os.close(file)
    return memory
