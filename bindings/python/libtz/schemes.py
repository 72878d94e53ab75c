"""The registry of URL schemes, open to other packages.

A scheme's code is imported when one of its URLs is first used: importing requests for HTTP takes a
tenth of a second, which local files should not pay.

A package adds `mem://` with an entry point whose value is an instance of `Scheme`:

    [project.entry-points."libtz.schemes"]
    mem = "my_package:SCHEME"

`libtz.sources.base` and `libtz.sinks.base` define what sources and sinks do.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from urllib.parse import SplitResult, quote, unquote_to_bytes, urlsplit, urlunsplit
from urllib.request import url2pathname

from libtz.errors import OptionError
from libtz.memory import MemoryBudget
from libtz.options import ReadOptions, WriteOptions
from libtz.sinks.base import Extent, Sink
from libtz.sinks.file import FileSink
from libtz.sources.base import Source
from libtz.sources.file import FileSource
from libtz.sources.folder import list_folder
from libtz.sources.mapped import MappedSource
from libtz.sources.url import redacted

__all__ = ["FILE", "Scheme", "file_url_path", "known", "scheme_name", "scheme_of"]

ENTRY_POINTS = "libtz.schemes"

# At least two letters: "C:\\model" is a path.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


class Scheme(ABC):
    """The sources, sinks and names of one scheme. A location is one of its URLs, as text.

    By default names are keys, as in object stores: "/" separates folders, and no other character
    is special.
    """

    is_writable = False

    @abstractmethod
    def source(self, location: str, options: ReadOptions) -> Source:
        """A source for the location. Does no I/O."""

    def sink(self, location: str, options: WriteOptions, extent: Extent) -> Sink:
        """A sink for the location, if the scheme `is_writable`. Does no I/O."""
        raise NotImplementedError

    def name(self, location: str) -> str:
        """The last part: the name of the file in its folder."""
        return location.rpartition("/")[2]

    def sibling(self, location: str, name: str) -> str:
        """The file of this name in the same folder. The name has no "/"."""
        return f"{location.rpartition('/')[0]}/{name}"

    def folder(self, location: str) -> str:
        """The same location as a folder: `sibling` of it names a file inside."""
        return location if location.endswith("/") else f"{location}/"

    def files(self, location: str, options: ReadOptions, *, is_recursive: bool) -> list[str] | None:
        """The names of the files in a folder, relative to it, hidden ones left out; with those in
        its folders, if `is_recursive`. None where they cannot be listed."""
        return None


class _File(Scheme):
    """Local files. Their locations are paths, not URLs."""

    is_writable = True

    def source(self, location: str, options: ReadOptions) -> Source:
        file = FileSource(location, bounce_memory_max=MemoryBudget.split(options).bounce)
        return MappedSource(file) if options.local == "map" else file

    def sink(self, location: str, options: WriteOptions, extent: Extent) -> Sink:
        return FileSink(location)

    def name(self, location: str) -> str:
        return location.replace(os.sep, "/").rpartition("/")[2]

    def sibling(self, location: str, name: str) -> str:
        return os.path.join(os.path.dirname(location), name)  # noqa: PTH118, PTH120

    def folder(self, location: str) -> str:
        if not location:  # where a file without a folder lies
            return f".{os.sep}"
        return location if location.endswith(("/", os.sep)) else location + os.sep

    def files(self, location: str, options: ReadOptions, *, is_recursive: bool) -> list[str] | None:
        return list_folder(location, is_recursive=is_recursive)


class _Http(Scheme):
    """HTTP and HTTPS. Siblings keep the URL's query, which may be a token."""

    def source(self, location: str, options: ReadOptions) -> Source:
        from libtz.sources.http import HttpSource

        return HttpSource(location, options.http, connections_max=options.connections_max)

    def name(self, location: str) -> str:
        return super().name(_url_parts(location).path)

    def sibling(self, location: str, name: str) -> str:
        parts = _url_parts(location)
        path = super().sibling(parts.path, quote(name, safe=""))
        return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))

    def folder(self, location: str) -> str:
        parts = _url_parts(location)
        path = super().folder(parts.path)
        return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


class _S3(Scheme):
    is_writable = True

    def source(self, location: str, options: ReadOptions) -> Source:
        from libtz.sources.s3 import S3Source

        return S3Source(location, options.s3, options.http, connections_max=options.connections_max)

    def files(self, location: str, options: ReadOptions, *, is_recursive: bool) -> list[str] | None:
        from libtz.sources.s3_listing import list_prefix

        return list_prefix(location, options.s3, options.http, is_recursive=is_recursive)

    def sink(self, location: str, options: WriteOptions, extent: Extent) -> Sink:
        from libtz.sinks.s3 import S3Sink

        return S3Sink(
            location,
            options.s3,
            options.http,
            header_size=extent.header_size,
            file_size_max=extent.file_size_max,
        )


FILE = _File()
_HTTP = _Http()
# Built-in schemes win: another package can add a scheme, but not replace one.
_BUILT_IN: dict[str, Scheme] = {"file": FILE, "http": _HTTP, "https": _HTTP, "s3": _S3()}


def scheme_name(text: str) -> str | None:
    """The scheme of a URL in lower case, None for a path."""
    match = _SCHEME.match(text)
    return match[1].lower() if match is not None else None


def scheme_of(url: str) -> Scheme:
    """The scheme of a URL. Raises OptionError if it is not registered."""
    name = scheme_name(url) or "file"
    scheme = _BUILT_IN.get(name)
    if scheme is None and name in _entry_points():
        scheme = _loaded(_entry_points()[name])
    if scheme is None:
        raise OptionError(f"{redacted(url)}: {name}:// is not supported; libtz opens {known()}")
    return scheme


def known(*, writable: bool = False) -> str:
    """The names of the registered schemes, for messages. Only schemes of other packages that can
    be loaded count as writable."""
    names = [name for name, scheme in _BUILT_IN.items() if scheme.is_writable or not writable]
    names += [name for name in sorted(_entry_points()) if not writable or _is_writable(name)]
    *first, last = [f"{name}://" for name in names]
    return f"paths, {', '.join(first)} and {last}"


def _is_writable(name: str) -> bool:
    try:
        return _loaded(_entry_points()[name]).is_writable
    except Exception:  # a fault of that package, which has nothing to do with the message
        return False


@cache
def _entry_points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def _loaded(point: EntryPoint) -> Scheme:
    scheme = point.load()
    if not isinstance(scheme, Scheme):
        raise OptionError(
            f"the entry point {point.name} = {point.value} must be an instance of"
            f" libtz.schemes.Scheme, not {type(scheme).__name__}"
        )
    return scheme


def _url_parts(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        raise OptionError(f"{redacted(url)} is not a valid URL") from None


def file_url_path(url: str) -> str:
    """The path that a file:// URL names on this machine."""
    parts = urlsplit(url, allow_fragments=False)
    if parts.netloc not in ("", "localhost"):
        raise OptionError(
            f"{redacted(url)} names a file on another machine; write file:///path, without a host"
        )
    if not parts.path or parts.query:
        raise OptionError(
            f"{redacted(url)} is not of the form file:///path; write a ? in the path as %3F"
        )
    if os.name == "nt":
        return url2pathname(parts.path)
    return os.fsdecode(unquote_to_bytes(parts.path))
