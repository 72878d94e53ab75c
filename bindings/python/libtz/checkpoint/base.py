"""The interface of every checkpoint that `libtz.open` returns: a mapping from names to tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, NoReturn, TypeVar, final

from libtz._native.lib import Node
from libtz.arrays.base import BufferFramework, Destination, DeviceLike, Framework
from libtz.checkpoint.contents import Contents
from libtz.checkpoint.selection import Names, select
from libtz.checkpoint.slices import ReadItem, Region, TensorSlice
from libtz.errors import OptionError
from libtz.fields import require_type
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

    `T` is the type of the tensors: `libtz.torch.open` returns a `Checkpoint[torch.Tensor]`,
    `libtz.numpy.open` one of NumPy arrays. `libtz.open` uses PyTorch if it is installed.

    Use it as a context manager, or call `close`. Several threads may load at once. An error in the
    middle of a load closes the checkpoint. After a fork, parent and child may both use it, provided
    that no load was running.

    Every method can raise SourceError (the source cannot be read, or has changed),
    IntegrityError (the bytes are not the ones that were written or pinned), FormatError (the file
    is malformed) and OptionError (the request cannot be satisfied).
    """

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __init__(self, framework: Framework[T], contents: Contents) -> None:
        """Called by `libtz.open`."""
        self._framework = framework
        self._in_host_memory = Destination(framework)
        self._contents = contents

    # ---- What it holds ----

    @property
    def contents(self) -> Contents:
        """The contents. Raises OptionError while it is not known whether they are the pinned
        ones."""
        return self._contents

    @final
    def __iter__(self) -> Iterator[str]:
        return iter(self.contents)

    @final
    def __len__(self) -> int:
        return len(self.contents)

    @final
    def __contains__(self, name: object) -> bool:
        return name in self.contents

    @final
    def __repr__(self) -> str:
        return f"<libtz.Checkpoint {self.url}: {len(self._contents)} tensors>"

    @property
    @final
    def url(self) -> str:
        """The path or URL it was opened from, as messages show it: without secrets."""
        return self._contents.url

    @property
    @final
    def format(self) -> Format:
        """The format of the file, or of all the files of a set."""
        return self._contents.format

    @property
    @final
    def metadata(self) -> Mapping[str, str]:
        """The metadata: strings by name. For a set of files, the entries on which all agree."""
        return self.contents.metadata

    @property
    @final
    def digest(self) -> str | None:
        """The file digest, "blake3:…", to pin a .tz file with. None in other formats. For several
        files, the digest of the set, if it was opened by its manifest."""
        return self.contents.digest

    @property
    @final
    def content_digest(self) -> str | None:
        """BLAKE3 over names, dtypes, shapes and content. It does not depend on the compression.
        None in formats that do not store one, and for sets; `info` has one for each tensor."""
        return self.contents.content_digest

    @final
    def info(self, name: str) -> TensorInfo:
        """Describes a tensor without reading it. Raises KeyError if there is none of that name."""
        return self.contents.info(name)

    @final
    def storage_order(self) -> list[str]:
        """All names in the order of their data in the file, or in the files of a set. In a file,
        that is the writer's order; the index of a set may have another."""
        return self.contents.storage_order()

    @final
    def structure(self) -> list[Node]:
        """The nodes of a nested object in preorder, with tensors by name. Empty for a flat set of
        tensors. `libtz.torch.load` builds the object from them."""
        return self.contents.structure()

    # ---- What each kind of checkpoint supplies ----

    @property
    @abstractmethod
    def verified(self) -> Verified:
        """What loaded tensors are checked against: a digest ("pinned"), a "checksum", or "none"."""

    @property
    @abstractmethod
    def stats(self) -> TransferStats:
        """Statistics of the last load."""

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Whether the checkpoint was closed, by the caller or after an error."""

    @abstractmethod
    def read_items(
        self, items: Sequence[ReadItem], into: Destination[U], *, streamed: bool
    ) -> Generator[tuple[ReadItem, U], None, None]:
        """Reads tensors and parts of tensors. The loading methods below are based on it.

        Yields each item with its tensor. Tied tensors read whole are one object. If `streamed`,
        they are yielded in file order, each as soon as it is complete and checked, with at most
        `host_memory_max` bytes read ahead. Otherwise, nothing is yielded before everything has been
        checked. Raises KeyError for a name that does not exist.
        """

    def read_item(self, item: ReadItem, into: Destination[U]) -> U:
        """Reads one tensor or part of a tensor. Raises the errors of `read_items`."""
        ((_, tensor),) = self.read_items([item], into, streamed=False)
        return tensor

    @abstractmethod
    def fill(self, buffers: Mapping[str, HostBuffer]) -> None:
        """What `load_into` does, after it has checked the types."""

    @abstractmethod
    def verify(self) -> None:
        """Reads everything once, without loading it, and checks the checksums, the content of every
        tensor, and that the file holds nothing else. Raises IntegrityError or FormatError if
        something is wrong, and OptionError for formats without checksums, unless a digest pins the
        file."""

    @abstractmethod
    def close(self) -> None:
        """Closes the source. Loads in other threads fail; tensors stay valid. Idempotent."""

    # ---- Loading ----

    @final
    def __getitem__(self, name: str) -> T:
        """Loads one tensor to host memory. Raises KeyError if there is none of that name, and the
        errors of the class."""
        return self.read_item(ReadItem(name), self._in_host_memory)

    @final
    def load(self, names: Names = None, device: DeviceLike = "cpu") -> dict[str, T]:
        """Loads tensors, and returns them by name. `names` is a list of names, in the order of the
        result; or a predicate on names, such as `libtz.prefix("encoder.")`; or None for all. With
        the last two, the result has the writer's order. `device` is a PyTorch device, such as
        "cuda:0".

        Tied tensors are one object under all their names. Nothing is returned before everything
        has been checked. Raises KeyError for a name that does not exist, and the errors of the
        class.
        """
        into = self._destination(device)
        wanted = self._select(names)
        items = list(map(ReadItem, wanted))
        loaded = {item.name: each for item, each in self.read_items(items, into, streamed=False)}
        return {name: loaded[name] for name in wanted}

    @final
    def load_into(self, buffers: Mapping[str, HostBuffer]) -> None:
        """Loads tensors into memory that the caller owns, which must have exactly their size. For
        tied tensors, pass one buffer, under any of their names.

        Raises KeyError for a name that does not exist. After an error, the contents of the tensors
        in its `changed` are undefined.
        """
        require_type(buffers, "buffers", Mapping)
        for name, buffer in buffers.items():
            require_type(buffer, f"the buffer of tensor {name!r}", HostBuffer)
        self.fill(buffers)

    @final
    def iter_tensors(
        self, names: Names = None, device: DeviceLike = "cpu"
    ) -> Iterator[tuple[str, T]]:
        """Yields names and tensors one by one, in file order. `names` and `device` as in `load`.

        Meanwhile, the next tensors are read ahead, into at most `host_memory_max` bytes; a larger
        tensor is read when its turn comes. If you leave the loop early, the checkpoint stays open,
        unless the server stalls for five seconds. Raises the errors of `load`.
        """
        return self._iterate(names, self._destination(device))

    @final
    def iter_buffers(self, names: Names = None) -> Iterator[tuple[str, memoryview]]:
        """As `iter_tensors`, but yields the bytes of each tensor, row-major and little-endian. They
        own their memory. Works for dtypes that no framework supports. Raises the errors of
        `load`."""
        return self._iterate(names, Destination(BufferFramework()))

    @final
    def get_slice(self, name: str, device: DeviceLike = "cpu") -> TensorSlice[T]:
        """A tensor that is read by indexing, as in PyTorch: `f.get_slice(name)[:, 128:256]` reads
        only the chunks that it needs. With a device, the slice is assembled in host memory first.
        Raises KeyError if there is no tensor of that name."""
        into = self._destination(device)
        return TensorSlice(
            self.info(name), lambda region: self.read_item(ReadItem(name, region), into)
        )

    @final
    def load_slices(self, slices: Iterable[tuple[str, Any]], device: DeviceLike = "cpu") -> list[T]:
        """The same as `[f.get_slice(name, device)[index] for name, index in slices]`, but in one
        pass: every chunk is read once, in file order, however many slices need it. With a device,
        all slices are assembled in host memory before the first is copied, because parts of rows
        are too small to be copied one by one. Raises KeyError, IndexError, and the errors of the
        class."""
        into = self._destination(device)
        require_type(slices, "slices", Iterable)
        pairs = list(slices)
        if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
            raise OptionError("slices must be pairs of a tensor's name and an index")
        regions = [Region.of(self.info(name), index) for name, index in pairs]
        items = [ReadItem(region.info.name, region) for region in regions]
        loaded = {id(item): each for item, each in self.read_items(items, into, streamed=False)}
        return [loaded[id(item)] for item in items]

    def _select(self, names: Names) -> list[str]:
        if names is None:
            self._contents.prepare()
        return select(names, self._contents)

    def _destination(self, device: DeviceLike) -> Destination[T]:
        found = self._framework.device(device)
        return self._in_host_memory if found is None else Destination(self._framework, found)

    def _iterate(self, names: Names, into: Destination[U]) -> Iterator[tuple[str, U]]:
        items = list(map(ReadItem, self._select(names)))
        with closing(self.read_items(items, into, streamed=True)) as loaded:
            for item, tensor in loaded:
                yield item.name, tensor
                del tensor  # before waiting for the next one

    # ---- The end ----

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} cannot be pickled or copied, because it holds an open source; open the"
            " checkpoint again in the other process"
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
