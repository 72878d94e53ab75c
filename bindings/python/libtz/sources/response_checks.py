"""Checks of responses against the request: the range, the coding, and the object's identity."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus

from libtz.sources.response import Response
from libtz.sources.retry import TryFailed

__all__ = [
    "Identity",
    "changed",
    "check_coding",
    "check_range_answer",
    "is_empty_object",
    "read_unsized",
]

# If the server does not announce an object's size, up to this many bytes are read to find its end:
# enough for indexes, configurations and tokenizers, but not for weights.
UNSIZED_SIZE_MAX = 64 * 1024 * 1024

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")
_EMPTY_RANGE = re.compile(r"bytes \*/0+")


class Identity:
    """What identifies this version of the object, taken from the first response."""

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
        # Conditional requests are not enough: some servers ignore the conditions.
        if self._etag is not None:
            return _opaque(headers.get("ETag", "")) == _opaque(self._etag)
        return self._modified is None or headers.get("Last-Modified") == self._modified


def _opaque(etag: str) -> str:
    """An ETag without the mark of a weak one. Proxies, and servers that compress, add it to the
    strong ETag of the same bytes."""
    return etag.removeprefix("W/")


def changed(how: str) -> TryFailed:
    """The failure of a load whose object has been replaced since it began."""
    return TryFailed(
        f"the object changed while it was being read ({how}); load it again, and publish new"
        " versions under new names. If several servers hold copies of it with different ETags,"
        " pin its digest",
        retryable=False,
    )


def check_coding(response: Response) -> None:
    """Refuse a body that is not the object's own bytes, for example one that is compressed."""
    codings = response.headers.get("Content-Encoding", "").lower().split(",")
    transfer = response.headers.get("Transfer-Encoding", "chunked").strip().lower()
    # "aws-chunked" describes the upload. Some stores repeat it, but the object itself is plain.
    if {coding.strip() for coding in codings} - {"", "identity", "aws-chunked"} or (
        transfer != "chunked"
    ):
        raise TryFailed(
            "the server compresses the body although it was asked not to; byte ranges of a"
            " compressed body cannot be used, so disable compression for this object",
            retryable=False,
        )


def check_range_answer(response: Response, begin: int, end: int) -> int:
    """Check that a 206 response carries [begin, end), or as much of it as the object has. Returns
    the object's size."""
    check_coding(response)
    value = response.headers.get("Content-Range")
    match = _CONTENT_RANGE.fullmatch(value.strip()) if value is not None else None
    if match is None:
        what = "an unusable" if value is not None else "no"
        raise TryFailed(f"the server sent a range with {what} Content-Range", retryable=False)
    first, last, size = (int(group) for group in match.groups())
    if first != begin or last + 1 != min(end, size):
        raise TryFailed(
            f"bytes {begin} to {end - 1} were requested, but the server sent {first} to {last}"
            f" of {size}",
            retryable=False,
        )
    if response.length is not None and response.length != last + 1 - first:
        raise TryFailed(
            f"the server announced a range of {last + 1 - first} bytes and a body of"
            f" {response.length}",
            retryable=False,
        )
    return size


def is_empty_object(response: Response) -> bool:
    """Whether this refusal of the first byte says that the object has no bytes."""
    if response.status != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return False
    # A store that names no size means the same: if the object had any byte, the first request
    # would have succeeded.
    value = response.headers.get("Content-Range", "bytes */0").strip()
    return _EMPTY_RANGE.fullmatch(value) is not None


def read_unsized(response: Response) -> bytes:
    """Read a body of unknown length to its end, if it is small and its end is marked."""
    what = "the server ignores ranges and does not say how large the object is"
    # Without a mark, the end of the body and a broken connection look the same.
    if "Transfer-Encoding" not in response.headers:
        raise TryFailed(f"{what}, nor where it ends; download it to a file first", retryable=False)
    data = bytearray()
    piece = memoryview(bytearray(64 * 1024))
    while count := response.readinto(piece):
        data += piece[:count]
        if len(data) > UNSIZED_SIZE_MAX:
            raise TryFailed(f"{what}; download it to a file first", retryable=False)
    return bytes(data)
