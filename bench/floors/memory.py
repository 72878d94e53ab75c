"""Fresh memory of huge pages, which all floors write to."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable

REQUEST_SIZE = 16 << 20


def fresh(size: int) -> memoryview:
    # MAP_PRIVATE, since Python's default, MAP_SHARED, gets no huge pages.
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


def in_threads(count: int, size: int, work: Callable[[range], None]) -> None:
    """Runs `work` in `count` threads, which take requests of REQUEST_SIZE bytes in turn."""
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(range(number * REQUEST_SIZE, size, count * REQUEST_SIZE))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
