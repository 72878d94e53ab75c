"""Opens a source as a checkpoint, of the class for its format.

Opening reads the first megabyte, and the rest of the header if that is larger.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from libtz._native import lib
from libtz.arrays.base import Framework
from libtz.arrays.default import default_framework
from libtz.checkpoint.base import Checkpoint
from libtz.checkpoint.catalog import Catalog
from libtz.checkpoint.coreweave import CoreweaveFile
from libtz.checkpoint.file import File
from libtz.checkpoint.loader import Loader
from libtz.checkpoint.other_formats import describe_other_format
from libtz.checkpoint.pins import in_memory_max, whole_in_memory
from libtz.checkpoint.shard_index import INDEX_SUFFIX, read_index, weights_in
from libtz.checkpoint.sharded import Sharded
from libtz.checkpoint.shards import Shards
from libtz.errors import DecryptionError, FormatError, IntegrityError, OptionError
from libtz.fields import options_or_default
from libtz.format import parse_digest
from libtz.locations import Location, SourceLike, resolve_source
from libtz.manifest import MANIFEST_NAME, MANIFEST_SUFFIX
from libtz.memory import allocate
from libtz.options import ReadOptions
from libtz.pinned import SetLocation, pinned_folder
from libtz.signed import pinned_digest
from libtz.sources.base import Source

if TYPE_CHECKING:
    from torch import Tensor  # type checkers take Any for it where PyTorch is not installed

__all__ = ["open", "open_as"]

T = TypeVar("T")

# Enough for the header of most models, and for all of a small one.
FRONT_SIZE = 1 << 20


def open(
    source: SourceLike,
    *,
    digest: str | None = None,
    signature: str | os.PathLike[str] | None = None,
    public_key: str | os.PathLike[str] | bytes | None = None,
    options: ReadOptions | None = None,
) -> Checkpoint[Tensor]:
    """Opens a .tz, .safetensors or .tensors file, or a sharded set of files. `source` is a path, a
    URL (file, http, https, s3), a buffer or a seekable binary file; for a set, it is the folder (a
    URL of one ends with "/"), the *.index.json, or the manifest. Use the result as a context
    manager.

    `digest` pins the file. "blake3:…" is the digest of a .tz file and covers all of it: any other
    file raises IntegrityError before it is parsed. "sha256:…" is the hash of a whole file in
    another format. If the file has at most half of `host_memory_max` (128 MiB by default), it is
    read into memory and compared before it is parsed. A larger file can only be loaded whole, with
    `load`, `load_into` or `iter_tensors` without names, which raise IntegrityError before they
    return the last tensor. Until then, everything else raises OptionError.

    "blake3:…" also pins a set that has a manifest, which `tz digest --set` writes into its folder.
    Then every file that is read, including the index, is compared with the manifest.

    Instead of a digest, a `signature` by a `public_key` can pin a path or URL:
    `libtz.signatures.signed_digest` describes both, and the errors that they raise.

    Raises SourceError if the source cannot be read, FormatError if the file is malformed or in an
    unknown format, and OptionError if source, digest and options cannot be combined.

    Tensors are PyTorch tensors if PyTorch is installed, else NumPy arrays.
    """
    return open_as(
        default_framework(),
        source,
        digest=digest,
        signature=signature,
        public_key=public_key,
        options=options,
    )


def open_as(
    framework: Framework[T],
    source: SourceLike | Location,
    *,
    digest: str | None = None,
    signature: str | os.PathLike[str] | None = None,
    public_key: str | os.PathLike[str] | bytes | None = None,
    options: ReadOptions | None = None,
) -> Checkpoint[T]:
    """The same as `open`, with tensors of this framework."""
    options = options_or_default(options, ReadOptions)
    digest = pinned_digest(source, digest, signature, public_key, options)
    if isinstance(source, (str, os.PathLike, Location)):
        source = Location.of(source)
        if _is_set(source):
            return _open_set(framework, source, digest, options)
        if isinstance(source, SetLocation):
            return _open_member(framework, source, options)
    return _open_file(framework, resolve_source(source, options), digest, options)


def _open_file(
    framework: Framework[T],
    source: Source,
    digest: str | None,
    options: ReadOptions,
    *,
    member: SetLocation | None = None,
) -> File[T]:
    """Opens one file. `member`: the file of a set that it must be."""
    algorithm, pin = parse_digest(digest) if digest is not None else (None, None)
    source.is_proven = pin is not None
    sha256 = pin if algorithm == "sha256" else None
    try:
        source.limit(options.http.open_deadline_s)
        front = _front(source)
        if member is not None:
            member.require_size(source.size)
        if pin is not None and source.resident(0, 0) is not None:
            raise OptionError(
                "a mapped file can change after it was checked, so ReadOptions.local cannot be"
                " 'map' together with a digest; leave it out"
            )
        if sha256 is not None and source.size <= in_memory_max(options):
            source.limit(None)
            source, options = whole_in_memory(source, front, sha256, options)
            sha256 = None
        blake3 = pin if algorithm == "blake3" else None
        header, front = _header(source, front, blake3, options.open_size_max)
        source.limit(None)
        if algorithm == "sha256" and header.info.format == lib.FORMAT_TZ:
            raise OptionError(
                f"{source.url} is a tz file; pin it with its own digest, which `tz digest` prints"
            )
        if options.decryption.is_given and not header.info.is_encrypted:
            raise DecryptionError(
                f"{source.url} is not encrypted, so its origin cannot be verified; to read it"
                f" anyway, leave out {options.decryption.given[0]}",
                code="not-encrypted",
            )
        opened = CoreweaveFile if header.info.format == lib.FORMAT_COREWEAVE else File
        has_proof = source.is_checked or (pin is not None and sha256 is None)
        is_pinned = has_proof and (member is None or member.is_pinned)
        return opened(
            framework,
            Catalog(header),
            Loader(source, header, front, options),
            is_pinned=is_pinned,
            sha256=sha256,
        )
    except BaseException:
        source.close()
        raise


# ---- Sets of files -------------------------------------------------------------------------------


def _is_set(location: Location) -> bool:
    """Whether the location is a folder, or, by its name, an index or a manifest."""
    return location.name.endswith((INDEX_SUFFIX, MANIFEST_SUFFIX)) or location.is_folder()


def _open_set(
    framework: Framework[T], location: Location, digest: str | None, options: ReadOptions
) -> Checkpoint[T]:
    """Opens a folder, an index or a manifest as a set; a folder with one file, as that file."""
    name = location.name if location.name.endswith(INDEX_SUFFIX) else None
    folder = location.sibling("") if name else location
    folder = pinned_folder(folder, digest, options)
    names = [name] if name else weights_in(folder, options)
    first = folder.sibling(names[0])
    is_index = first.name.endswith(INDEX_SUFFIX)
    if isinstance(folder, SetLocation):
        digest = None  # it has already been compared
    if len(names) == 1 and not is_index:
        return open_as(framework, first, digest=digest, options=options)
    if digest is not None:
        raise OptionError(
            f"{first} is one of several files, and a digest can only pin them with a"
            f" {MANIFEST_NAME} beside it; `tz digest --set` writes it, and prints the digest of the"
            " set"
        )
    open_file = partial(open_as, framework, options=options)
    if not is_index:
        return Sharded(framework, Shards(first, names, None, open_file), options)
    index = read_index(first, options)
    shards = Shards(first, sorted(set(index.values())), index, open_file)
    return Sharded(framework, shards, options)


def _open_member(
    framework: Framework[T], location: SetLocation, options: ReadOptions
) -> Checkpoint[T]:
    """Opens a file of a set."""
    source = location.source(options)
    digest = None if location.file is None else location.file.digest
    try:
        return _open_file(framework, source, digest, options, member=location)
    except IntegrityError as error:
        if error.code == "digest" and error.rule is None:
            error.rule = "TZS1-18"
        raise


def _front(source: Source) -> memoryview:
    """Opens the source and returns its first bytes."""
    front = memoryview(bytearray(FRONT_SIZE))
    return front[: source.open(front)]


def _header(
    source: Source, front: memoryview, pin: bytes | None, size_max: int
) -> tuple[lib.Header, memoryview]:
    """The header, parsed and as bytes."""
    while True:
        try:
            opened = lib.Header.open(front, source.size, label=source.url, pin=pin)
        except FormatError as error:
            if source.size == 0:
                error.message += (
                    "; the file is empty (0 bytes): an upload may have failed, or the object may be"
                    " a folder marker"
                )
            elif error.code == "not-tz" and (other := describe_other_format(front)) is not None:
                error.message += f"; {other}"
            raise
        if isinstance(opened, lib.Header):
            return opened, front[: opened.info.header_size]
        if opened > size_max:
            raise OptionError(
                f"{source.url}: opening needs {opened} bytes of header, more than"
                f" ReadOptions.open_size_max allows ({size_max})"
            )
        # A new mapping only takes memory as bytes arrive.
        longer = allocate(opened).view()
        longer[: len(front)] = front
        source.read_into(len(front), opened - len(front), [longer[len(front) :]])
        front = longer
