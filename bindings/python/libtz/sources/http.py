"""An object behind HTTP or HTTPS, read by ranges, whatever the network does in between.

Every answer is held against what was asked: 206 with exactly the range, no content coding, and the
identity (strong ETag, else Last-Modified, and always the size) that the first answer had. A failed
try is repeated from the byte reached, within the same buffer, and so is one that is far slower than
most, at once (`stragglers.py`). A server without ranges is read as
one stream. Redirects are followed here, since credentials must not follow them to another host.
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
from libtz.sources.answer import (
    Identity,
    changed,
    check_coding,
    check_range_answer,
    is_empty_object,
    read_unsized,
)
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
from libtz.sources.reply import Reply
from libtz.sources.retry import Tries, TryFailed, retry_after_s
from libtz.sources.url import origin_of, shown

__all__ = ["HttpSource"]

# A few connections fill most links; the transfer adds more while they help.
CONNECTIONS_FIRST = 4

THROTTLE_STATUSES = frozenset({429, 503})
# Answers by which the target of a redirect says that its signed URL has expired or moved on.
EXPIRED_STATUSES = frozenset({400, 401, 403, 404, 410}) | REDIRECT_STATUSES
# Error pages are read for their error code and to keep the connection; beyond this, neither counts.
ERROR_BODY_SIZE_MAX = 16 * 1024
NO_RANGES = "the server ignores ranges; reading all of it over one connection"
# A stream that must go forward does so in steps of this size.
SKIP_SIZE = 256 * 1024

_Result = TypeVar("_Result")


class _Stream:
    """The one body that a server without ranges sends, and how far it was read."""

    def __init__(self, reply: Reply, position: int) -> None:
        self.reply = reply
        self.position = position


class HttpSource(Source):
    """See `base.Source`. `connections_max` is how many threads are expected to read at once."""

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
        # Where redirects led last, with the headers that may be sent there; None: to nowhere else.
        self._target: tuple[str, Mapping[str, str]] | None = None
        self._whole: bytes | None = None  # all of a small object of unknown size
        self._stream: _Stream | None = None
        self._stream_lock = threading.Lock()
        self._closed = threading.Event()
        _sources.add(self)

    def leave_parent(self) -> None:
        """In a forked process: two that read from one connection would get each other's bytes, and
        shutting one down ends it for both."""
        verify = self._connections.verify
        self._connections = Connections(self._options, self._connections_max, self.stats)
        self._connections.verify = verify
        if self._closed.is_set():
            self._connections.abort()
        self._stream = None
        self._stream_lock = threading.Lock()

    # The seam.

    def open(self, front: memoryview) -> int:
        if not front.nbytes:
            raise ValueError("open() needs a buffer for the front")
        reply = self._persist(lambda: self._first_reply(len(front)), lambda: 0)
        count = min(self.size, len(front))
        if self._whole is not None:
            reply.close()
            front[:count] = self._whole[:count]
        elif reply.status == HTTPStatus.OK:
            self.sequential = True
            if self.size > count:
                self._note(NO_RANGES)
            self._stream = _Stream(reply, 0)
            self._read(BufferCursor(0, count, [front[:count]]))
        else:
            self._read(BufferCursor(0, count, [front[:count]]), reply)
        return count

    def limit(self, seconds: float | None) -> None:
        self._connections.floor.limit(seconds)

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
        """Nothing to do: every answer was held against the first one's identity."""

    def close(self) -> None:
        self._closed.set()
        self._connections.abort()
        # A thread inside the stream was woken just now, and drops the stream itself.
        if self._stream_lock.acquire(blocking=False):
            try:
                self._drop_stream()
            finally:
                self._stream_lock.release()

    # Trying again.

    def _read(self, cursor: BufferCursor, reply: Reply | None = None) -> None:
        def step() -> None:
            nonlocal reply
            first, reply = reply, None
            if self.sequential:
                self._receive_from_stream(cursor)
            else:
                self._receive_range(cursor, first)

        # More than one successful step is needed where the server turns out to have no ranges.
        while cursor.remaining or reply is not None:
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
                # Its frames hold this one, and the caller's buffers: break the cycle.
                failure = failed.with_traceback(None)
            if self._closed.is_set():
                raise source_closed(self.url)
            if failure.is_restart:
                self.stats.add(restarts=1)
                self._note(f"{failure.reason}; going on over another connection")
                continue
            wait_s = tries.wait_after(failure, position())
            if wait_s is None:
                raise self._error(failure, tries.count)
            self.stats.add(retries=1, starved=int(tries.count > 1))
            where = f"resuming at byte {position()}" if position() else "trying again"
            self._note(f"{failure.reason}; {where} in {wait_s:.1f} s", tries.count)
            self._closed.wait(wait_s)

    def _note(self, text: str, tries: int = 0) -> None:
        """Tell the log, and whoever watches, why this takes longer."""
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

    def _first_reply(self, front_size: int) -> Reply:
        reply = self._request(0, front_size)
        try:
            if reply.status == HTTPStatus.OK:
                check_coding(reply)
                size = reply.length
                if size is None:
                    self._whole = read_unsized(reply)
                    size = len(self._whole)
            elif reply.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                size = 0
            else:
                size = check_range_answer(reply, 0, front_size)
        except BaseException:
            reply.close()
            raise
        self._identity = Identity(reply.headers)
        self.size = size
        self.identity = self._identity.text(size)
        return reply

    def _receive_range(self, cursor: BufferCursor, reply: Reply | None) -> None:
        begin, end = cursor.offset, cursor.offset + cursor.remaining
        with reply or self._request(begin, end) as reply:
            if reply.status == HTTPStatus.OK:
                self.sequential = True  # some server behind this URL has no ranges; _read goes on
                self._note(NO_RANGES)
                return
            if cursor.remaining:
                self._check_identity(reply, check_range_answer(reply, begin, end))
                self._receive(reply, cursor)

    def _receive(self, reply: Reply, cursor: BufferCursor) -> None:
        before = cursor.remaining
        try:
            while cursor.remaining:
                cursor.advance(_some(reply, cursor.free()))
        finally:
            self.stats.add(bytes=before - cursor.remaining)
        if reply.length is None and reply.read_rest(1):
            raise TryFailed("the server sent more bytes than were asked for", retryable=False)

    # One stream, for servers without ranges.

    def _receive_from_stream(self, cursor: BufferCursor) -> None:
        with self._stream_lock:
            try:
                stream = self._stream_at(cursor.offset)
                before = cursor.offset
                try:
                    while cursor.remaining:
                        cursor.advance(_some(stream.reply, cursor.free()))
                finally:
                    stream.position += cursor.offset - before
                    self.stats.add(bytes=cursor.offset - before)
            except BaseException:
                # Interrupted anywhere, the position may no longer be that of the body.
                self._drop_stream()
                raise
            if stream.position == self.size:
                self._drop_stream()
        if self._closed.is_set():
            self.close()  # it could not take the lock before

    def _stream_at(self, offset: int) -> _Stream:
        """The stream, brought to `offset`: forward by reading on, backward by starting anew."""
        stream = self._stream
        if stream is None or stream.position > offset:
            self._drop_stream()
            reply = self._request(offset, self.size)
            self._stream = stream = _Stream(reply, 0)
            check_coding(reply)
            if reply.status == HTTPStatus.OK:
                self._check_identity(reply, reply.length)
            else:  # ranges after all, at least this once
                self._check_identity(reply, check_range_answer(reply, offset, self.size))
                stream.position = offset
        scratch = memoryview(bytearray(min(SKIP_SIZE, offset - stream.position)))
        while stream.position < offset:
            step = min(len(scratch), offset - stream.position)
            stream.position += _some(stream.reply, scratch[:step])
        return stream

    def _drop_stream(self) -> None:
        if self._stream is not None:
            self._stream.reply.close()
            self._stream = None

    # Requests.

    def _request(self, begin: int, end: int) -> Reply:
        """Ask for [begin, end): a reply with 200, 206, or 416 for an empty object on opening."""
        target = self._target
        if target is not None:
            try:
                reply = self._send(*target, begin, end)
            except TryFailed:
                self._forget_target(target)
                raise
            if not self._is_refusal(reply):
                return reply
            self._forget_target(target)
            refusal = self._refusal(reply)
            if refusal.status not in EXPIRED_STATUSES:
                raise self._explained(refusal, target)
            # Once, back to where it all started: there it may be signed anew.
        return self._request_at_origin(begin, end)

    def _request_at_origin(self, begin: int, end: int) -> Reply:
        can_renew = True
        url, headers = self._origin.sign()
        hops = 0
        while True:
            reply = self._send(url, headers, begin, end)
            target = (url, headers) if hops else None
            if not self._is_refusal(reply):
                self._target = target
                return reply
            refusal = self._refusal(reply)
            # Only the first host's refusal is a reason to sign again, and only once.
            if can_renew and not hops and self._origin.renew(headers, refusal):
                can_renew = False
                url, headers = self._origin.sign()
            elif refusal.status in REDIRECT_STATUSES:
                hops += 1
                url, headers = self._redirected(url, headers, refusal, hops)
            else:
                raise self._explained(refusal, target)

    def _send(self, url: str, headers: Mapping[str, str], begin: int, end: int) -> Reply:
        own = {"Accept-Encoding": "identity", "Range": f"bytes={begin}-{end - 1}"}
        if not any(name.lower() == "user-agent" for name in headers):
            own["User-Agent"] = "libtz"
        conditions = self._identity.conditions if self._identity is not None else {}
        if self.is_proven or not conditions:
            return self._connections.get(url, {**headers, **own})
        reply = self._connections.get(url, {**headers, **own, **conditions})
        if reply.status != HTTPStatus.PRECONDITION_FAILED:
            return reply
        # Servers that know the ETag as a weak one take it for another: look at it ourselves.
        self._refusal(reply)
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
            logger.info("%s: redirected to %s", self.url, shown(target[0]))
        return target

    def _is_refusal(self, reply: Reply) -> bool:
        """Whether the reply brings no bytes, nor says that there are none."""
        is_empty = self._identity is None and is_empty_object(reply)
        return reply.status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT) and not is_empty

    def _refusal(self, reply: Reply) -> Refusal:
        with reply:
            body = reply.read_rest(ERROR_BODY_SIZE_MAX)
        return Refusal(reply.status, reply.headers, body)

    def _explained(
        self, refusal: Refusal, target: tuple[str, Mapping[str, str]] | None
    ) -> TryFailed:
        """The failure that a refusal stands for."""
        status = refusal.status
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and self._identity is not None:
            return changed("it is shorter now")
        if status == HTTPStatus.PRECONDITION_FAILED and self._identity is not None:
            return changed("another version is there now")
        if status in THROTTLE_STATUSES:
            self.stats.add(throttled=1)
        reason, retryable = self._origin.explain(refusal)
        if target is not None:
            reason += f"; redirects led to {shown(target[0])}"
            if status in (401, 403) and origin_of(target[0]) != origin_of(self.url):
                reason += ", where no credentials are sent"
        wait_s = retry_after_s(refusal.headers.get("Retry-After")) if retryable else None
        return TryFailed(reason, status=status, retryable=retryable, retry_after_s=wait_s)

    def _forget_target(self, target: tuple[str, Mapping[str, str]]) -> None:
        if self._target is target:  # else another thread has been there and knows better
            self._target = None

    # Checks.

    def _check_identity(self, reply: Reply, size: int | None) -> None:
        if size != self.size:
            raise changed(f"{self.size} bytes became {'unknown' if size is None else size}")
        if self._identity is None or self._identity.matches(reply.headers):
            return
        if not self.is_proven:
            raise changed("its ETag or Last-Modified differs")
        logger.info("%s: another copy, with another ETag; the pinned digest decides", self.url)


_sources: weakref.WeakSet[HttpSource] = weakref.WeakSet()


def _leave_parents() -> None:
    for source in list(_sources):
        source.leave_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_parents)


def _some(reply: Reply, buffer: memoryview) -> int:
    """Receive one or more bytes of a body that still owes them."""
    count = reply.readinto(buffer)
    if count == 0:
        raise TryFailed("the body ended before the range did")
    return count
