"""From what a caller names to a source: the one place that knows schemes."""

from __future__ import annotations

import os
import re
from typing import Any, BinaryIO, TypeAlias
from urllib.parse import unquote_to_bytes, urlsplit
from urllib.request import url2pathname

from libtz.errors import OptionError
from libtz.memory import MemoryBudget
from libtz.options import ReadOptions
from libtz.sources.base import Source
from libtz.sources.file import FileSource
from libtz.sources.memory import FileObjectSource, MemorySource
from libtz.sources.url import shown

__all__ = ["SourceLike", "file_url_path", "resolve_source", "scheme_of"]

SourceLike: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO"

# Two letters at least: "C:\\model" is a path.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


def resolve_source(source: SourceLike | Any, options: ReadOptions) -> Source:
    """The source that a path, URL, bytes-like object or binary file names. Does no I/O."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return MemorySource(source)
    if isinstance(source, os.PathLike):
        return _file(os.fsdecode(source), options)
    if isinstance(source, str):
        return _from_name(source, options)
    if hasattr(source, "read") and hasattr(source, "seek"):
        return FileObjectSource(source)
    raise OptionError(
        f"a source is a path, a URL, bytes or a seekable binary file, not {type(source).__name__}"
    )


def _from_name(name: str, options: ReadOptions) -> Source:
    scheme = scheme_of(name)
    if scheme is None:
        return _file(name, options)
    name = scheme + name[len(scheme) :]
    if scheme == "file":
        return _file(file_url_path(name), options)
    # Imported here: HTTP brings requests, a tenth of a second that local files need not pay.
    if scheme in ("http", "https"):
        from libtz.sources.http import HttpSource

        return HttpSource(name, options.http, connections_max=options.connections_max)
    if scheme == "s3":
        from libtz.sources.s3 import S3Source

        return S3Source(name, options.s3, options.http, connections_max=options.connections_max)
    raise OptionError(
        f"{shown(name)}: no source has the scheme {scheme}://; there are paths, file://, http://,"
        " https:// and s3://"
    )


def _file(path: str, options: ReadOptions) -> FileSource:
    return FileSource(path, bounce_memory_max=MemoryBudget.split(options).bounce)


def scheme_of(name: str) -> str | None:
    """The scheme of a URL in lower case, None for a path."""
    match = _SCHEME.match(name)
    return match[1].lower() if match is not None else None


def file_url_path(url: str) -> str:
    """The path that a file:// URL names on this machine."""
    parts = urlsplit(url, allow_fragments=False)
    if parts.netloc not in ("", "localhost"):
        raise OptionError(f"{shown(url)} names a file of another machine; file:/// has no host")
    if not parts.path or parts.query:
        raise OptionError(f"{shown(url)} is not of the form file:///path; quote a ? in it as %3F")
    if os.name == "nt":
        return url2pathname(parts.path)
    return os.fsdecode(unquote_to_bytes(parts.path))
