"""Pins a model's folder (weights, configuration and tokenizer) with one digest.

    digest = libtz.sets.write_manifest("llama")         # as `tz digest --set llama`
    libtz.torch.load_file("llama", digest=digest)       # every file is compared with the manifest
    libtz.sets.verify("https://host/llama/", digest=digest)

The manifest is a text that lists all files with their digests, defined in `spec/tz-set-v1.md`.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from libtz._native import lib
from libtz.arrays.base import BufferFramework
from libtz.checkpoint.file import File
from libtz.errors import OptionError, SourceNotFoundError
from libtz.fields import options_or_default
from libtz.locations import Location
from libtz.manifest import (
    MANIFEST_NAME,
    PART_SIZE,
    Manifest,
    SetFile,
    belongs,
    encode,
    name_problem,
)
from libtz.opening import open_as
from libtz.options import ReadOptions
from libtz.pinned import is_manifest, open_manifest
from libtz.sources.base import Source
from libtz.transfer.progress import Progress
from libtz.transfer.verify import read_through

__all__ = ["digest", "verify", "write_manifest"]

# Each thread reads this much in one request, so that latency is negligible.
STEP_SIZE = 4 * PART_SIZE


def write_manifest(folder: str | os.PathLike[str], *, options: ReadOptions | None = None) -> str:
    """Writes `model.tz-set`, the manifest of a folder, into the folder. Returns the set's digest.

    The folder is a path or s3://bucket/prefix/. All files in it and its subfolders are part of the
    set, except hidden ones and manifests. For a .tz file, only the header is read: it has a digest
    of the file's contents, which `verify` checks. Other files are read completely.

    Raises:
        OptionError: a name is not allowed in a set, or something is neither a file nor a folder.
        FormatError: a file whose name ends with .tz is not a tz file.
        SourceError: a file cannot be read, or the manifest cannot be written.
    """
    options = options_or_default(options, ReadOptions)
    location = Location.of(folder).folder()
    data = _manifest_of(location, options)
    manifest = Manifest.parse(data, str(location))  # all rules hold
    location.sibling(MANIFEST_NAME).write(data, options)
    return manifest.digest


def digest(source: str | os.PathLike[str], *, options: ReadOptions | None = None) -> str:
    """The digest of a set, which is that of its manifest. `source` is the manifest or its folder.
    For a folder without a manifest, it is the digest that `write_manifest` would return.

    The files are not compared with the manifest; `verify` does that. Raises the same errors as
    `write_manifest`, and FormatError if the manifest is malformed.
    """
    options = options_or_default(options, ReadOptions)
    location = Location.of(source)
    if is_manifest(location):
        return open_manifest(location, options).manifest.digest
    with suppress(SourceNotFoundError):
        return open_manifest(location, options).manifest.digest
    data = _manifest_of(location.folder(), options)
    return Manifest.parse(data, str(location)).digest


def verify(
    source: str | os.PathLike[str], *, digest: str | None = None, options: ReadOptions | None = None
) -> None:
    """Reads every file in the manifest of a set, and compares it with the manifest. In .tz files,
    also checks everything that `Checkpoint.verify` checks. `source` is the manifest or its folder.
    Files that are not in the manifest are ignored.

    Raises IntegrityError if the manifest or a file has another digest, and SourceError if a file is
    missing.
    """
    options = options_or_default(options, ReadOptions)
    folder = open_manifest(Location.of(source), options, digest=digest)
    for file in folder.manifest.files.values():
        _verify_file(folder.inside(file.name), file, options)


def _verify_file(location: Location, file: SetFile, options: ReadOptions) -> None:
    if file.digest is not None:
        with open_as(BufferFramework(), location, options=options) as opened:
            opened.verify()
        return
    source = location.source(options)
    try:
        source.open(memoryview(bytearray(1)))
        read_through(source)
    finally:
        source.close()


# ---- Making a manifest ---------------------------------------------------------------------------


def _manifest_of(folder: Location, options: ReadOptions) -> bytes:
    """Makes the manifest of the files in a folder."""
    names = folder.files(options, is_recursive=True)
    if names is None:
        raise OptionError(
            f"{folder} cannot be listed, and has no manifest; make one with `tz digest --set` where"
            " the files are stored"
        )
    names = list(filter(belongs, names))
    if not names:
        raise OptionError(f"{folder} holds no files")
    for name in names:
        if (problem := name_problem(name)) is not None:
            raise OptionError(f"{folder}: a set cannot hold {name!r}: the name {problem[1]}")
    return encode(_described(folder.inside(name), name, options) for name in names)


def _described(location: Location, name: str, options: ReadOptions) -> SetFile:
    if name.endswith(".tz"):
        with open_as(BufferFramework(), location, options=options) as file:
            assert isinstance(file, File)  # the name is a file's, since a folder's ends with "/"
            return SetFile(name, file.size, digest=file.digest)
    source = location.source(options)
    try:
        source.open(memoryview(bytearray(1)))
        return SetFile(name, source.size, parts=_parts_of(source, options))
    finally:
        source.close()


def _parts_of(source: Source, options: ReadOptions) -> bytes:
    """The digests of all parts of an open source, hashed by several threads."""

    def hash_step(begin: int) -> bytes:
        memory = memoryview(bytearray(min(STEP_SIZE, source.size - begin)))
        source.read_into(begin, len(memory), [memory])
        parts = (memory[at : at + PART_SIZE] for at in range(0, len(memory), PART_SIZE))
        return b"".join(map(lib.blake3, parts))

    steps = range(0, source.size, STEP_SIZE)
    threads = 1 if len(steps) < 2 else source.profile(0, source.size, options).threads
    progress = Progress(source.size, "hash", options.progress)
    parts = []
    try:
        with ThreadPoolExecutor(threads) as pool:
            for begin, digests in zip(steps, pool.map(hash_step, steps), strict=True):
                parts.append(digests)
                progress.show(min(begin + STEP_SIZE, source.size))
    finally:
        progress.close()
    source.check_unchanged()
    return b"".join(parts)
