"""Sharded models: several files that form one set of tensors, by an index or by their folder.

Every file must contain the tensors that the index lists for it. A tensor is only looked up in its
own file. Other tensors in a file are not part of the set.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import (
    Callable,
    Collection,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
    Set,
)
from dataclasses import replace
from types import MappingProxyType
from typing import TypeVar

from libtz.arrays.base import Destination, Framework
from libtz.checkpoint.base import Checkpoint
from libtz.checkpoint.slices import ReadItem
from libtz.errors import Error, FormatError, OptionError
from libtz.format import Format, TensorInfo, Verified
from libtz.locations import Location
from libtz.memory import HostBuffer, check_decoded_size
from libtz.options import ReadOptions
from libtz.transfer.stats import TransferStats

__all__ = ["Sharded", "check_shard"]

logger = logging.getLogger("libtz")

T = TypeVar("T")
U = TypeVar("U")


def check_shard(where: str, found: Collection[str], expected: Set[str]) -> None:
    """Raises FormatError if a file lacks a tensor that the index lists for it. If it has others,
    they are left out, as other loaders do, and a warning names the first."""
    missing = next((tensor for tensor in expected if tensor not in found), None)
    if missing is not None:
        reason = f"tensor {missing!r} is missing, although the index lists it for this file"
        raise FormatError(f"{where}: {reason}", code="bad-set", tensor=missing)
    count = len(found) - len(expected)
    if count:
        first = next(tensor for tensor in found if tensor not in expected)
        rest = f" and {count - 1} more" if count > 1 else ""
        logger.warning(
            "%s: tensor %r%s is left out: the index does not list it for this file",
            where,
            first,
            rest,
        )


class Sharded(Checkpoint[T]):
    """Several files as one checkpoint. Each file is opened, and checked, when it is first needed;
    without an index, all are opened at once.

    Tensor names are in the order of the index. Tensors are read file by file, in the order of the
    file names. `stats` is the sum over the files.
    """

    def __init__(
        self,
        framework: Framework[T],
        location: Location,
        names: Sequence[str],
        index: dict[str, str] | None,
        open_file: Callable[[Location], Checkpoint[T]],
        options: ReadOptions,
    ) -> None:
        """Called by `libtz.open`. `location` is any file of the folder."""
        super().__init__(framework)
        self._location = location
        self._open_file = open_file
        self._options = options
        self._files: dict[str, Checkpoint[T] | None] = dict.fromkeys(names)
        self._opening = threading.Lock()
        self._is_closed = False
        self._stats = TransferStats()
        self._expected: dict[str, set[str]] | None = None
        if index is not None:
            self._index = index
            self._expected = {name: set() for name in names}
            for tensor, name in index.items():
                self._expected[name].add(tensor)
            return
        try:
            self._index = self._merged()
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
                        f"{self._shard_url(name)}: tensor {tensor!r} is also in {index[tensor]!r}",
                        code="bad-set",
                        tensor=tensor,
                    )
                index[tensor] = name
        return index

    def _shard_url(self, name: str) -> str:
        return str(self._location.sibling(name))

    def _file(self, name: str) -> Checkpoint[T]:
        with self._opening:
            if self._is_closed:
                raise OptionError(f"{self.url} is closed")
            file = self._files[name]
            if file is None:
                file = self._open_file(self._location.sibling(name))
                try:
                    self._check(name, file)
                except BaseException:
                    file.close()
                    raise
                self._files[name] = file
            return file

    def _check(self, name: str, file: Checkpoint[T]) -> None:
        """Raises FormatError if the file cannot be part of the set."""

        def broken(reason: str) -> FormatError:
            return FormatError(f"{self._shard_url(name)}: {reason}", code="bad-set")

        if file.structure():
            raise broken("it contains a nested object, which cannot be part of a set")
        formats = {other.format for other in self._files.values() if other is not None}
        if formats - {file.format}:
            raise broken(f"it is a {file.format} file in a set of another format")
        if self._expected is not None:
            check_shard(self._shard_url(name), file, self._expected[name])

    def _all(self) -> list[Checkpoint[T]]:
        return [self._file(name) for name in self._files]

    def _by_file(self, names: Iterable[str]) -> list[tuple[Checkpoint[T], list[int]]]:
        """For each file, in order, the positions in `names` of its tensors. Opens and checks the
        files."""
        groups: dict[str, list[int]] = {name: [] for name in self._files}
        for position, tensor in enumerate(names):
            groups[self._index[tensor]].append(position)
        return [(self._file(name), positions) for name, positions in groups.items() if positions]

    # ---- What is in the set ----

    @property
    def format(self) -> Format:
        """The format of the files; all have the same."""
        return self._file(next(iter(self._files))).format

    @property
    def digest(self) -> str | None:
        """The digest of the set, if it was opened with its manifest; otherwise None."""
        return self._location.set_digest

    @property
    def content_digest(self) -> str | None:
        """None. `info` has the content digest of each tensor."""
        return None

    @property
    def verified(self) -> Verified:
        return self._file(next(iter(self._files))).verified

    @property
    def metadata(self) -> Mapping[str, str]:
        """The entries on which all files agree."""
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
        """Statistics of the last load, summed over the files."""
        return self._stats

    @property
    def closed(self) -> bool:
        return self._is_closed

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._index

    def __repr__(self) -> str:
        return (
            f"<libtz.Checkpoint {self.url}: {len(self._files)} files, {len(self._index)} tensors>"
        )

    @property
    def url(self) -> str:
        return str(self._location)

    def storage_order(self) -> list[str]:
        return [
            tensor
            for name in self._files
            for tensor in self._file(name).storage_order()
            if self._index.get(tensor) == name
        ]

    def info(self, name: str) -> TensorInfo:
        file = self._index[name]
        info = self._file(file).info(name)
        if info.tied_to is not None and self._index.get(info.tied_to) != file:
            info = replace(info, tied_to=None)  # the other one is not part of the set
        return info

    # ---- Loading ----

    def read_items(
        self, items: Sequence[ReadItem], into: Destination[U], *, streamed: bool
    ) -> Generator[tuple[ReadItem, U], None, None]:
        self._stats = TransferStats()
        if not streamed and into.device is None:
            # Each file checks its own size, but in the end all of them are in memory.
            whole = [self.info(item.name) for item in items if item.region is None]
            size = sum(info.nbytes for info in whole if info.tied_to is None)
            check_decoded_size(size, self._options, str(self._location))
        for file, positions in self._by_file(item.name for item in items):
            before = self._stats
            try:
                yield from file.read_items(
                    [items[position] for position in positions], into, streamed=streamed
                )
            finally:
                self._stats = _sum(before, file.stats)

    def read_item(self, item: ReadItem, into: Destination[U]) -> U:
        file = self._file(self._index[item.name])
        try:
            return file.read_item(item, into)
        finally:
            self._stats = file.stats

    def load_into(self, buffers: Mapping[str, HostBuffer]) -> None:
        for name, buffer in buffers.items():
            size = self.info(name).nbytes
            if buffer.size != size:
                raise OptionError(f"tensor {name!r} needs a buffer of {size} bytes")
        self._stats = TransferStats()
        names = list(buffers)
        done: list[str] = []
        for file, positions in self._by_file(names):
            part = [names[position] for position in positions]
            try:
                file.load_into({name: buffers[name] for name in part})
            except Error as error:
                error.changed = (*done, *error.changed)
                raise
            done += part
            self._stats = _sum(self._stats, file.stats)

    def verify(self) -> None:
        for file in self._all():
            file.verify()

    def close(self) -> None:
        self._is_closed = True
        for file in self._files.values():
            if file is not None:
                file.close()


def _sum(one: TransferStats, other: TransferStats) -> TransferStats:
    """Statistics of two consecutive loads: times and counts add up; threads and memory do not."""
    largest = ("threads", "host_memory")
    added = {
        name: max(getattr(one, name), value) if name in largest else getattr(one, name) + value
        for name, value in vars(other).items()
        if name != "path"
    }
    return replace(other, **added)
