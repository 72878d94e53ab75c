"""An object behind HTTP or HTTPS, read by ranges over an unreliable network.

Every response is checked against the request: status 206 with exactly the range, no content coding,
and the identity of the first response (strong ETag, else Last-Modified, and always the size). A
failed request is resumed at the byte reached, within the same buffer. One that is far slower than
the others is resumed at once (`stragglers.py`). A server without ranges is read as one stream.
Redirects are followed here, because credentials must not be sent to another host.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from logging import INFO, WARNING
from typing import TypeVar

from libtz.errors import SourceError
from libtz.options import HttpOptions, ReadOptions
from libtz.sources.base import (
    BufferCursor,
    Profile,
    Source,
    SourceStats,
    check_range,
    source_closed,
)
from libtz.sources.connections import Connections
from libtz.sources.logs import logger
from libtz.sources.origin import HttpOrigin, Origin, Refusal
from libtz.sources.redirects import REDIRECT_STATUSES, followed
from libtz.sources.response import Response
from libtz.sources.response_checks import (
    Identity,
    changed,
    check_coding,
    check_range_answer,
    is_empty_object,
    read_unsized,
)
from libtz.sources.retry import Tries, TryFailed, retry_after_s
from libtz.sources.url import origin_of, redacted

__all__ = ["HttpSource"]

# A few connections fill most links. The transfer adds more as long as that helps.
CONNECTIONS_FIRST = 4

THROTTLE_STATUSES = frozenset({429, 503})
# Statuses that the target of a redirect may send when its signed URL has expired.
EXPIRED_STATUSES = frozenset({400, 401, 403, 404, 410}) | REDIRECT_STATUSES
# An error page is read for its error code, and so that the connection can be reused. Larger ones
# are cut off here.
ERROR_BODY_SIZE_MAX = 16 * 1024
NO_RANGES = "the server ignores ranges; reading everything over one connection"
# Unneeded bytes of a stream are skipped in steps of this size.
SKIP_SIZE = 256 * 1024

_Result = TypeVar("_Result")


class _Stream:
    """The single body that a server without ranges sends, and the position reached in it."""

    def __init__(self, response: Response, position: int) -> None:
        self.response = response
        self.position = position


class HttpSource(Source):
    """See `base.Source`. `connections_max` is the number of threads expected to read at once."""

    size: int = 0
    identity: str | None = None
    sequential: bool = False

    def __init__(
        self,
        url: str,
        options: HttpOptions | None = None,
        *,
        connections_max: int = 32,
        origin: Origin | None = None,
    ) -> None:
        options = options or HttpOptions()
        self._origin: Origin = origin or HttpOrigin(url, options)
        self.url: str = self._origin.shown_url
        self.stats = SourceStats()
        self._options = options
        self._connections_max = connections_max
        self._connections = Connections(options, connections_max, self.stats)
        self._identity: Identity | None = None
        # The last target of redirects and the headers that may be sent there. None: no redirect.
        self._target: tuple[str, Mapping[str, str]] | None = None
        self._whole: bytes | None = None  # contents of a small object whose size was not announced
        self._stream: _Stream | None = None
        self._stream_lock = threading.Lock()
        self._closed = threading.Event()
        _sources.add(self)

    def leave_parent(self) -> None:
        """Drop the parent's connections in a forked process. Two processes that read from one
        connection would get each other's bytes, and shutting it down would end it for both."""
        verify = self._connections.verify
        self._connections = Connections(self._options, self._connections_max, self.stats)
        self._connections.verify = verify
        if self._closed.is_set():
            self._connections.abort()
        self._stream = None
        self._stream_lock = threading.Lock()

    # The interface `Source`.

    def open(self, front: memoryview) -> int:
        if not front.nbytes:
            raise ValueError("open() needs a buffer for the front")
        response = self._persist(lambda: self._first_response(len(front)), lambda: 0)
        count = min(self.size, len(front))
        if self._whole is not None:
            response.close()
            front[:count] = self._whole[:count]
        elif response.status == HTTPStatus.OK:
            self.sequential = True
            if self.size > count:
                self._note(NO_RANGES)
            self._stream = _Stream(response, 0)
            self._read(BufferCursor(0, count, [front[:count]]))
        else:
            self._read(BufferCursor(0, count, [front[:count]]), response)
        return count

    def limit(self, seconds: float | None) -> None:
        self._connections.minimum_rate.limit(seconds)

    def read_into(self, offset: int, size: int, buffers: Iterable[memoryview]) -> None:
        check_range(offset, size, self.size)
        cursor = BufferCursor(offset, size, buffers)
        if self._whole is not None:
            cursor.fill(self._whole)
        else:
            self._read(cursor)
        cursor.finish()

    def profile(self, begin: int, end: int, options: ReadOptions) -> Profile:
        if self.sequential:
            return Profile(1, 1)
        connections = options.connections_max
        return Profile(min(CONNECTIONS_FIRST, connections), connections, ramps=True)

    def check_unchanged(self) -> None:
        """Nothing to do: every response was checked against the identity of the first one."""

    def close(self) -> None:
        self._closed.set()
        self._connections.abort()
        # A thread that was reading the stream has just been woken; it drops the stream itself.
        if self._stream_lock.acquire(blocking=False):
            try:
                self._drop_stream()
            finally:
                self._stream_lock.release()

    # Retries.

    def _read(self, cursor: BufferCursor, response: Response | None = None) -> None:
        def step() -> None:
            nonlocal response
            first, response = response, None
            if self.sequential:
                self._receive_from_stream(cursor)
            else:
                self._receive_range(cursor, first)

        # It takes more than one successful step if the server turns out not to support ranges.
        while cursor.remaining or response is not None:
            self._persist(step, lambda: cursor.offset)

    def _persist(self, step: Callable[[], _Result], position: Callable[[], int]) -> _Result:
        """Call `step` until it succeeds, as the retry policy allows."""
        tries = Tries(self._options.retry, position())
        while True:
            if self._closed.is_set():
                raise source_closed(self.url)
            try:
                return step()
            except TryFailed as failed:
                # Its frames refer to this one and to the caller's buffers: break the cycle.
                failure = failed.with_traceback(None)
            if self._closed.is_set():
                raise source_closed(self.url)
            if failure.is_restart:
                self.stats.add(restarts=1)
                self._note(f"{failure.reason}; continuing over another connection")
                continue
            wait_s = tries.wait_after(failure, position())
            if wait_s is None:
                raise self._error(failure, tries.count)
            self.stats.add(retries=1, repeated_failures=int(tries.count > 1))
            where = f"resuming at byte {position()}" if position() else "trying again"
            self._note(f"{failure.reason}; {where} in {wait_s:.1f} s", tries.count)
            self._closed.wait(wait_s)

    def _note(self, text: str, tries: int = 0) -> None:
        """Say why this takes longer, in the log and in the progress bar."""
        count = f" (try {tries + 1} of {self._options.retry.attempts})" if tries else ""
        logger.log(WARNING if tries else INFO, "%s: %s%s", self.url, text, count)
        self.stats.note_trouble(text)

    def _error(self, failure: TryFailed, tries: int) -> SourceError:
        tried = f" (given up after {tries} tries without progress)" if tries > 1 else ""
        return SourceError(
            f"{self.url} cannot be read: {failure.reason}{tried}",
            url=self.url,
            status=failure.status,
            retryable=failure.retryable,
        )

    # Ranges.

    def _first_response(self, front_size: int) -> Response:
        response = self._request(0, front_size)
        try:
            if response.status == HTTPStatus.OK:
                check_coding(response)
                size = response.length
                if size is None:
                    self._whole = read_unsized(response)
                    size = len(self._whole)
            elif response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                size = 0
            else:
                size = check_range_answer(response, 0, front_size)
        except BaseException:
            response.close()
            raise
        self._identity = Identity(response.headers)
        self.size = size
        self.identity = self._identity.text(size)
        return response

    def _receive_range(self, cursor: BufferCursor, response: Response | None) -> None:
        begin, end = cursor.offset, cursor.offset + cursor.remaining
        with response or self._request(begin, end) as response:
            if response.status == HTTPStatus.OK:
                self.sequential = True  # this server has no ranges; _read continues with a stream
                self._note(NO_RANGES)
                return
            if cursor.remaining:
                self._check_identity(response, check_range_answer(response, begin, end))
                self._receive(response, cursor)

    def _receive(self, response: Response, cursor: BufferCursor) -> None:
        before = cursor.remaining
        try:
            while cursor.remaining:
                cursor.advance(_some(response, cursor.free()))
        finally:
            self.stats.add(bytes=before - cursor.remaining)
        if response.length is None and response.read_rest(1):
            raise TryFailed("the server sent more bytes than requested", retryable=False)

    # One stream, for servers without ranges.

    def _receive_from_stream(self, cursor: BufferCursor) -> None:
        with self._stream_lock:
            try:
                stream = self._stream_at(cursor.offset)
                before = cursor.offset
                try:
                    while cursor.remaining:
                        cursor.advance(_some(stream.response, cursor.free()))
                finally:
                    stream.position += cursor.offset - before
                    self.stats.add(bytes=cursor.offset - before)
            except BaseException:
                # After an interruption, the position may no longer match the body.
                self._drop_stream()
                raise
            if stream.position == self.size:
                self._drop_stream()
        if self._closed.is_set():
            self.close()  # that call could not take the lock

    def _stream_at(self, offset: int) -> _Stream:
        """The stream at `offset`. Reads on to go forward; starts again to go backward."""
        stream = self._stream
        if stream is None or stream.position > offset:
            self._drop_stream()
            response = self._request(offset, self.size)
            self._stream = stream = _Stream(response, 0)
            check_coding(response)
            if response.status == HTTPStatus.OK:
                self._check_identity(response, response.length)
            else:  # this time, the server did send a range
                self._check_identity(response, check_range_answer(response, offset, self.size))
                stream.position = offset
        scratch = memoryview(bytearray(min(SKIP_SIZE, offset - stream.position)))
        while stream.position < offset:
            step = min(len(scratch), offset - stream.position)
            stream.position += _some(stream.response, scratch[:step])
        return stream

    def _drop_stream(self) -> None:
        if self._stream is not None:
            self._stream.response.close()
            self._stream = None

    # Requests.

    def _request(self, begin: int, end: int) -> Response:
        """Ask for [begin, end). Returns a response with status 200 or 206, or, for an empty object
        during `open`, 416."""
        target = self._target
        if target is not None:
            try:
                response = self._send(*target, begin, end)
            except TryFailed:
                self._forget_target(target)
                raise
            if not self._is_refusal(response):
                return response
            self._forget_target(target)
            refusal = self._refusal(response)
            if refusal.status not in EXPIRED_STATUSES:
                raise self._explained(refusal, target)
            # Go back to the origin once: it may issue a new signed URL.
        return self._request_at_origin(begin, end)

    def _request_at_origin(self, begin: int, end: int) -> Response:
        can_renew = True
        url, headers = self._origin.sign()
        hops = 0
        while True:
            response = self._send(url, headers, begin, end)
            target = (url, headers) if hops else None
            if not self._is_refusal(response):
                self._target = target
                return response
            refusal = self._refusal(response)
            # Sign again only if the first host refuses, and only once.
            if can_renew and not hops and self._origin.renew(headers, refusal):
                can_renew = False
                url, headers = self._origin.sign()
            elif refusal.status in REDIRECT_STATUSES:
                hops += 1
                url, headers = self._redirected(url, headers, refusal, hops)
            else:
                raise self._explained(refusal, target)

    def _send(self, url: str, headers: Mapping[str, str], begin: int, end: int) -> Response:
        own = {"Accept-Encoding": "identity", "Range": f"bytes={begin}-{end - 1}"}
        if not any(name.lower() == "user-agent" for name in headers):
            own["User-Agent"] = "libtz"
        conditions = self._identity.conditions if self._identity is not None else {}
        if self.is_proven or not conditions:
            return self._connections.get(url, {**headers, **own})
        response = self._connections.get(url, {**headers, **own, **conditions})
        if response.status != HTTPStatus.PRECONDITION_FAILED:
            return response
        # A server that considers the ETag weak reports a mismatch. So ask without a condition, and
        # compare the ETags here.
        self._refusal(response)
        return self._connections.get(url, {**headers, **own})

    def _redirected(
        self, url: str, headers: Mapping[str, str], refusal: Refusal, hops: int
    ) -> tuple[str, Mapping[str, str]]:
        location = refusal.headers.get("Location")
        if location is None:
            reason, _ = self._origin.explain(refusal)
            text = f"a redirect without a Location: {reason}"
            raise TryFailed(text, status=refusal.status, retryable=False)
        target = followed(url, headers, location, hops)
        if self._identity is None:
            logger.info("%s: redirected to %s", self.url, redacted(target[0]))
        return target

    def _is_refusal(self, response: Response) -> bool:
        """Whether the response carries no data and does not say that the object is empty."""
        is_empty = self._identity is None and is_empty_object(response)
        return response.status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT) and not is_empty

    def _refusal(self, response: Response) -> Refusal:
        with response:
            body = response.read_rest(ERROR_BODY_SIZE_MAX)
        return Refusal(response.status, response.headers, body)

    def _explained(
        self, refusal: Refusal, target: tuple[str, Mapping[str, str]] | None
    ) -> TryFailed:
        """The failure for a refusal."""
        status = refusal.status
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and self._identity is not None:
            return changed("it is now shorter")
        if status == HTTPStatus.PRECONDITION_FAILED and self._identity is not None:
            return changed("the server now has another version")
        if status in THROTTLE_STATUSES:
            self.stats.add(throttled=1)
        reason, retryable = self._origin.explain(refusal)
        if target is not None:
            reason += f"; redirects led to {redacted(target[0])}"
            if status in (401, 403) and origin_of(target[0]) != origin_of(self.url):
                reason += ", where no credentials are sent"
        wait_s = retry_after_s(refusal.headers.get("Retry-After")) if retryable else None
        return TryFailed(reason, status=status, retryable=retryable, retry_after_s=wait_s)

    def _forget_target(self, target: tuple[str, Mapping[str, str]]) -> None:
        if self._target is target:  # otherwise another thread has already replaced it
            self._target = None

    # Checks.

    def _check_identity(self, response: Response, size: int | None) -> None:
        if size != self.size:
            raise changed(f"{self.size} bytes became {'unknown' if size is None else size}")
        if self._identity is None or self._identity.matches(response.headers):
            return
        if not self.is_proven:
            raise changed("its ETag or Last-Modified differs")
        logger.info("%s: a copy with another ETag; the pinned digest will verify it", self.url)


_sources: weakref.WeakSet[HttpSource] = weakref.WeakSet()


def _leave_parents() -> None:
    for source in list(_sources):
        source.leave_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_parents)


def _some(response: Response, buffer: memoryview) -> int:
    """Receive one or more bytes of a body that is not complete."""
    count = response.readinto(buffer)
    if count == 0:
        raise TryFailed("the body is shorter than the range")
    return count
