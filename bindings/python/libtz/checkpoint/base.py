"""The interface of everything that `libtz.open` opens: a mapping from names to tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, NoReturn, TypeVar, final

from libtz._native.lib import Node
from libtz.arrays.base import BufferFramework, Destination, Framework
from libtz.checkpoint.selection import Names, select
from libtz.checkpoint.slices import ReadItem, Region, TensorSlice
from libtz.format import Format, TensorInfo, Verified
from libtz.memory import HostBuffer
from libtz.transfer.stats import TransferStats

__all__ = ["Checkpoint"]

T = TypeVar("T")
U = TypeVar("U")
Self = TypeVar("Self", bound="Checkpoint[Any]")


class Checkpoint(Mapping[str, T], ABC):
    """An open checkpoint: a mapping from names to tensors, in the writer's order. Each lookup reads
    from the source, and every tensor owns its memory.

    `T` is the type of the tensors: `libtz.torch.open` gives a `Checkpoint[torch.Tensor]`,
    `libtz.numpy.open` one of NumPy arrays, and `libtz.open` takes PyTorch where it is installed.

    Use it as a context manager, or call `close`. Any thread may load, and several may at once. An
    error in the middle of a load closes the checkpoint. After a fork, parent and child may both use
    it, provided that no load was running.

    Every loading method can raise SourceError (the source cannot be read, or has changed),
    IntegrityError (the bytes are not those that were written, or not those that are pinned),
    FormatError (the file is malformed) and OptionError (what was asked for cannot be done).
    """

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __init__(self, framework: Framework[T]) -> None:
        """Called by `libtz.open`."""
        self._framework = framework

    # ---- What a kind of checkpoint supplies ----

    @property
    @abstractmethod
    def format(self) -> Format:
        """The format of the file, or of all the files of a set."""

    @property
    @abstractmethod
    def metadata(self) -> Mapping[str, str]:
        """The writer's notes. Of a set of files: what all of them agree on."""

    @property
    @abstractmethod
    def digest(self) -> str | None:
        """The file digest, "blake3:…", by which a .tz file can be pinned; None in other formats. Of
        several files, the digest of the set, if it was opened by its manifest."""

    @property
    @abstractmethod
    def content_digest(self) -> str | None:
        """BLAKE3 over names, types, shapes and content: the same however the file is compressed.
        None in formats that do not store one."""

    @property
    @abstractmethod
    def verified(self) -> Verified:
        """What loaded tensors are checked against: a "pinned" digest, a "checksum", or "none"."""

    @property
    @abstractmethod
    def stats(self) -> TransferStats:
        """What the last load did."""

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Whether `close` was called, by the caller or after an error."""

    @abstractmethod
    def __iter__(self) -> Iterator[str]: ...

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __contains__(self, name: object) -> bool: ...

    @abstractmethod
    def info(self, name: str) -> TensorInfo:
        """What is stored under a name, without reading the tensor. KeyError if there is none."""

    def storage_order(self) -> list[str]:
        """All names in the order in which their data lie in the file, or in the files of a set. In
        a file that is the writer's order; the index of a set may have another."""
        return list(self)

    def structure(self) -> list[Node]:
        """The nodes of a nested object in preorder, with tensors by name; empty for a flat set of
        tensors. `libtz.torch.load` puts the object together."""
        return []

    @abstractmethod
    def read_items(
        self, items: Sequence[ReadItem], into: Destination[U], *, streamed: bool
    ) -> Generator[tuple[ReadItem, U], None, None]:
        """Reads tensors and parts of tensors; the loading methods below are written in terms of it.

        Yields each item with its tensor. Tied tensors read whole are one object. If `streamed`,
        they come in file order, each as soon as it is complete and checked, with at most
        `host_memory_max` bytes read ahead. Otherwise nothing comes before everything was checked.
        KeyError for a name that is not there.
        """

    @abstractmethod
    def load_into(self, buffers: Mapping[str, HostBuffer]) -> None:
        """Loads tensors into memory of the caller, which must have exactly their size. Of tensors
        that are tied to each other, ask for one.

        After an error, the contents of the tensors in its `changed` are undefined.
        """

    @abstractmethod
    def verify(self) -> None:
        """Reads everything once, without loading it, and raises what is wrong with it: checksums,
        the content of every tensor, and whether anything else is in a file. OptionError for
        formats that have no checksums, unless a digest pins the file."""

    @abstractmethod
    def close(self) -> None:
        """Ends loads of other threads with an error. Tensors stay valid. Idempotent."""

    # ---- Loading ----

    @final
    def __getitem__(self, name: str) -> T:
        return self.load([name])[name]

    @final
    def load(self, names: Names = None, device: Any = "cpu") -> dict[str, T]:
        """Tensors by name. `names` lists the ones to load, and gives their order; or it is a
        function of a name that selects, such as `libtz.prefix("encoder.")`; None loads all. The
        last two keep the writer's order. `device` is what PyTorch takes as one.

        Tied tensors come as one object under all their names. Nothing is returned before everything
        was checked.
        """
        into = self._destination(device)
        wanted = self._select(names)
        items = list(map(ReadItem, wanted))
        loaded = {item.name: each for item, each in self.read_items(items, into, streamed=False)}
        return {name: loaded[name] for name in wanted}

    @final
    def iter_tensors(self, names: Names = None, device: Any = "cpu") -> Iterator[tuple[str, T]]:
        """Name and tensor, one by one in file order. `names` and `device` as in `load`.

        The next ones are read meanwhile, in at most `host_memory_max` bytes beyond those that were
        handed out; a larger tensor is read when its turn comes. You may leave before the end and go
        on with the checkpoint, unless the server has stalled: it is closed after five seconds.
        """
        return self._iterate(names, self._destination(device))

    @final
    def iter_buffers(self, names: Names = None) -> Iterator[tuple[str, memoryview]]:
        """As `iter_tensors`, with the bytes of each tensor, row-major and little-endian. Works for
        types that no library has."""
        return self._iterate(names, Destination(BufferFramework()))

    @final
    def get_slice(self, name: str, device: Any = "cpu") -> TensorSlice[T]:
        """A tensor to be indexed as one of PyTorch: `f.get_slice(name)[:, 128:256]` reads only the
        chunks that it needs. With a device, the part is assembled in host memory first."""
        into = self._destination(device)
        return TensorSlice(self.info(name), lambda region: self._load_regions([region], into)[0])

    @final
    def load_slices(self, slices: Iterable[tuple[str, Any]], device: Any = "cpu") -> list[T]:
        """As `[f.get_slice(name, device)[index] for name, index in slices]`, in one pass: every
        chunk is read once, in file order, however many slices need it. With a device, all are
        assembled in host memory before the first is copied: parts of rows are too small to be
        copied one by one."""
        into = self._destination(device)
        regions = [Region.of(self.info(name), index) for name, index in slices]
        return self._load_regions(regions, into)

    def _select(self, names: Names) -> list[str]:
        return select(names, self)

    def _destination(self, device: Any) -> Destination[T]:
        return Destination(self._framework, self._framework.device(device))

    def _iterate(self, names: Names, into: Destination[U]) -> Iterator[tuple[str, U]]:
        items = list(map(ReadItem, self._select(names)))
        with closing(self.read_items(items, into, streamed=True)) as loaded:
            for item, tensor in loaded:
                yield item.name, tensor
                del tensor  # before the next one is waited for

    def _load_regions(self, regions: Sequence[Region], into: Destination[T]) -> list[T]:
        items = [ReadItem(region.info.name, region) for region in regions]
        loaded = {id(item): each for item, each in self.read_items(items, into, streamed=False)}
        return [loaded[id(item)] for item in items]

    # ---- The end ----

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} cannot be pickled or copied, since it holds an open source; open it anew in"
            " the other process"
        )

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
