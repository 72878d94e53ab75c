"""Finds the files of a sharded set: by its index, or by what a folder holds.

An index comes from where the files come from, so it is no more trusted than they are. It can only
name files in its own folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from libtz.errors import FormatError, OptionError
from libtz.locations import Location, is_plain_name
from libtz.options import ReadOptions

__all__ = ["INDEX_SUFFIX", "folder_files", "read_index"]

INDEX_SUFFIX = ".index.json"
SUFFIXES = (".safetensors", ".tz")

# Indexes of the largest models, with some 200,000 tensors, have about 20 MB.
INDEX_SIZE_MAX = 64 << 20


def folder_files(folder: Path) -> list[str]:
    """The index of a folder, or its files in order if it has none."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    found = {
        suffix: [name for name in names if name.endswith((suffix, suffix + INDEX_SUFFIX))]
        for suffix in SUFFIXES
    }
    for suffix in SUFFIXES:  # as transformers would choose, whatever else lies there
        if f"model{suffix}{INDEX_SUFFIX}" in names:
            return [f"model{suffix}{INDEX_SUFFIX}"]
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
    files = indexes or found[suffix]
    if len(files) > 1 and suffix == ".tz":
        raise OptionError(f"{folder} has several .tz files; open one: {listed}")
    if len(files) > 1 and "model.safetensors" in files:
        raise OptionError(
            f"{folder} has model.safetensors and others, without an index; open one: {listed}"
        )
    return files


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
    try:
        index = json.loads(
            text.decode("utf-8"), object_pairs_hook=unique, parse_constant=no_constant
        )
    except (ValueError, RecursionError) as error:
        raise broken(f"not a JSON file: {error}") from None
    weights = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weights, dict) or not weights:
        raise broken("it has no 'weight_map' from tensors to files")
    for name, file in weights.items():
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise broken(f"{name!r} is not a name: it is not UTF-8")
        if not isinstance(file, str) or not is_plain_name(file) or not file.endswith(suffixes):
            raise broken(
                f"tensor {name!r} is said to be in {file!r}, which is not the name of a"
                f" {' or '.join(suffixes)} file in the folder of the index"
            )
    return weights
