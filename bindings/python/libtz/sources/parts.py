"""A source whose bytes are compared with digests before anybody sees them: a file of a set."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator

from libtz._native import lib
from libtz.errors import IntegrityError
from libtz.manifest import PART_SIZE, SetFile
from libtz.memory import allocate
from libtz.options import ReadOptions
from libtz.sources.base import BufferCursor, Profile, Source, check_range

__all__ = ["PartChecks"]

HASH_SIZE = 32
# Ranges share the parts at their borders, and small tensors lie in one part.
KEPT_MAX = 8


class PartChecks(Source):
    """Reads whole parts of another source, and delivers what was asked for of those that have the
    right digest. Any other part is an IntegrityError. A part of 1 MiB is copied from the cache of
    the processor, so this costs little beside the hash.
    """

    is_checked = True

    def __init__(self, inner: Source, file: SetFile) -> None:
        self._inner = inner
        self._file = file
        self.url = inner.url
        self.stats = inner.stats
        self.size = file.size
        inner.is_proven = True
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def identity(self) -> str | None:  # type: ignore[override]
        return self._inner.identity

    @property
    def sequential(self) -> bool:  # type: ignore[override]
        return self._inner.sequential

    @property
    def holds_resources(self) -> bool:  # type: ignore[override]
        return self._inner.holds_resources

    def open(self, front: memoryview) -> int:
        first = allocate(PART_SIZE).view()
        filled = self._inner.open(first)
        if self._inner.size != self.size:
            raise self._wrong(
                "TZS1-17",
                f"it has {self._inner.size} bytes, and the manifest of its set says {self.size}",
            )
        if filled:
            self._require(0, first[:filled])
            self._keep(0, first[:filled])
        count = min(self.size, len(front))
        if count:
            self.read_into(0, count, [front[:count]])
        return count

    def read_into(self, offset: int, size: int, buffers: Iterable[memoryview]) -> None:
        check_range(offset, size, self.size)
        cursor = BufferCursor(offset, size, buffers)
        begin, end = offset // PART_SIZE, -(-(offset + size) // PART_SIZE)
        while begin < end and (part := self._find(begin)) is not None:
            _deliver(cursor, begin * PART_SIZE, memoryview(part))
            begin += 1
        tail = self._find(end - 1) if begin < end else None
        if tail is not None:
            end -= 1
        if begin < end:
            first, last = begin * PART_SIZE, min(end * PART_SIZE, self.size)
            self._inner.read_into(first, last - first, self._receive(begin, end, cursor))
        if tail is not None:
            _deliver(cursor, end * PART_SIZE, memoryview(tail))
        cursor.finish()

    def _receive(self, begin: int, end: int, cursor: BufferCursor) -> Iterator[memoryview]:
        """Memory for the parts [begin, end), which are delivered as they are complete."""
        memory = allocate(PART_SIZE).view()
        for number in range(begin, end):
            offset = number * PART_SIZE
            part = memory[: min(PART_SIZE, self.size - offset)]
            yield part
            self._require(number, part)
            before = cursor.remaining
            _deliver(cursor, offset, part)
            if before - cursor.remaining < len(part):
                self._keep(number, part)

    def _require(self, number: int, part: memoryview) -> None:
        begin = HASH_SIZE * number
        if lib.blake3(part) != self._file.parts[begin : begin + HASH_SIZE]:
            offset = number * PART_SIZE
            raise self._wrong(
                "TZS1-18",
                f"bytes {offset} to {offset + len(part)} are not those that the manifest of its set"
                " pins: this is another file, or it was changed",
            )

    def _wrong(self, rule: str, reason: str) -> IntegrityError:
        return IntegrityError(f"{self.url}: {reason} (digest)", code="digest", rule=rule)

    # Parts that were not delivered whole are kept for the next range.

    def _find(self, number: int) -> bytes | None:
        with self._lock:
            part = self._kept.get(number)
            if part is not None:
                self._kept.move_to_end(number)
            return part

    def _keep(self, number: int, part: memoryview) -> None:
        with self._lock:
            self._kept[number] = bytes(part)
            if len(self._kept) > KEPT_MAX:
                self._kept.popitem(last=False)

    # The rest is the other source's.

    def profile(self, begin: int, end: int, options: ReadOptions) -> Profile:
        return self._inner.profile(begin, end, options)

    def limit(self, seconds: float | None) -> None:
        self._inner.limit(seconds)

    def check_unchanged(self) -> None:
        self._inner.check_unchanged()

    def close(self) -> None:
        self._inner.close()


def _deliver(cursor: BufferCursor, offset: int, part: memoryview) -> None:
    """Copies what the cursor still wants of a part, which begins at `offset` of the file."""
    rest = part[cursor.offset - offset :]
    rest = rest[: cursor.remaining]
    while rest:
        free = cursor.free()
        count = min(len(free), len(rest))
        free[:count] = rest[:count]
        cursor.advance(count)
        rest = rest[count:]
