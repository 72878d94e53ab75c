"""Sharded models: several files that an index, or their folder, makes one set of tensors.

Every file must hold exactly what the index says: a tensor is never looked up in a file that another
file could have replaced.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from libtz._native import lib
from libtz.arrays.base import Framework
from libtz.checkpoint.file import File
from libtz.checkpoint.selection import Names, select
from libtz.checkpoint.slices import Selection
from libtz.errors import Error, FormatError, OptionError
from libtz.format import TensorInfo
from libtz.memory import HostBuffer
from libtz.sources.url import shown
from libtz.sources.whole import sibling
from libtz.transfer.stats import TransferStats

__all__ = ["FileSet", "check_shard"]


def check_shard(where: str, found: Collection[str], expected: Set[str]) -> None:
    """That a file has the tensors that its index says, and no others."""
    for tensor in found:
        if tensor not in expected:
            reason = f"it holds tensor {tensor!r}, which the index does not say"
            raise FormatError(f"{where}: {reason}", code="bad-set", tensor=tensor)
    if len(found) != len(expected):
        missing = next(tensor for tensor in expected if tensor not in found)
        reason = f"it has no tensor {missing!r}, which the index says is in it"
        raise FormatError(f"{where}: {reason}", code="bad-set", tensor=missing)


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
        open_file: Callable[[str], File],
    ) -> None:
        """Called by `libtz.open`. `location` is any file of the folder."""
        self._location = location
        self._open_file = open_file
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
                        tensor=tensor,
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
                file = self._open_file(sibling(self._location, name))
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

    def load_with(self, framework: Framework, names: Names = None) -> dict[str, Any]:
        return self._gather(names, lambda file, part: file.load_with(framework, part))

    def _gather(self, names: Names, load: Any) -> dict[str, Any]:
        wanted = select(names, self)
        tensors: dict[str, Any] = {}
        self._stats = TransferStats()
        for file, part in self._by_file(wanted):
            tensors |= load(file, part)
            self._stats = _sum(self._stats, file.stats)
        return {name: tensors[name] for name in wanted}

    def load_into(self, blocks: Mapping[str, HostBuffer]) -> None:
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
