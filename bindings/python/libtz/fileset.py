"""Sharded models: several files that an index, or their folder, makes one set of tensors.

An index comes from where the files come from, so it is no more trusted than they are. It can only
name files in its own folder, and every file must hold exactly what the index says: a tensor is
never looked up in a file that another file could have replaced.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from libtz._native import lib
from libtz.errors import Error, FormatError, OptionError
from libtz.format import TensorInfo
from libtz.makers import Maker
from libtz.options import ReadOptions
from libtz.reader import File
from libtz.reader import open as open_file
from libtz.selection import Names, select
from libtz.slices import Selection
from libtz.sources.resolve import scheme_of
from libtz.sources.url import shown
from libtz.sources.whole import is_plain_name, location_name, location_of, read_whole, sibling
from libtz.transfer.memory import Block
from libtz.transfer.stats import TransferStats

__all__ = ["FileSet", "check_shard", "is_set", "open_set", "read_index"]

INDEX_SUFFIX = ".index.json"
SUFFIXES = (".safetensors", ".tz")

# Indexes of the largest models, with some 200,000 tensors, have about 20 MB.
INDEX_SIZE_MAX = 64 << 20


def is_set(source: Any) -> bool:
    """Whether a source is a folder or an index, by its name."""
    if not isinstance(source, (str, os.PathLike)):
        return False
    location = location_of(source)
    # Path.is_dir() raises on names that are too long.
    is_folder = scheme_of(location) is None and os.path.isdir(location)  # noqa: PTH112
    return is_folder or location_name(location).endswith(INDEX_SUFFIX)


def open_set(source: Any, *, digest: str | None, options: ReadOptions) -> File:
    """What `libtz.open` returns for a folder or an index: of a folder with one file, that file."""
    location = location_of(source)
    if not location_name(location).endswith(INDEX_SUFFIX):
        names = _folder_files(Path(location))
        # Where `sibling` finds the files of the folder.
        location = os.path.join(location, names[0])  # noqa: PTH118
        if len(names) == 1 and not names[0].endswith(INDEX_SUFFIX):
            return open_file(location, digest=digest, options=options)
    else:
        names = [location_name(location)]
    if digest is not None:
        raise OptionError(
            f"{shown(location)} is one of a set of files, and a digest pins one file; `tz convert`"
            " makes one file of a set, and prints its digest"
        )
    if not names[0].endswith(INDEX_SUFFIX):
        return FileSet(location, names, None, options)
    index = read_index(location, options)
    return FileSet(location, sorted(set(index.values())), index, options)


def _folder_files(folder: Path) -> list[str]:
    """The index of a folder, or its files in order if it has none."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
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
    if f"model{suffix}{INDEX_SUFFIX}" in indexes:
        return [f"model{suffix}{INDEX_SUFFIX}"]
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


# ---- The index -----------------------------------------------------------------------------------


def read_index(
    location: str, options: ReadOptions, *, suffixes: tuple[str, ...] = SUFFIXES
) -> dict[str, str]:
    """File names by tensor name."""
    where = shown(location)

    def broken(reason: str) -> FormatError:
        return FormatError(f"{where}: {reason}", code="bad-index")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members: dict[str, Any] = {}
        for key, value in pairs:
            if key in members:
                raise broken(f"{key!r} is in it twice")
            members[key] = value
        return members

    def no_constant(text: str) -> Any:
        raise broken(f"{text} is not JSON")

    text = read_whole(location, options, size_max=INDEX_SIZE_MAX)
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


def check_shard(where: str, found: Collection[str], expected: Set[str]) -> None:
    """That a file has the tensors that its index says, and no others."""
    for tensor in found:
        if tensor not in expected:
            reason = f"it holds tensor {tensor!r}, which the index does not say"
            raise FormatError(f"{where}: {reason}", code="bad-set")
    if len(found) != len(expected):
        missing = next(tensor for tensor in expected if tensor not in found)
        reason = f"it has no tensor {missing!r}, which the index says is in it"
        raise FormatError(f"{where}: {reason}", code="bad-set")


# ---- The set -------------------------------------------------------------------------------------


class FileSet(File):
    """Several files as one: used like a `File`, each opened when something of it is wanted.

    Names are in the order of the index. What each file must hold is checked when it is opened, and
    without an index all are opened at once. `stats` sums over the files; `iter_tensors` goes
    through them in order of their names.
    """

    def __init__(
        self,
        location: str,
        names: Sequence[str],
        index: dict[str, str] | None,
        options: ReadOptions,
    ) -> None:
        """Called by `libtz.open`. `location` is any file of the folder."""
        self._location = location
        self._options = options
        self._files: dict[str, File | None] = dict.fromkeys(names)
        self._opening = threading.Lock()
        self._is_closed = False
        self._stats = TransferStats()
        self._expected: dict[str, set[str]] | None = None
        if index is not None:
            self._index_of = index
            self._expected = {name: set() for name in names}
            for tensor, name in index.items():
                self._expected[name].add(tensor)
            return
        try:
            self._index_of = self._merged()
        except BaseException:
            self.close()
            raise

    def _merged(self) -> dict[str, str]:
        """Without an index: file names by tensor name, from the files themselves."""
        index: dict[str, str] = {}
        for name in self._files:
            for tensor in self._file(name):
                if tensor in index:
                    raise FormatError(
                        f"{self._shown(name)}: tensor {tensor!r} is in {index[tensor]!r} too",
                        code="bad-set",
                    )
                index[tensor] = name
        return index

    def _shown(self, name: str) -> str:
        return shown(sibling(self._location, name))

    def _file(self, name: str) -> File:
        with self._opening:
            if self._is_closed:
                raise OptionError(f"{self!r} is closed")
            file = self._files[name]
            if file is None:
                file = open_file(sibling(self._location, name), options=self._options)
                try:
                    self._check(name, file)
                except BaseException:
                    file.close()
                    raise
                self._files[name] = file
            return file

    def _check(self, name: str, file: File) -> None:
        """That the file is what the set needs, and has no tensors but those of the index."""

        def broken(reason: str) -> FormatError:
            return FormatError(f"{self._shown(name)}: {reason}", code="bad-set")

        if file.structure():
            raise broken("it holds a nested object, which cannot be part of a set")
        formats = {other.format for other in self._files.values() if other is not None}
        if formats - {file.format}:
            raise broken(f"it is a {file.format} file in a set of another format")
        if self._expected is not None:
            check_shard(self._shown(name), file, self._expected[name])

    def _all(self) -> list[File]:
        return [self._file(name) for name in self._files]

    def _by_file(self, wanted: Iterable[str]) -> list[tuple[File, list[str]]]:
        """What is wanted of each file, in order of the files. Opens, and thereby checks, them."""
        groups: dict[str, list[str]] = {name: [] for name in self._files}
        for tensor in wanted:
            groups[self._index_of[tensor]].append(tensor)
        return [(self._file(name), tensors) for name, tensors in groups.items() if tensors]

    # ---- What is in the set ----

    @property
    def format(self) -> str:
        """That of the files: all have the same."""
        return self._file(next(iter(self._files))).format

    @property
    def digest(self) -> str | None:
        """None: a digest pins one file."""
        return None

    @property
    def content_digest(self) -> str | None:
        """None; the tensors' own are in `info`."""
        return None

    @property
    def verified(self) -> str:
        return self._file(next(iter(self._files))).verified

    @property
    def metadata(self) -> Mapping[str, str]:
        """What all files agree on."""
        first, *rest = [file.metadata for file in self._all()]
        return MappingProxyType(
            {
                key: value
                for key, value in first.items()
                if all(other.get(key) == value for other in rest)
            }
        )

    @property
    def stats(self) -> TransferStats:
        """What the last load did, summed over the files."""
        return self._stats

    def structure(self) -> list[lib.Node]:
        return []

    def __len__(self) -> int:
        return len(self._index_of)

    def __iter__(self) -> Iterator[str]:
        return iter(self._index_of)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._index_of

    def __repr__(self) -> str:
        return (
            f"<libtz.FileSet {shown(self._location)}: {len(self._files)} files,"
            f" {len(self._index_of)} tensors>"
        )

    def info(self, name: str) -> TensorInfo:
        return self._file(self._index_of[name]).info(name)

    # ---- Loading ----

    def load(self, names: Names = None, device: Any = "cpu") -> dict[str, Any]:
        return self._gather(names, lambda file, part: file.load(part, device))

    def load_with(self, maker: Maker, names: Names = None) -> dict[str, Any]:
        return self._gather(names, lambda file, part: file.load_with(maker, part))

    def _gather(self, names: Names, load: Any) -> dict[str, Any]:
        wanted = select(names, self)
        tensors: dict[str, Any] = {}
        self._stats = TransferStats()
        for file, part in self._by_file(wanted):
            tensors |= load(file, part)
            self._stats = _sum(self._stats, file.stats)
        return {name: tensors[name] for name in wanted}

    def load_into(self, blocks: Mapping[str, Block]) -> None:
        for name, block in blocks.items():
            if block.size != self.info(name).nbytes:
                raise OptionError(f"tensor {name!r} needs memory of {self.info(name).nbytes} bytes")
        self._stats = TransferStats()
        done: list[str] = []
        for file, part in self._by_file(blocks):
            try:
                file.load_into({tensor: blocks[tensor] for tensor in part})
            except Error as error:
                error.changed = (*done, *error.changed)
                raise
            done += part
            self._stats = _sum(self._stats, file.stats)

    def iter_tensors(self, names: Names = None, device: Any = "cpu") -> Iterator[tuple[str, Any]]:
        return self._chain(names, lambda file, part: file.iter_tensors(part, device))

    def iter_buffers(self, names: Names = None) -> Iterator[tuple[str, memoryview]]:
        return self._chain(names, lambda file, part: file.iter_buffers(part))

    def _chain(self, names: Names, iterate: Any) -> Iterator[tuple[str, Any]]:
        self._stats = TransferStats()
        for file, part in self._by_file(select(names, self)):
            before = self._stats
            try:
                yield from iterate(file, part)
            finally:
                self._stats = _sum(before, file.stats)

    def _load_parts(self, parts: Sequence[Selection]) -> list[Any]:
        groups: dict[str, list[int]] = {}
        for place, part in enumerate(parts):
            groups.setdefault(self._index_of[part.info.name], []).append(place)
        tensors: list[Any] = [None] * len(parts)
        self._stats = TransferStats()
        for name in sorted(groups):
            file = self._file(name)
            loaded = file._load_parts([parts[place] for place in groups[name]])
            self._stats = _sum(self._stats, file.stats)
            for place, tensor in zip(groups[name], loaded, strict=True):
                tensors[place] = tensor
        return tensors

    def verify(self) -> None:
        for file in self._all():
            file.verify()

    def close(self) -> None:
        self._is_closed = True
        for file in self._files.values():
            if file is not None:
                file.close()

    def __enter__(self) -> FileSet:
        return self


def _sum(one: TransferStats, other: TransferStats) -> TransferStats:
    """Loads one after the other: times and counts add up, what they held does not."""
    largest = ("threads", "host_memory")
    added = {
        name: max(getattr(one, name), value) if name in largest else getattr(one, name) + value
        for name, value in vars(other).items()
        if name != "path"
    }
    return replace(other, **added)
