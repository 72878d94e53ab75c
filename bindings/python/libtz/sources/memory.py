"""Bytes in memory, and seekable binary file objects, as sources."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any, BinaryIO

from libtz.errors import OptionError, SourceError
from libtz.options import ReadOptions
from libtz.sources.base import (
    BufferCursor,
    Profile,
    Source,
    SourceStats,
    check_range,
    local_profile,
    source_closed,
)

__all__ = ["FileObjectSource", "MemorySource"]


class MemorySource(Source):
    """An object with the buffer protocol: bytes, an mmap, an array. It must not be modified or
    resized while the source is open."""

    identity: str | None = None
    sequential: bool = False
    holds_resources: bool = False

    def __init__(self, data: Any, *, url: str = "<memory>") -> None:
        """`url` is where the bytes came from, for messages."""
        self.url = url
        view = memoryview(data)
        if not view.c_contiguous:
            raise OptionError("a buffer used as a source must be C-contiguous")
        self._view: memoryview | None = view.cast("B") if view.nbytes else memoryview(b"")
        self.size: int = view.nbytes
        self.stats = SourceStats()

    def open(self, front: memoryview) -> int:
        count = min(self.size, len(front))
        self.read_into(0, count, [front[:count]])
        return count

    def read_into(self, offset: int, size: int, buffers: Iterable[memoryview]) -> None:
        view = self._view
        if view is None:
            raise source_closed(self.url)
        check_range(offset, size, self.size)
        cursor = BufferCursor(offset, size, buffers)
        while cursor.remaining:
            free = cursor.free()
            free[:] = view[cursor.offset : cursor.offset + len(free)]
            cursor.advance(len(free))
        cursor.finish()
        self.stats.add_read(size)

    def read_unchanged(self, offset: int, buffer: memoryview) -> None:
        view, size = self._view, len(buffer)
        if view is None:
            raise source_closed(self.url)
        check_range(offset, size, self.size)
        buffer[:] = view[offset : offset + size]
        self.stats.add_read(size)

    def profile(self, begin: int, end: int, options: ReadOptions) -> Profile:
        return local_profile(end - begin)

    def check_unchanged(self) -> None:
        pass

    def close(self) -> None:
        self._view = None


class FileObjectSource(Source):
    """A seekable binary file object, from its first byte on. Closing the source leaves it open.

    Reads move the object's file position. There is only one, so a lock makes reads take turns.
    """

    size: int = 0
    identity: str | None = None
    sequential: bool = False
    holds_resources: bool = False

    def __init__(self, file: BinaryIO) -> None:
        name = getattr(file, "name", None)
        self.url: str = name if isinstance(name, str) else f"<{type(file).__name__}>"
        self._file = file
        self._lock = threading.Lock()
        self._is_closed = False
        self.stats = SourceStats()

    def open(self, front: memoryview) -> int:
        with self._lock:
            try:
                self.size = self._file.seek(0, 2)
            except (OSError, ValueError) as error:
                raise self._failed(error) from error
        count = min(self.size, len(front))
        self.read_into(0, count, [front[:count]])
        return count

    def read_into(self, offset: int, size: int, buffers: Iterable[memoryview]) -> None:
        check_range(offset, size, self.size)
        cursor = BufferCursor(offset, size, buffers)
        while cursor.remaining:
            free = cursor.free()
            # The lock is held for one buffer at a time, not for the caller's work in between.
            with self._lock:
                if self._is_closed:
                    raise source_closed(self.url)
                count = self._read_at(cursor.offset, free)
            cursor.advance(count)
        cursor.finish()
        self.stats.add_read(size)

    def _read_at(self, offset: int, buffer: memoryview) -> int:
        try:
            self._file.seek(offset)
            # Not every binary file object has readinto.
            if hasattr(self._file, "readinto"):
                count = self._file.readinto(buffer)
            else:
                data = self._file.read(len(buffer))
                count = len(data)
                buffer[:count] = data
        except (OSError, ValueError) as error:
            raise self._failed(error) from error
        if not count:
            raise SourceError(
                f"{self.url} ends at byte {offset} of {self.size}: it was truncated while it was"
                " being read",
                url=self.url,
            )
        return int(count)

    def _failed(self, error: Exception) -> SourceError:
        text = f"{self.url} cannot be read: {error}"
        return SourceError(text, url=self.url, errno=getattr(error, "errno", None))

    def profile(self, begin: int, end: int, options: ReadOptions) -> Profile:
        return local_profile(end - begin)

    def check_unchanged(self) -> None:
        with self._lock:
            if self._is_closed:
                raise source_closed(self.url)
            size = self._file.seek(0, 2)
        if size != self.size:
            raise SourceError(
                f"{self.url} changed while it was being read: {self.size} bytes became {size}",
                url=self.url,
            )

    def close(self) -> None:
        self._is_closed = True
