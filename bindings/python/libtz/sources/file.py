"""A local file, read with `preadv`, which needs no lock and no shared file position."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterable

from libtz.errors import SourceError
from libtz.options import ReadOptions
from libtz.sources.base import (
    INLINE_SIZE_MAX,
    LOCAL_THREADS_MAX,
    BufferCursor,
    Profile,
    Source,
    SourceStats,
    check_range,
    local_profile,
    source_closed,
)
from libtz.sources.direct import SIZE_MIN as DIRECT_SIZE_MIN
from libtz.sources.direct import DirectFile

__all__ = ["FileSource"]

# Windows and old systems have no preadv; there, reads share one file position and take turns.
_HAS_PREADV = hasattr(os, "preadv")
# O_NONBLOCK: opening a named pipe must not wait for a writer; its type is refused below.
_OPEN_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_NONBLOCK", 0)
)
BOUNCE_MEMORY_MAX = 16 * 1024 * 1024
_COPY_SIZE_MAX = 8 * 1024 * 1024  # memory limit of a read without preadv


class FileSource(Source):
    """A regular file. Its identity is modification time, size and inode, which `check_unchanged()`
    compares. Ranges that are not in the page cache are read around it, and do not fill it.

    If another file is renamed over it, the one that was opened stays readable.
    """

    size: int = 0
    identity: str | None = None
    sequential: bool = False

    def __init__(
        self, path: str | os.PathLike[str], *, bounce_memory_max: int = BOUNCE_MEMORY_MAX
    ) -> None:
        """`bounce_memory_max`: bytes for direct reads of unaligned ranges."""
        self._bounce_memory_max = bounce_memory_max
        self.path: str = os.fspath(path)
        self.url: str = self.path
        self.stats = SourceStats()
        self._fd: int | None = None
        self._direct: DirectFile | None = None
        # Reentrant: the garbage collector may close a file in the middle of anything.
        self._status: tuple[int, int, int] | None = None
        self._lock = threading.RLock()
        self._readers = 0
        self._is_closing = False

    def open(self, front: memoryview) -> int:
        try:
            fd = os.open(self.path, _OPEN_FLAGS)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise self._failed("opened", error) from error
        self._fd = fd
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            is_folder = stat.S_ISDIR(status.st_mode)
            what = "a directory" if is_folder else "not a regular file"
            text = f"{self.url} cannot be opened: it is {what}"
            raise SourceError(text, url=self.url, errno=errno.EISDIR if is_folder else None)
        self.size = status.st_size
        self._status = _identity(status)
        self.identity = "-".join(map(str, self._status))
        self._direct = DirectFile.of(fd, self.size, self.stats, self._bounce_memory_max)
        count = min(self.size, len(front))
        self.read_into(0, count, [front[:count]])
        return count

    def read_into(self, offset: int, size: int, buffers: Iterable[memoryview]) -> None:
        check_range(offset, size, self.size)
        cursor = BufferCursor(offset, size, buffers)
        fd = self._acquire()
        direct = self._direct
        try:
            if direct is not None and not direct.is_faster(offset, size):
                direct = None
            while cursor.remaining:
                free = cursor.free()
                if self._is_closing:
                    raise source_closed(self.url)
                count = -1 if direct is None else direct.read(cursor.offset, free)
                if count < 0:
                    direct = None
                    count = self._read_at(fd, cursor.offset, free)
                if count == 0:
                    raise self._truncated(cursor.offset)
                cursor.advance(count)
            cursor.finish()
        finally:
            self._release()
        self.stats.add_read(size)

    def read_unchanged(self, offset: int, buffer: memoryview) -> None:
        size = len(buffer)
        if size >= DIRECT_SIZE_MIN:
            super().read_unchanged(offset, buffer)
            return
        check_range(offset, size, self.size)
        fd = self._acquire()
        try:
            done = self._read_at(fd, offset, buffer)
            while done < size:  # a signal can interrupt a read
                count = self._read_at(fd, offset + done, buffer[done:])
                if count == 0:
                    raise self._truncated(offset + done)
                done += count
            status = os.fstat(fd)
        finally:
            self._release()
        self._compare(status)
        self.stats.add_read(size)

    def _read_at(self, fd: int, offset: int, buffer: memoryview) -> int:
        try:
            if _HAS_PREADV:
                return os.preadv(fd, [buffer], offset)
            with self._lock:
                os.lseek(fd, offset, os.SEEK_SET)
                data = os.read(fd, min(len(buffer), _COPY_SIZE_MAX))
        except OSError as error:
            raise self._failed("read", error) from error
        buffer[: len(data)] = data
        return len(data)

    def check_unchanged(self) -> None:
        """Raise SourceError if the file was written to or truncated since it was opened."""
        fd = self._acquire()
        try:
            status = os.fstat(fd)
        finally:
            self._release()
        self._compare(status)

    def _compare(self, status: os.stat_result) -> None:
        if _identity(status) != self._status:
            raise SourceError(
                f"{self.url} changed while it was being read; load it again, and replace files by"
                " renaming instead of writing to them in place",
                url=self.url,
            )

    def profile(self, begin: int, end: int, options: ReadOptions) -> Profile:
        size = end - begin
        if size > INLINE_SIZE_MAX and self._is_cold(begin, end):
            return Profile(LOCAL_THREADS_MAX, LOCAL_THREADS_MAX)
        return local_profile(size)

    def _is_cold(self, begin: int, end: int) -> bool:
        """Whether most of [begin, end) would be read from the disk, around the page cache."""
        self._acquire()
        try:
            return self._direct is not None and self._direct.is_cold(begin, end)
        finally:
            self._release()

    def fileno(self) -> int:
        """The open descriptor, for mapping. This object still owns it."""
        if self._fd is None:
            raise source_closed(self.url)
        return self._fd

    def close(self) -> None:
        with self._lock:
            self._is_closing = True
            if self._readers == 0:
                self._close_fd()

    # The system may reuse a descriptor number as soon as it is closed. So if reads are running when
    # close() is called, the last reader closes it.
    def _acquire(self) -> int:
        with self._lock:
            self._readers += 1  # first, so that close() in this thread leaves it open
            fd = self._fd
            if fd is None or self._is_closing:
                self._release()
                raise source_closed(self.url)
            return fd

    def _release(self) -> None:
        with self._lock:
            self._readers -= 1
            if self._is_closing and self._readers == 0:
                self._close_fd()

    def _close_fd(self) -> None:
        if self._direct is not None:
            self._direct.close()
            self._direct = None
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _truncated(self, offset: int) -> SourceError:
        return SourceError(
            f"{self.url} ends at byte {offset} of {self.size}: it was truncated while it was being"
            " read",
            url=self.url,
        )

    def _failed(self, action: str, error: Exception) -> SourceError:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        text = f"{self.url} cannot be {action}: {reason}"
        return SourceError(text, url=self.url, errno=getattr(error, "errno", None))


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mtime_ns, status.st_size, status.st_ino
