"""A local file, written under a temporary name and renamed when it is complete."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from libtz.errors import OptionError, SourceError

__all__ = ["FileSink"]

_HAS_PWRITE = hasattr(os, "pwrite")
_OPEN_FLAGS = (
    os.O_WRONLY
    | os.O_CREAT
    | os.O_EXCL
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_NOFOLLOW", 0)
)


class FileSink:
    """See `base.Sink`. An existing file at the path stays until the new one is renamed over it.

    A symbolic link at the path is replaced, not followed: its target may be shared. A file that is
    replaced keeps its permissions, so that a private one stays private.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, check: Callable[[Path], None] | None = None
    ) -> None:
        """`check` gets the path of the complete file before it is renamed. If it raises, the old
        file at `path` stays, and the new file is deleted."""
        self.path = Path(path)
        self._check = check
        if not self.path.name or "\0" in str(self.path):
            raise OptionError(f"{str(self.path)!r} is not the name of a file")
        self._temporary: Path | None = None
        self._fd: int | None = None
        self._is_done = False

    def write_at(self, offset: int, data: memoryview) -> None:
        data = data.cast("B")
        with self._failing():
            fd = self._open()
            while data:
                count = _write(fd, data, offset)
                data = data[count:]
                offset += count

    def commit(self, size: int) -> None:
        with self._failing():
            fd = self._open()
            # Also adds the zeros after the last byte written.
            os.ftruncate(fd, size)
            os.fsync(fd)
            self._close()
        if self._check is not None and self._temporary is not None:
            self._check(self._temporary)
        with self._failing():
            if self._temporary is not None:
                self._temporary.replace(self.path)
                self._temporary = None
            self._is_done = True
            self._sync_directory()

    def abort(self) -> None:
        self._is_done = True
        self._close()
        if self._temporary is not None:
            with contextlib.suppress(OSError):
                self._temporary.unlink()
            self._temporary = None

    def _open(self) -> int:
        if self._is_done:
            raise ValueError("the sink was committed or aborted")
        if self._fd is None:
            before = self._replaced()
            # In the same directory, so that renaming is atomic. The kernel applies the umask and
            # the directory's default ACL to the mode of a new file.
            temporary = self.path.with_name(f".libtz-{secrets.token_hex(8)}.tmp")
            self._fd = os.open(temporary, _OPEN_FLAGS, 0o666 if before is None else 0o600)
            self._temporary = temporary
            if before is not None and hasattr(os, "fchmod"):
                _keep_access(self._fd, before)
        return self._fd

    def _replaced(self) -> os.stat_result | None:
        """The status of the existing file at the path, if any. Follows links."""
        try:
            followed = self.path.stat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(followed.st_mode):
            raise OptionError(f"{self.path} exists, and is not a regular file")
        return followed

    def _close(self) -> None:
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def _sync_directory(self) -> None:
        # Without this, a power failure may lose the rename. Not every system supports it.
        if os.name == "nt":
            return
        with contextlib.suppress(OSError):
            directory = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """Cleans up at once after a failed write: the file can no longer become complete."""
        try:
            yield
        except OSError as error:
            self.abort()
            reason = error.strerror or type(error).__name__
            if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
                reason += "; free some, or write elsewhere"
            text = f"{self.path} cannot be written: {reason}"
            raise SourceError(text, url=str(self.path), errno=error.errno) from error


def _keep_access(fd: int, before: os.stat_result) -> None:
    """Gives a new file the owner and the permissions of another, or fewer permissions where the
    owner or the group cannot be kept."""
    mode = stat.S_IMODE(before.st_mode) & 0o777
    created = os.fstat(fd)
    if (created.st_uid, created.st_gid) != (before.st_uid, before.st_gid):
        try:
            os.fchown(fd, before.st_uid, before.st_gid)
        except OSError:
            if created.st_gid != before.st_gid:
                mode &= 0o707  # other people are in our group
    os.fchmod(fd, mode)


def _write(fd: int, data: memoryview, offset: int) -> int:
    if _HAS_PWRITE:
        return os.pwrite(fd, data, offset)
    os.lseek(fd, offset, os.SEEK_SET)
    return os.write(fd, data)
