"""The files of a sharded model: which exist, which tensor is in which, and whether they belong
together.

Every file must contain the tensors that the index lists for it. A tensor is only looked up in its
own file. Other tensors in a file are not part of the set.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from types import MappingProxyType
from typing import Generic, TypeVar

from libtz.checkpoint.base import Checkpoint
from libtz.checkpoint.contents import Contents
from libtz.errors import FormatError, OptionError
from libtz.format import Format, TensorInfo
from libtz.locations import Location

__all__ = ["Shards", "check_shard"]

logger = logging.getLogger("libtz")

T = TypeVar("T")


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


class Shards(Contents, Generic[T]):
    """The files of a set. Each is opened, and checked, when it is first needed; without an index,
    all are opened at once. Names are in the order of the index."""

    def __init__(
        self,
        location: Location,
        names: Sequence[str],
        index: dict[str, str] | None,
        open_file: Callable[[Location], Checkpoint[T]],
    ) -> None:
        """`location` is any file of the folder."""
        self.location = location
        self.is_closed = False
        self._open_file = open_file
        self._files: dict[str, Checkpoint[T] | None] = dict.fromkeys(names)
        self._opening = threading.Lock()
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
            for tensor in self.file(name):
                if tensor in index:
                    raise FormatError(
                        f"{self._shard_url(name)}: tensor {tensor!r} is also in {index[tensor]!r}",
                        code="bad-set",
                        tensor=tensor,
                    )
                index[tensor] = name
        return index

    def _shard_url(self, name: str) -> str:
        return str(self.location.sibling(name))

    def file(self, name: str) -> Checkpoint[T]:
        with self._opening:
            if self.is_closed:
                raise OptionError(f"{self.url} is closed")
            file = self._files[name]
            if file is None:
                file = self._open_file(self.location.sibling(name))
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

    def first(self) -> Checkpoint[T]:
        return self.file(next(iter(self._files)))

    def all(self) -> list[Checkpoint[T]]:
        return [self.file(name) for name in self._files]

    def by_file(self, names: Iterable[str]) -> list[tuple[Checkpoint[T], list[int]]]:
        """For each file, in order, the positions in `names` of its tensors. Opens and checks the
        files."""
        groups: dict[str, list[int]] = {name: [] for name in self._files}
        for position, tensor in enumerate(names):
            groups[self._index[tensor]].append(position)
        return [(self.file(name), positions) for name, positions in groups.items() if positions]

    def file_of(self, tensor: str) -> Checkpoint[T]:
        """The file that holds a tensor. Raises KeyError if there is no such tensor."""
        return self.file(self._index[tensor])

    def close(self) -> None:
        self.is_closed = True
        for file in self._files.values():
            if file is not None:
                file.close()

    # ---- Contents ----

    @property
    def url(self) -> str:
        return str(self.location)

    @property
    def format(self) -> Format:
        return self.first().format

    @property
    def digest(self) -> str | None:
        return self.location.set_digest

    @property
    def content_digest(self) -> None:
        return None

    @property
    def metadata(self) -> Mapping[str, str]:
        first, *rest = [file.metadata for file in self.all()]
        return MappingProxyType(
            {
                key: value
                for key, value in first.items()
                if all(other.get(key) == value for other in rest)
            }
        )

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._index

    def storage_order(self) -> list[str]:
        return [
            tensor
            for name in self._files
            for tensor in self.file(name).storage_order()
            if self._index.get(tensor) == name
        ]

    def info(self, name: str) -> TensorInfo:
        file = self._index[name]
        info = self.file(file).info(name)
        if info.tied_to is not None and self._index.get(info.tied_to) != file:
            info = replace(info, tied_to=None)  # the other one is not part of the set
        return info
