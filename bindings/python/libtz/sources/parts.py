"""A source that compares bytes with digests before it delivers them, for the files of a set."""

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
# Adjacent ranges share the part at their border, and small tensors share parts.
KEPT_MAX = 8


class PartChecks(Source):
    """Reads whole parts of another source, checks their digests, and delivers the requested bytes.
    Raises IntegrityError if a digest is wrong. A part has 1 MiB and is copied from the CPU's cache,
    so the copy costs little compared with the hash.
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
                f"it has {self._inner.size} bytes, but the manifest of its set says {self.size}",
                None,
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
        """Yields memory for the parts [begin, end). Checks and delivers each complete part."""
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
                f"bytes {offset} to {offset + len(part)} differ from the manifest of its set: this"
                " is another file, or it was changed",
                offset,
            )

    def _wrong(self, rule: str, reason: str, offset: int | None) -> IntegrityError:
        text = f"{self.url}: {reason} (digest)"
        return IntegrityError(text, code="digest", rule=rule, offset=offset)

    # Parts that were not delivered completely are kept for the next range.

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

    # Everything else is left to the other source.

    def profile(self, begin: int, end: int, options: ReadOptions) -> Profile:
        return self._inner.profile(begin, end, options)

    def limit(self, seconds: float | None) -> None:
        self._inner.limit(seconds)

    def check_unchanged(self) -> None:
        self._inner.check_unchanged()

    def close(self) -> None:
        self._inner.close()


def _deliver(cursor: BufferCursor, offset: int, part: memoryview) -> None:
    """Copies the bytes that the cursor needs from a part, which begins at `offset` of the file."""
    rest = part[cursor.offset - offset :]
    rest = rest[: cursor.remaining]
    while rest:
        free = cursor.free()
        count = min(len(free), len(rest))
        free[:count] = rest[:count]
        cursor.advance(count)
        rest = rest[count:]
