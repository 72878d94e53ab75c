"""Answers held against what was asked: range, coding, and that it is still the same object."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus

from libtz.sources.reply import Reply
from libtz.sources.retry import TryFailed

__all__ = [
    "Identity",
    "changed",
    "check_coding",
    "check_range_answer",
    "is_empty_object",
    "read_unsized",
]

# An object whose size the server does not tell is read to its end up to this: indexes,
# configurations and tokenizers, not weights.
UNSIZED_SIZE_MAX = 64 * 1024 * 1024

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")
_EMPTY_RANGE = re.compile(r"bytes \*/0+")


class Identity:
    """What tells this version of the object from others, taken from the first answer."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._etag = headers.get("ETag")
        self._modified = headers.get("Last-Modified")
        self.is_strong = self._etag is not None and self._etag.startswith('"')
        self.conditions: dict[str, str] = {}
        if self._etag is not None and self.is_strong:
            self.conditions = {"If-Match": self._etag}
        elif self._modified is not None:
            self.conditions = {"If-Unmodified-Since": self._modified}

    def text(self, size: int) -> str | None:
        if self.is_strong:
            return self._etag
        return f"{self._modified}, {size} bytes" if self._modified is not None else None

    def matches(self, headers: Mapping[str, str]) -> bool:
        # Conditions are not enough: there are servers that ignore them.
        if self._etag is not None:
            return _opaque(headers.get("ETag", "")) == _opaque(self._etag)
        return self._modified is None or headers.get("Last-Modified") == self._modified


def _opaque(etag: str) -> str:
    """An ETag without its mark of weakness: servers that compress, and proxies, set it for the
    bytes that others give a strong one for."""
    return etag.removeprefix("W/")


def changed(how: str) -> TryFailed:
    """The failure of a load whose object is no longer the one it began with."""
    return TryFailed(
        f"the object changed while it was being read ({how}); load it again, and publish new"
        " versions under new names. Where several servers have copies of it, with ETags of their"
        " own, pin its digest",
        retryable=False,
    )


def check_coding(reply: Reply) -> None:
    """Refuse a body that is not the object's own bytes."""
    codings = reply.headers.get("Content-Encoding", "").lower().split(",")
    transfer = reply.headers.get("Transfer-Encoding", "chunked").strip().lower()
    # Stores keep "aws-chunked", which was of the upload; the object itself is plain.
    if {coding.strip() for coding in codings} - {"", "identity", "aws-chunked"} or (
        transfer != "chunked"
    ):
        raise TryFailed(
            "the server compresses the body although identity was asked for; byte ranges of it"
            " mean nothing, so switch compression off for this object",
            retryable=False,
        )


def check_range_answer(reply: Reply, begin: int, end: int) -> int:
    """Check that a 206 brings [begin, end), cut at the object's end; returns the object's size."""
    check_coding(reply)
    value = reply.headers.get("Content-Range")
    match = _CONTENT_RANGE.fullmatch(value.strip()) if value is not None else None
    if match is None:
        what = "an unusable" if value is not None else "no"
        raise TryFailed(f"the server sent a range with {what} Content-Range", retryable=False)
    first, last, size = (int(group) for group in match.groups())
    if first != begin or last + 1 != min(end, size):
        raise TryFailed(
            f"bytes {begin} to {end - 1} were asked for, the server sent {first} to {last}"
            f" of {size}",
            retryable=False,
        )
    if reply.length is not None and reply.length != last + 1 - first:
        raise TryFailed(
            f"the server announced {last + 1 - first} bytes and a body of {reply.length}",
            retryable=False,
        )
    return size


def is_empty_object(reply: Reply) -> bool:
    """Whether this refusal of the first byte says that the object has no bytes."""
    if reply.status != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return False
    # Stores that name no size mean the same: any byte would have answered the first request.
    value = reply.headers.get("Content-Range", "bytes */0").strip()
    return _EMPTY_RANGE.fullmatch(value) is not None


def read_unsized(reply: Reply) -> bytes:
    """All of a body whose length is not known, if it is small and its end is marked."""
    what = "the server ignores ranges and does not say how large the object is"
    if "Transfer-Encoding" not in reply.headers:  # it ends with the connection, or that broke
        raise TryFailed(f"{what}, nor where it ends; download it to a file first", retryable=False)
    data = bytearray()
    piece = memoryview(bytearray(64 * 1024))
    while count := reply.readinto(piece):
        data += piece[:count]
        if len(data) > UNSIZED_SIZE_MAX:
            raise TryFailed(f"{what}; download it to a file first", retryable=False)
    return bytes(data)
