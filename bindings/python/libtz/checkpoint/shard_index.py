"""Finds the files of a sharded set: by its index, or by what a folder holds.

An index comes from where the files come from, so it is no more trusted than they are. It can only
name files in its own folder.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterable
from typing import Any

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
# Of tensors, and of containers. What a JSON parser makes of a text depends on these, and it must
# not be a hundred times the text.
INDEX_ITEMS_MAX = 1_000_000
# How many parts are looked for by name before one more is too many to be true.
MISSING_MAX = 1000

_NUMBERED = re.compile(r"(.+)-(\d{1,9})-of-(\d{1,9})(\.[a-z]+)", re.ASCII)


def weights_in(folder: Location, options: ReadOptions) -> list[str]:
    """The index of a folder, or the files of its weights in order if it has none. Where folders
    cannot be listed, as over HTTP, their manifest comes first, and then only `USUAL_NAMES`."""
    names = folder.files(options)
    if names is None:
        if _is_there(folder.sibling(MANIFEST_NAME), options):
            return [MANIFEST_NAME]
        names = [name for name in USUAL_NAMES if _is_there(folder.sibling(name), options)]
        if not names:
            listed = ", ".join((MANIFEST_NAME, *USUAL_NAMES))
            raise SourceNotFoundError(
                f"{folder} cannot be listed, and the files that it usually has are not there, or"
                f" may not be read: {listed}; open a file by its name",
                url=str(folder),
                errno=errno.ENOENT,
            )
    return _weights_among(str(folder), names)


def _is_there(location: Location, options: ReadOptions) -> bool:
    source = location.source(options)
    source.limit(options.http.open_deadline_s)
    try:
        source.open(memoryview(bytearray(1)))
    except SourceError as error:
        # Of what the caller may not list, S3 forbids what is not there.
        if isinstance(error, (SourceNotFoundError, SourcePermissionError)):
            return False
        raise
    finally:
        source.close()
    return True


def _weights_among(folder: str, names: list[str]) -> list[str]:
    """Hidden files are not among the names, such as those that macOS makes beside others on foreign
    disks."""
    for suffix in SUFFIXES:  # as transformers would choose, whatever else lies there
        if f"model{suffix}{INDEX_SUFFIX}" in names:
            return [f"model{suffix}{INDEX_SUFFIX}"]
    found = {
        suffix: [name for name in names if name.endswith((suffix, suffix + INDEX_SUFFIX))]
        for suffix in SUFFIXES
    }
    listed = ", ".join([name for group in found.values() for name in group][:4])
    suffixes = [suffix for suffix, group in found.items() if group]
    if not suffixes:
        raise OptionError(f"{folder} holds no .safetensors file, no .tz file and no index of such")
    if len(suffixes) > 1:
        raise OptionError(f"{folder} holds models in two formats; open one by its name: {listed}")
    (suffix,) = suffixes
    indexes = [name for name in found[suffix] if name.endswith(INDEX_SUFFIX)]
    if len(indexes) > 1:
        raise OptionError(f"{folder} has several indexes; open one: {', '.join(indexes)}")
    return indexes or _without_index(folder, found[suffix], listed)


def _without_index(folder: str, names: list[str], listed: str) -> list[str]:
    """The one file of a folder, or all parts of one model, which say so in their names."""
    parts = [_NUMBERED.fullmatch(name) for name in names]
    models = {(part[1], int(part[3])) if part else None for part in parts}
    if len(models) > 1 or (None in models and len(names) > 1):
        raise OptionError(
            f"{folder} holds files of different models and no index; open one by its name: {listed}"
        )
    if None not in models:
        _require_complete(folder, names)
    return names


def _require_complete(where: str, names: Iterable[str]) -> None:
    """That no part is missing, as far as the names say how many there are."""
    parts = [part for name in names if (part := _NUMBERED.fullmatch(name))]
    found = {(part[1], part[3], part[4], int(part[2])) for part in parts}
    for before, count, suffix, _ in sorted(found):
        if int(count) > len(parts) + MISSING_MAX:
            raise FormatError(
                f"{where}: files say that they are parts of {count}, and most are missing",
                code="bad-set",
            )
        for number in range(1, int(count) + 1):
            if (before, count, suffix, number) not in found:
                name = f"{before}-{number:0{len(count)}}-of-{count}{suffix}"
                raise FormatError(
                    f"{where}: {name} is missing: the names of the others say that there are"
                    f" {int(count)}",
                    code="bad-set",
                )


def read_index(
    location: Location, options: ReadOptions, *, suffixes: tuple[str, ...] = SUFFIXES
) -> dict[str, str]:
    """File names by tensor name."""

    def broken(reason: str) -> FormatError:
        return FormatError(f"{location}: {reason}", code="bad-index")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members: dict[str, Any] = {}
        for key, value in pairs:
            if key in members:
                raise broken(f"{key!r} is in it twice")
            members[key] = value
        return members

    def no_constant(text: str) -> Any:
        raise broken(f"{text} is not JSON")

    text = location.read(options, size_max=INDEX_SIZE_MAX)
    if max(text.count(b","), text.count(b"{") + text.count(b"[")) > INDEX_ITEMS_MAX:
        raise broken(f"it has more than {INDEX_ITEMS_MAX} items")
    try:
        index = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=unique,
            parse_constant=no_constant,
            parse_int=str,  # no number matters, and turning long ones into integers takes seconds
            parse_float=str,
        )
    except (ValueError, RecursionError) as error:
        raise broken(f"not a JSON file: {error}") from None
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
                f"tensor {name!r} is said to be in {file!r}, which is not the name of a"
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
