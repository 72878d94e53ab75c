"""A seekable binary file object as a sink."""

from __future__ import annotations

import contextlib
from typing import BinaryIO

from libtz.errors import SourceError

__all__ = ["FileObjectSink"]

_ZEROS = bytes(64 * 1024)


class FileObjectSink:
    """See `base.Sink`. The file begins at the object's byte 0, and replaces its contents.

    The object stays open. The first write discards its old contents, since there is nowhere else
    to write to. `abort` leaves it empty.
    """

    def __init__(self, file: BinaryIO) -> None:
        name = getattr(file, "name", None)
        self._url = name if isinstance(name, str) else f"<{type(file).__name__}>"
        self._file = file
        self._end = 0  # bytes [0, end) have been written
        self._is_open = False
        self._is_done = False

    def write_at(self, offset: int, data: memoryview) -> None:
        data = data.cast("B")
        try:
            self._open()
            self._fill_to(offset)
            self._file.seek(offset)
            self._write(data)
        except (OSError, ValueError) as error:
            raise self._failed(error) from error
        self._end = max(self._end, offset + len(data))

    def commit(self, size: int) -> None:
        try:
            self._open()
            self._fill_to(size)
            self._file.flush()
        except (OSError, ValueError) as error:
            raise self._failed(error) from error
        self._is_done = True

    def abort(self) -> None:
        if self._is_open and not self._is_done:
            with contextlib.suppress(OSError, ValueError):
                self._file.truncate(0)
                self._file.seek(0)
        self._is_done = True

    def _open(self) -> None:
        if self._is_done:
            raise ValueError("the sink was committed or aborted")
        if not self._is_open:
            self._file.seek(0)
            self._file.truncate(0)
            self._is_open = True

    def _fill_to(self, offset: int) -> None:
        # Not every object fills the gap when it is written to past its end.
        self._file.seek(self._end)
        while self._end < offset:
            zeros = memoryview(_ZEROS)[: offset - self._end]
            self._write(zeros)
            self._end += len(zeros)

    def _write(self, data: memoryview) -> None:
        # An unbuffered file may write less than it is given.
        while data:
            count = self._file.write(data)
            data = data[len(data) if count is None else count :]

    def _failed(self, error: Exception) -> SourceError:
        text = f"{self._url} cannot be written: {error}"
        return SourceError(text, url=self._url, errno=getattr(error, "errno", None))
