"""Opens what a source names: recognises the format and picks the kind of checkpoint.

Opening reads one megabyte of the front and, for larger headers, what else the header needs.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any, TypeVar

from libtz._native import lib
from libtz.arrays.base import Framework, default_framework
from libtz.checkpoint.base import Checkpoint
from libtz.checkpoint.catalog import Catalog
from libtz.checkpoint.coreweave import CoreweaveFile
from libtz.checkpoint.file import File
from libtz.checkpoint.loader import Loader
from libtz.checkpoint.other_formats import describe_other_format
from libtz.checkpoint.pins import in_memory_max, whole_in_memory
from libtz.checkpoint.shard_index import INDEX_SUFFIX, read_index, weights_in
from libtz.checkpoint.sharded import Sharded
from libtz.errors import FormatError, IntegrityError, OptionError
from libtz.format import parse_digest
from libtz.locations import Location, SourceLike, resolve_source
from libtz.manifest import MANIFEST_NAME, MANIFEST_SUFFIX
from libtz.memory import allocate
from libtz.options import ReadOptions
from libtz.pinned import SetLocation, pinned_folder
from libtz.sources.base import Source
from libtz.transfer.decryption import DecryptionError

__all__ = ["open", "open_as"]

T = TypeVar("T")

# Holds the header of most models, and of small ones everything.
FRONT_SIZE = 1 << 20


def open(
    source: SourceLike, *, digest: str | None = None, options: ReadOptions | None = None
) -> Checkpoint[Any]:
    """Opens a .tz, .safetensors or .tensors file: a path, a URL (file, http, https, s3), bytes, or
    a seekable binary file; or a sharded set, by its folder (a URL of one ends with a "/"), its
    *.index.json, or its manifest. Use the result as a context manager.

    `digest` pins the file. "blake3:…" is the digest of a .tz file and covers all of it: any other
    file is an IntegrityError before it is parsed. It is also the digest of a set, whose manifest
    `tz digest --set` has written into the folder: then every file that is read is compared with the
    manifest, index and shards alike. "sha256:…" is of a whole file in another format.
    Up to half of `host_memory_max` in size (128 MiB, unless that option says more) such a file is
    read into memory and compared before it is parsed. A larger one can only be loaded whole, by
    `load`, `load_into` or `iter_tensors` without names: an IntegrityError comes before the last
    tensor, and until such a load was complete, an OptionError for everything else.

    Raises SourceError if the source cannot be read, FormatError if the file is malformed or of
    another format, and OptionError if source, digest and options do not go together.

    Tensors are PyTorch's where it is installed, else NumPy's. `libtz.torch.open` and
    `libtz.numpy.open` say which, also to type checkers.
    """
    return open_as(default_framework(), source, digest=digest, options=options)


def open_as(
    framework: Framework[T],
    source: SourceLike | Location,
    *,
    digest: str | None = None,
    options: ReadOptions | None = None,
) -> Checkpoint[T]:
    """As `open`, with tensors of this framework."""
    options = options or ReadOptions()
    if isinstance(source, (str, os.PathLike, Location)):
        source = Location.of(source)
        if _is_set(source):
            return _open_set(framework, source, digest, options)
        if isinstance(source, SetLocation):
            return _open_member(framework, source, options)
    return _open_file(framework, resolve_source(source, options), digest, options)


def _open_file(
    framework: Framework[T],
    place: Source,
    digest: str | None,
    options: ReadOptions,
    *,
    member: SetLocation | None = None,
) -> File[T]:
    """The file that a source holds. `member`: the file of a set that it should be."""
    algorithm, pin = parse_digest(digest) if digest is not None else (None, None)
    place.is_proven = pin is not None
    sha256 = pin if algorithm == "sha256" else None
    try:
        place.limit(options.http.open_deadline_s)
        front = _front(place)
        if member is not None:
            member.require_size(place.size)
        if pin is not None and place.resident(0, 0) is not None:
            raise OptionError(
                "a mapped file can change after it was checked, so local='map' and a digest exclude"
                " each other; leave local='copy'"
            )
        if sha256 is not None and place.size <= in_memory_max(options):
            place.limit(None)
            place, options = whole_in_memory(place, front, sha256, options)
            sha256 = None
        blake3 = pin if algorithm == "blake3" else None
        header, front = _header(place, front, blake3, options.open_size_max)
        place.limit(None)
        if algorithm == "sha256" and header.info.format == lib.FORMAT_TZ:
            raise OptionError(
                f"{place.url} is a tz file; pin it by its own digest, as `tz digest` prints it"
            )
        if options.decryption.is_given and not header.info.is_encrypted:
            raise DecryptionError(
                f"{place.url} is not encrypted, so anybody can have written it; leave"
                " the key or passphrase out to read it nevertheless",
                code="not-encrypted",
            )
        opened = CoreweaveFile if header.info.format == lib.FORMAT_COREWEAVE else File
        has_proof = place.is_checked or (pin is not None and sha256 is None)
        is_pinned = has_proof and (member is None or member.is_pinned)
        return opened(
            framework,
            Catalog(header),
            Loader(place, header, front, options),
            is_pinned=is_pinned,
            sha256=sha256,
        )
    except BaseException:
        place.close()
        raise


# ---- Sets of files -------------------------------------------------------------------------------


def _is_set(location: Location) -> bool:
    """Whether it is a folder, an index or a manifest, by its name."""
    return location.name.endswith((INDEX_SUFFIX, MANIFEST_SUFFIX)) or location.is_folder()


def _open_set(
    framework: Framework[T], location: Location, digest: str | None, options: ReadOptions
) -> Checkpoint[T]:
    """What `libtz.open` returns for a folder, an index or a manifest: of a folder with one file,
    that file."""
    name = location.name if location.name.endswith(INDEX_SUFFIX) else None
    folder = location.sibling("") if name else location
    folder = pinned_folder(folder, digest, options)
    names = [name] if name else weights_in(folder, options)
    first = folder.sibling(names[0])
    is_index = first.name.endswith(INDEX_SUFFIX)
    if isinstance(folder, SetLocation):
        digest = None  # it was compared
    if len(names) == 1 and not is_index:
        return open_as(framework, first, digest=digest, options=options)
    if digest is not None:
        raise OptionError(
            f"{first} is one of several files, and beside it is no {MANIFEST_NAME} that a digest"
            " could pin; `tz digest --set` writes it, and prints the digest of the set"
        )
    open_file = partial(open_as, framework, options=options)
    if not is_index:
        return Sharded(framework, first, names, None, open_file, options)
    index = read_index(first, options)
    return Sharded(framework, first, sorted(set(index.values())), index, open_file, options)


def _open_member(
    framework: Framework[T], location: SetLocation, options: ReadOptions
) -> Checkpoint[T]:
    """A file of a set."""
    source = location.source(options)
    digest = None if location.file is None else location.file.digest
    try:
        return _open_file(framework, source, digest, options, member=location)
    except IntegrityError as error:
        if error.code == "digest" and error.rule is None:
            error.rule = "TZS1-18"
        raise


def _front(source: Source) -> memoryview:
    """Opens the source; its first bytes."""
    front = memoryview(bytearray(FRONT_SIZE))
    return front[: source.open(front)]


def _header(
    source: Source, front: memoryview, pin: bytes | None, size_max: int
) -> tuple[lib.Header, memoryview]:
    """The header, and all of its bytes."""
    while True:
        try:
            opened = lib.Header.open(front, source.size, label=source.url, pin=pin)
        except FormatError as error:
            if source.size == 0:
                error.message += (
                    "; there is nothing to read: the file is empty (0 bytes), as after an upload"
                    " that broke off, or where it marks a folder"
                )
            elif error.code == "not-tz" and (other := describe_other_format(front)) is not None:
                error.message += f"; {other}"
            raise
        if isinstance(opened, lib.Header):
            return opened, front[: opened.info.header_size]
        if opened > size_max:
            raise OptionError(
                f"{source.url}: its header needs {opened} bytes to be opened, more than"
                f" ReadOptions.open_size_max allows ({size_max})"
            )
        # A mapping of its own takes memory only as bytes really arrive.
        longer = allocate(opened).view()
        longer[: len(front)] = front
        source.read_into(len(front), opened - len(front), [longer[len(front) :]])
        front = longer
