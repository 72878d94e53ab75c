"""An object in S3, uploaded in parts while it is written.

The header comes first in the file but is known last, so the first part is kept in memory until the
end; the others are uploaded in the background. Nothing is visible before the upload is completed,
and an aborted upload leaves nothing behind. botocore signs, adds checksums and retries.
"""

from __future__ import annotations

import contextlib
import queue
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from libtz.errors import Error, OptionError
from libtz.options import MIB, HttpOptions, S3Options
from libtz.sinks.s3_calls import S3Calls
from libtz.sources.s3_client import parse_s3_url
from libtz.sources.url import redacted

__all__ = ["S3Sink"]

# S3 allows parts of 5 MiB to 5 GiB, and 10,000 of them; a thousand stay in reserve.
PART_SIZE_MIN = 8 * MIB
PART_SIZE_MAX = 5 * 1024 * MIB
PARTS_MAX = 9000
# Concurrent uploads: a few connections fill a link, more only take memory.
UPLOADS_MAX = 4
# Memory limit for parts being filled or uploaded; two parts are always allowed.
MEMORY_MAX = 64 * MIB


class S3Sink:
    """See `base.Sink`. `file_size_max` bounds the file's size, and so determines the part size."""

    def __init__(
        self,
        url: str,
        s3: S3Options | None = None,
        http: HttpOptions | None = None,
        *,
        header_size: int,
        file_size_max: int,
    ) -> None:
        bucket, key = parse_s3_url(url)
        s3 = s3 or S3Options()
        url = redacted(url)
        if s3.version_id is not None:
            raise OptionError(
                f"{url}: S3Options.version_id is only for reading; the store assigns new versions"
            )
        self._calls = S3Calls(
            url, {"Bucket": bucket, "Key": key}, s3, http or HttpOptions(), UPLOADS_MAX + 1
        )
        self._file_size_max = file_size_max
        smallest = max(PART_SIZE_MIN, header_size, -(-file_size_max // PARTS_MAX))
        self.part_size = -(-smallest // MIB) * MIB
        if self.part_size > PART_SIZE_MAX:
            raise OptionError(f"{url}: {file_size_max} bytes exceed the size of an S3 object")
        self._first = bytearray()
        self._part = bytearray()  # the bytes of the part being filled
        self._end = 0  # end of the bytes written so far
        self._upload: dict[str, str] | None = None  # the upload's identifier, once begun
        self._executor: ThreadPoolExecutor | None = None
        self._slots: queue.Queue[None] = queue.Queue()
        self._parts: list[Future[dict[str, Any]]] = []
        self._failure: BaseException | None = None  # of a thread
        self._is_done = False

    def write_at(self, offset: int, data: memoryview) -> None:
        data = data.cast("B")
        end = offset + len(data)
        if self._is_done:
            raise ValueError("the sink was committed or aborted")
        if offset < 0 or end > self._file_size_max:
            raise ValueError(f"[{offset}, {end}) is not inside {self._file_size_max} bytes")
        head = data[: max(0, self.part_size - offset)]
        if head:
            self._write_first(offset, head)
        if len(head) < len(data):
            try:
                self._write_rest(offset + len(head), data[len(head) :])
            except Error:
                self.abort()  # the object can no longer become complete
                raise
        self._end = max(self._end, end)

    def commit(self, size: int) -> None:
        if self._is_done:
            raise ValueError("the sink was committed or aborted")
        if not self._end <= size <= self._file_size_max:
            raise ValueError(f"{self._end} bytes were written to a file of {size}")
        try:
            if size <= self.part_size:
                self._put(size)
            else:
                self._complete(size)
        except BaseException:
            self.abort()
            raise
        self._finish()

    def abort(self) -> None:
        if self._is_done:
            return
        upload = self._upload
        if self._executor is not None:
            # A part that arrives after the abort would stay in the store.
            self._executor.shutdown(wait=True, cancel_futures=True)
        if upload is not None:
            with contextlib.suppress(Exception):
                self._calls.call("AbortMultipartUpload", **upload)
        self._finish()

    def _finish(self) -> None:
        self._is_done = True
        self._first = self._part = bytearray()
        if self._executor is not None:
            self._executor.shutdown(wait=True)
        self._calls.close()

    # Collecting.

    def _write_first(self, offset: int, data: memoryview) -> None:
        end = offset + len(data)
        if len(self._first) < end:
            self._first.extend(bytes(end - len(self._first)))
        self._first[offset:end] = data

    def _write_rest(self, offset: int, data: memoryview) -> None:
        position = self._position()
        if offset < position:
            raise ValueError(f"offsets must ascend: {offset} comes after {position}")
        self._append_zeros(offset - position)
        while data:
            free = self._free_in_part()
            self._part += data[:free]
            data = data[free:]

    def _append_zeros(self, count: int) -> None:
        while count:
            free = min(self._free_in_part(), count)
            self._part.extend(bytes(free))
            count -= free

    def _position(self) -> int:
        """The offset of the next byte after the first part."""
        return self.part_size * (1 + len(self._parts)) + len(self._part)

    def _free_in_part(self) -> int:
        if len(self._part) == self.part_size:
            self._send_part()
        return self.part_size - len(self._part)

    # Sending.

    def _put(self, size: int) -> None:
        self._first.extend(bytes(size - len(self._first)))
        self._calls.send("PutObject", self._first)

    def _begin(self) -> dict[str, str]:
        response = self._calls.begin()
        uploads = max(1, min(UPLOADS_MAX, MEMORY_MAX // self.part_size - 1))
        self._executor = ThreadPoolExecutor(uploads, thread_name_prefix="libtz-upload")
        for _ in range(uploads):
            self._slots.put(None)
        return {"UploadId": response["UploadId"]}

    def _send_part(self) -> None:
        """Hand the filled part to a thread; block until one is free."""
        if self._upload is None:
            self._upload = self._begin()
        self._slots.get()
        self._raise_failure()
        number = 2 + len(self._parts)
        part, self._part = self._part, bytearray()
        if self._executor is not None:
            self._parts.append(self._executor.submit(self._upload_part, number, part))

    def _upload_part(self, number: int, body: bytearray) -> dict[str, Any]:
        upload = self._upload or {}
        try:
            response = self._calls.send("UploadPart", body, PartNumber=number, **upload)
        except BaseException as error:
            self._failure = error
            raise
        finally:
            self._slots.put(None)
        checksums = {name: response[name] for name in ("ChecksumCRC32",) if name in response}
        return {"PartNumber": number, "ETag": response["ETag"], **checksums}

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _complete(self, size: int) -> None:
        self._append_zeros(size - self._position())
        self._send_part()
        parts = [part.result() for part in self._parts]
        self._first.extend(bytes(self.part_size - len(self._first)))
        parts.insert(0, self._upload_part(1, self._first))
        upload = self._upload or {}
        self._calls.call("CompleteMultipartUpload", **upload, MultipartUpload={"Parts": parts})
