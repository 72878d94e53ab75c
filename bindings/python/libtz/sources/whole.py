"""Small files beside the large ones: indexes and configurations, read whole, found by name."""

from __future__ import annotations

import os
from urllib.parse import quote, urlsplit, urlunsplit

from libtz.errors import FormatError
from libtz.options import ReadOptions
from libtz.sources.resolve import file_url_path, resolve_source, scheme_of
from libtz.sources.url import shown

__all__ = ["is_plain_name", "location_name", "location_of", "read_whole", "sibling"]

FIRST_SIZE = 1 << 20  # most such files arrive with the first request

# What a path, a URL, or a shell takes for more than a letter. `%` would be undone by servers.
_SPECIAL = frozenset('/\\:%?#*"<>|')
NAME_SIZE_MAX = 255  # of most file systems


def location_of(source: str | os.PathLike[str]) -> str:
    """A path or URL as text, where a file:// URL is a path."""
    name = os.fsdecode(source) if isinstance(source, os.PathLike) else source
    scheme = scheme_of(name)
    if scheme is None:
        return name
    name = scheme + name[len(scheme) :]
    return file_url_path(name) if scheme == "file" else name


def location_name(location: str) -> str:
    """The last part of a location: the name of the file in it."""
    # Keys of S3 have no query: # and ? are letters like others.
    is_url = scheme_of(location) not in (None, "s3")
    path = shown(location) if is_url else location
    return path.replace(os.sep, "/").rpartition("/")[2]


def is_plain_name(name: str) -> bool:
    """Whether a name that a file gave names something inside a folder, and nothing else, on every
    system."""
    return (
        name not in ("", ".", "..")
        and name.isprintable()
        and len(name.encode("utf-8", "surrogatepass")) <= NAME_SIZE_MAX
        and _SPECIAL.isdisjoint(name)
    )


def sibling(location: str, name: str) -> str:
    """The file of this (plain) name in the folder of `location`. A URL's query stays: it may be a
    token that is good for the whole folder."""
    scheme = scheme_of(location)
    if scheme is None:
        return os.path.join(os.path.dirname(location), name)  # noqa: PTH118, PTH120
    if scheme == "s3":
        return f"{location.rpartition('/')[0]}/{name}"
    parts = urlsplit(location)
    path = f"{parts.path.rpartition('/')[0]}/{quote(name, safe='')}"
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def read_whole(location: str, options: ReadOptions, *, size_max: int) -> bytes:
    """All of a file of at most `size_max` bytes; a larger one is a FormatError."""
    place = resolve_source(location, options)
    place.limit(options.http.open_deadline_s)
    try:
        front = memoryview(bytearray(min(FIRST_SIZE, size_max + 1)))
        filled = place.open(front)
        if place.size > size_max:
            raise FormatError(
                f"{place.url} has {place.size} bytes; such a file has at most {size_max}",
                code="too-large",
            )
        data = bytearray(place.size)
        data[:filled] = front[:filled]
        if filled < place.size:
            rest = memoryview(data)[filled:]
            place.read_into(filled, len(rest), [rest])
        place.check_unchanged()
        return bytes(data)
    finally:
        place.close()
