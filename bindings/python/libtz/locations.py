"""Turns paths, URLs, buffers and file objects into sources and sinks."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol, TypeAlias, TypeGuard, cast

from numpy.typing import NDArray

from libtz.errors import OptionError
from libtz.options import ReadOptions, WriteOptions
from libtz.schemes import FILE, Scheme, file_url_path, known, scheme_name, scheme_of
from libtz.sinks.base import Extent, Sink
from libtz.sinks.stream import FileObjectSink
from libtz.sources.base import Source
from libtz.sources.memory import FileObjectSource, MemorySource
from libtz.sources.small_files import read_whole
from libtz.sources.url import redacted

__all__ = [
    "Buffer",
    "Location",
    "SourceLike",
    "TargetLike",
    "is_plain_name",
    "resolve_sink",
    "resolve_source",
]


class Buffer(Protocol):
    """An object with the buffer protocol, such as bytes or an mmap."""

    def __buffer__(self, flags: int, /) -> memoryview: ...


SourceLike: TypeAlias = "str | os.PathLike[str] | Buffer | NDArray[Any] | BinaryIO"

TargetLike: TypeAlias = "str | os.PathLike[str] | BinaryIO"

# Characters that are special in a path, a URL or a shell. Servers would decode a `%`.
_SPECIAL = frozenset('/\\:%?#*"<>|')
NAME_SIZE_MAX = 255  # the limit of most file systems


@dataclass(frozen=True)
class Location:
    """A path or URL, parsed once, with its scheme."""

    text: str  # a path, or a URL whose scheme is in lower case
    scheme: Scheme

    @staticmethod
    def of(named: str | os.PathLike[str] | Location) -> Location:
        """Does no I/O. Raises OptionError for a URL whose scheme is not registered."""
        if isinstance(named, Location):
            return named
        if not isinstance(named, str):
            return Location(os.fsdecode(named), FILE)
        name = scheme_name(named)
        if name is None:
            return Location(named, FILE)
        scheme = scheme_of(named)
        url = name + named[len(name) :]
        return Location(file_url_path(url) if scheme is FILE else url, scheme)

    def __str__(self) -> str:
        """For messages: without the parts of a URL that may be secret."""
        return self.text if self.is_local else redacted(self.text)

    @property
    def is_local(self) -> bool:
        """Whether the text is a path on this machine."""
        return self.scheme is FILE

    @property
    def name(self) -> str:
        """The name of the file in its folder."""
        return self.scheme.name(self.text)

    @property
    def set_digest(self) -> str | None:
        """The digest of the set that the file is taken from; None if it stands for itself."""
        return None

    def sibling(self, name: str) -> Location:
        """The file of this (plain) name in the same folder."""
        return Location(self.scheme.sibling(self.text, name), self.scheme)

    def folder(self) -> Location:
        """The same location as a folder: `sibling` of it names a file inside."""
        return Location(self.scheme.folder(self.text), self.scheme)

    def inside(self, name: str) -> Location:
        """The file of this name in the folder; the name may lead into folders of it, by "/"."""
        *folders, last = name.split("/")
        location: Location = self
        for each in folders:
            location = location.sibling(each).folder()
        return location.sibling(last)

    def is_folder(self) -> bool:
        """Whether it names a folder: a local one, or a URL that ends with a "/"."""
        # Path.is_dir() raises on names that are too long.
        return os.path.isdir(self.text) if self.is_local else self.text.endswith("/")  # noqa: PTH112

    def files(self, options: ReadOptions, *, is_recursive: bool = False) -> list[str] | None:
        """The names of the files in this folder: see `Scheme.files`."""
        return self.scheme.files(self.text, options, is_recursive=is_recursive)

    def source(self, options: ReadOptions) -> Source:
        return self.scheme.source(self.text, options)

    def read(self, options: ReadOptions, *, size_max: int) -> bytes:
        """The contents of a small file. Raises FormatError if it has more than `size_max` bytes."""
        source = self.source(options)
        source.limit(options.http.open_deadline_s)
        return read_whole(source, size_max=size_max)

    def write(self, data: bytes, options: ReadOptions) -> None:
        """Writes a small file, complete or not at all."""
        sink = self.sink(WriteOptions(http=options.http, s3=options.s3), Extent(0, len(data)))
        try:
            sink.write_at(0, memoryview(data))
            sink.commit(len(data))
        finally:
            sink.abort()

    def sink(self, options: WriteOptions, extent: Extent) -> Sink:
        if not self.scheme.is_writable:
            scheme = scheme_name(self.text)
            raise OptionError(
                f"{self}: {scheme}:// is read-only; libtz writes to {known(writable=True)}"
            )
        return self.scheme.sink(self.text, options, extent)


def is_plain_name(name: str) -> bool:
    """Whether a name from a file is safe as a file name on every system: it cannot lead out of its
    folder."""
    return (
        name not in ("", ".", "..")
        and name.isprintable()
        and len(name.encode("utf-8", "surrogatepass")) <= NAME_SIZE_MAX
        and _SPECIAL.isdisjoint(name)
    )


def resolve_source(source: SourceLike | Location | Any, options: ReadOptions) -> Source:
    """The source for a path, URL, buffer or binary file. Does no I/O."""
    if isinstance(source, (str, os.PathLike, Location)):
        return Location.of(source).source(options)
    # An mmap object is both a buffer and a file; as a buffer it needs no lock.
    if _is_buffer(source):
        return MemorySource(source)
    _require_binary(source)
    if hasattr(source, "read") and hasattr(source, "seek"):
        return FileObjectSource(cast(BinaryIO, source))
    raise OptionError(
        "a source must be a path, a URL, a buffer or a seekable binary file, not"
        f" {type(source).__name__}"
    )


def _require_binary(file: object) -> None:
    if isinstance(file, io.TextIOBase):
        name = getattr(file, "name", type(file).__name__)
        raise OptionError(f"{name} is open in text mode; open it in binary mode, with a 'b'")


def _is_buffer(source: object) -> TypeGuard[Buffer]:
    try:
        memoryview(source)  # type: ignore[arg-type]
    except (TypeError, ValueError, BufferError):
        return False
    return True


def resolve_sink(
    target: TargetLike | Location, options: WriteOptions, *, header_size: int, file_size_max: int
) -> Sink:
    """The sink for a path, URL or seekable binary file. Does no I/O.

    `header_size` is exact and `file_size_max` an upper bound, both in bytes.
    """
    if isinstance(target, (str, os.PathLike, Location)):
        return Location.of(target).sink(options, Extent(header_size, file_size_max))
    _require_binary(target)
    if all(hasattr(target, name) for name in ("write", "seek", "truncate")):
        return FileObjectSink(target)
    raise OptionError(
        f"a target must be a path, a URL or a seekable binary file, not {type(target).__name__}"
    )
