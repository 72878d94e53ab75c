"""Finds the files of a sharded set, by its index or by the contents of a folder.

An index has the same origin as the files, so it is not trusted more than they are. It can only name
files in its own folder.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable

from libtz.errors import (
    FormatError,
    OptionError,
    SourceError,
    SourceNotFoundError,
    SourcePermissionError,
)
from libtz.locations import Location, is_plain_name
from libtz.manifest import MANIFEST_NAME
from libtz.options import ReadOptions
from libtz.strict_json import parse_json

__all__ = ["INDEX_SUFFIX", "read_index", "weights_in"]

INDEX_SUFFIX = ".index.json"
SUFFIXES = (".safetensors", ".tz")
USUAL_NAMES = (
    "model.safetensors.index.json",
    "model.tz.index.json",
    "model.tz",
    "model.safetensors",
)

# Indexes of the largest models, with some 200,000 tensors, have about 20 MB.
INDEX_SIZE_MAX = 64 << 20
# Limit on tensors, and on containers. They determine the memory that a JSON parser uses, which
# could otherwise be a hundred times the size of the text.
INDEX_ITEMS_MAX = 1_000_000
# If more parts than this are missing, they are not looked for by name.
MISSING_MAX = 1000

_NUMBERED = re.compile(r"(.+)-(\d{1,9})-of-(\d{1,9})(\.[a-z]+)", re.ASCII)


def weights_in(folder: Location, options: ReadOptions) -> list[str]:
    """The name of the index of a folder, or, if there is none, the names of its weights files in
    order. If the folder cannot be listed, as over HTTP, looks for its manifest, then for
    `USUAL_NAMES`. Raises OptionError."""
    names = folder.files(options)
    if names is None:
        if _exists(folder.sibling(MANIFEST_NAME), options):
            return [MANIFEST_NAME]
        names = [name for name in USUAL_NAMES if _exists(folder.sibling(name), options)]
        if not names:
            listed = ", ".join((MANIFEST_NAME, *USUAL_NAMES))
            raise SourceNotFoundError(
                f"{folder} cannot be listed, and none of the usual files exists or may be read:"
                f" {listed}; open a file by its name",
                url=str(folder),
                errno=errno.ENOENT,
            )
    return _weights_among(str(folder), names)


def _exists(location: Location, options: ReadOptions) -> bool:
    source = location.source(options)
    source.limit(options.http.open_deadline_s)
    try:
        source.open(memoryview(bytearray(1)))
    except SourceError as error:
        # For a missing object, S3 returns "forbidden" if the caller may not list the bucket.
        if isinstance(error, (SourceNotFoundError, SourcePermissionError)):
            return False
        raise
    finally:
        source.close()
    return True


def _weights_among(folder: str, names: list[str]) -> list[str]:
    """`names` contains no hidden files, such as those that macOS creates on foreign disks."""
    for suffix in SUFFIXES:  # transformers makes the same choice
        if f"model{suffix}{INDEX_SUFFIX}" in names:
            return [f"model{suffix}{INDEX_SUFFIX}"]
    found = {
        suffix: [name for name in names if name.endswith((suffix, suffix + INDEX_SUFFIX))]
        for suffix in SUFFIXES
    }
    listed = ", ".join([name for group in found.values() for name in group][:4])
    suffixes = [suffix for suffix, group in found.items() if group]
    if not suffixes:
        raise OptionError(
            f"{folder} contains no .safetensors or .tz files, and no index of such files"
        )
    if len(suffixes) > 1:
        raise OptionError(f"{folder} contains models in two formats; open one by name: {listed}")
    (suffix,) = suffixes
    indexes = [name for name in found[suffix] if name.endswith(INDEX_SUFFIX)]
    if len(indexes) > 1:
        raise OptionError(f"{folder} has several indexes; open one: {', '.join(indexes)}")
    return indexes or _without_index(folder, found[suffix], listed)


def _without_index(folder: str, names: list[str], listed: str) -> list[str]:
    """The only file of a folder, or all parts of one model, judging by their names."""
    parts = [_NUMBERED.fullmatch(name) for name in names]
    models = {(part[1], int(part[3])) if part else None for part in parts}
    if len(models) > 1 or (None in models and len(names) > 1):
        raise OptionError(
            f"{folder} contains files of different models and no index; open one by name: {listed}"
        )
    if None not in models:
        _require_complete(folder, names)
    return names


def _require_complete(where: str, names: Iterable[str]) -> None:
    """Raises FormatError if, according to the names, a part is missing."""
    parts = [part for name in names if (part := _NUMBERED.fullmatch(name))]
    found = {(part[1], part[3], part[4], int(part[2])) for part in parts}
    for before, count, suffix, _ in sorted(found):
        if int(count) > len(parts) + MISSING_MAX:
            raise FormatError(
                f"{where}: most files are missing: by their names, these are some of {int(count)}",
                code="bad-set",
            )
        for number in range(1, int(count) + 1):
            if (before, count, suffix, number) not in found:
                name = f"{before}-{number:0{len(count)}}-of-{count}{suffix}"
                raise FormatError(
                    f"{where}: {name} is missing: the other names say that there are"
                    f" {int(count)} files",
                    code="bad-set",
                )


def read_index(
    location: Location, options: ReadOptions, *, suffixes: tuple[str, ...] = SUFFIXES
) -> dict[str, str]:
    """Reads an index: file names by tensor name. Raises FormatError if it is malformed."""

    def broken(reason: str) -> FormatError:
        return FormatError(f"{location}: {reason}", code="bad-index")

    text = location.read(options, size_max=INDEX_SIZE_MAX)
    index = parse_json(text, broken, items_max=INDEX_ITEMS_MAX)
    weights = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weights, dict) or not weights:
        raise broken("it has no 'weight_map' from tensors to files")
    known: set[str] = set()
    for name, file in weights.items():
        if not _is_unicode(name):
            raise broken(f"{name!r} is not a name: it is not UTF-8")
        if isinstance(file, str) and file in known:
            continue
        if not isinstance(file, str) or not is_plain_name(file) or not file.endswith(suffixes):
            raise broken(
                f"the file of tensor {name!r} is {file!r}, which is not the name of a"
                f" {' or '.join(suffixes)} file in the folder of the index"
            )
        known.add(file)
    _require_complete(str(location), known)
    return weights


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
