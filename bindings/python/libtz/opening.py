"""Opens what a source names: recognises the format and picks the kind of checkpoint.

Opening reads one megabyte of the front and, for larger headers, what else the header needs.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

from libtz._native import lib
from libtz.checkpoint.coreweave import CoreweaveFile
from libtz.checkpoint.file import File
from libtz.checkpoint.shard_index import INDEX_SUFFIX, folder_files, read_index
from libtz.checkpoint.sharded import FileSet
from libtz.errors import FormatError, OptionError
from libtz.format import parse_digest
from libtz.memory import allocate
from libtz.options import ReadOptions
from libtz.sources.base import Source
from libtz.sources.file import FileSource
from libtz.sources.mapped import MappedSource
from libtz.sources.resolve import resolve_source, scheme_of
from libtz.sources.url import shown
from libtz.sources.whole import location_name, location_of
from libtz.transfer.decryption import DecryptionError

__all__ = ["open"]

# Holds the header of most models, and of small ones everything.
FRONT_SIZE = 1 << 20

_DEFAULTS = ReadOptions()


def open(source: Any, *, digest: str | None = None, options: ReadOptions = _DEFAULTS) -> File:
    """Opens a .tz, .safetensors or .tensors file: a path, a URL (file, http, https, s3), bytes, or
    a seekable binary file; or a sharded set, by its folder or its *.index.json. Use the result as a
    context manager.

    `digest` pins the file. "blake3:…" is a tz file's digest and covers all of it: any other file is
    an IntegrityError before it is parsed. "sha256:…" is of a whole file in another format, which
    then can only be loaded whole.
    """
    algorithm, pin = parse_digest(digest) if digest is not None else (None, None)
    if is_set(source):
        return _open_set(source, digest=digest, options=options)
    place = resolve_source(source, options)
    if options.local == "map" and isinstance(place, FileSource):
        if pin is not None:
            raise OptionError(
                "a mapped file can change after it was checked, so local='map' and a digest exclude"
                " each other; leave local='copy'"
            )
        place = MappedSource(place)
    place.is_proven = algorithm == "blake3"
    try:
        place.limit(options.http.open_deadline_s)
        header, front = _open_header(place, pin if algorithm == "blake3" else None)
        place.limit(None)
        if algorithm == "sha256" and header.info.format == lib.FORMAT_TZ:
            raise OptionError(
                f"{place.url} is a tz file; pin it by its own digest, as `tz digest` prints it"
            )
        if options.decryption.is_given and not header.info.is_encrypted:
            raise DecryptionError(
                f"{place.url} is not encrypted, so anybody can have written it; leave"
                " ReadOptions.decryption out to read it nevertheless"
            )
        kind = CoreweaveFile if header.info.format == lib.FORMAT_COREWEAVE else File
        return kind(place, header, front, options, digest)
    except BaseException:
        place.close()
        raise


def is_set(source: Any) -> bool:
    """Whether a source is a folder or an index, by its name."""
    if not isinstance(source, (str, os.PathLike)):
        return False
    location = location_of(source)
    # Path.is_dir() raises on names that are too long.
    is_folder = scheme_of(location) is None and os.path.isdir(location)  # noqa: PTH112
    return is_folder or location_name(location).endswith(INDEX_SUFFIX)


def _open_set(source: Any, *, digest: str | None, options: ReadOptions) -> File:
    """What `libtz.open` returns for a folder or an index: of a folder with one file, that file."""
    location = location_of(source)
    if not location_name(location).endswith(INDEX_SUFFIX):
        names = folder_files(Path(location))
        # Where `sibling` finds the files of the folder.
        location = os.path.join(location, names[0])  # noqa: PTH118
        if len(names) == 1 and not names[0].endswith(INDEX_SUFFIX):
            return open(location, digest=digest, options=options)
    else:
        names = [location_name(location)]
    if digest is not None:
        raise OptionError(
            f"{shown(location)} is one of a set of files, and a digest pins one file; `tz convert`"
            " makes one file of a set, and prints its digest"
        )
    open_file = partial(open, options=options)
    if not names[0].endswith(INDEX_SUFFIX):
        return FileSet(location, names, None, open_file)
    index = read_index(location, options)
    return FileSet(location, sorted(set(index.values())), index, open_file)


def _open_header(source: Source, pin: bytes | None) -> tuple[lib.Header, memoryview]:
    """The header, and what is known of the file's front."""
    front = memoryview(bytearray(FRONT_SIZE))
    front = front[: source.open(front)]
    while True:
        try:
            opened = lib.Header.open(front, source.size, label=source.url, pin=pin)
        except FormatError as error:
            if source.size == 0:
                error.message += (
                    "; there is nothing to read: the file is empty (0 bytes), as after an upload"
                    " that broke off, or where it marks a folder"
                )
            raise
        if isinstance(opened, lib.Header):
            return opened, front[: opened.info.header_size]
        # A mapping of its own takes memory only as bytes really arrive.
        longer = allocate(opened).view()
        longer[: len(front)] = front
        source.read_into(len(front), opened - len(front), [longer[len(front) :]])
        front = longer
