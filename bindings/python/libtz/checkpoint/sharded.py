"""Sharded models: several files that form one set of tensors, by an index or by their folder."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from libtz.arrays.base import Destination, Framework
from libtz.checkpoint.base import Checkpoint
from libtz.checkpoint.shards import Shards
from libtz.checkpoint.slices import ReadItem
from libtz.errors import Error, OptionError
from libtz.format import Verified
from libtz.memory import HostBuffer, check_decoded_size
from libtz.options import ReadOptions
from libtz.transfer.stats import TransferStats

__all__ = ["Sharded"]

T = TypeVar("T")
U = TypeVar("U")


class Sharded(Checkpoint[T]):
    """Several files as one checkpoint. Tensors are read file by file, in the order of the file
    names. `stats` is the sum over the files."""

    def __init__(self, framework: Framework[T], shards: Shards[T], options: ReadOptions) -> None:
        """Called by `libtz.open`."""
        super().__init__(framework, shards)
        self._shards = shards
        self._options = options
        self._stats = TransferStats()

    @property
    def verified(self) -> Verified:
        return self._shards.first().verified

    @property
    def stats(self) -> TransferStats:
        return self._stats

    @property
    def closed(self) -> bool:
        return self._shards.is_closed

    def read_items(
        self, items: Sequence[ReadItem], into: Destination[U], *, streamed: bool
    ) -> Generator[tuple[ReadItem, U], None, None]:
        self._stats = TransferStats()
        if not streamed and into.device is None:
            # Each file checks its own size, but in the end all of them are in memory.
            whole = [self.info(item.name) for item in items if item.region is None]
            size = sum(info.nbytes for info in whole if info.tied_to is None)
            check_decoded_size(size, self._options, self.url)
        for file, positions in self._shards.by_file(item.name for item in items):
            before = self._stats
            try:
                yield from file.read_items(
                    [items[position] for position in positions], into, streamed=streamed
                )
            finally:
                self._stats = _sum(before, file.stats)

    def read_item(self, item: ReadItem, into: Destination[U]) -> U:
        file = self._shards.file_of(item.name)
        try:
            return file.read_item(item, into)
        finally:
            self._stats = file.stats

    def fill(self, buffers: Mapping[str, HostBuffer]) -> None:
        for name, buffer in buffers.items():
            size = self.info(name).nbytes
            if buffer.size != size:
                raise OptionError(f"tensor {name!r} needs a buffer of {size} bytes")
        self._stats = TransferStats()
        names = list(buffers)
        done: list[str] = []
        for file, positions in self._shards.by_file(names):
            part = [names[position] for position in positions]
            try:
                file.fill({name: buffers[name] for name in part})
            except Error as error:
                error.changed = (*done, *error.changed)
                raise
            done += part
            self._stats = _sum(self._stats, file.stats)

    def verify(self) -> None:
        for file in self._shards.all():
            file.verify()

    def close(self) -> None:
        self._shards.close()


def _sum(one: TransferStats, other: TransferStats) -> TransferStats:
    """Statistics of two consecutive loads: times and counts add up; threads and memory do not."""
    largest = ("threads", "host_memory")
    added = {
        name: max(getattr(one, name), value) if name in largest else getattr(one, name) + value
        for name, value in vars(other).items()
        if name != "path"
    }
    return replace(other, **added)
