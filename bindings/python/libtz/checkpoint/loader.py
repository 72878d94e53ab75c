"""Loads tensors from one file: plans the reads, makes tensors of the bytes, and handles errors."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import Any, TypeVar

import numpy as np

from libtz._native import lib
from libtz.arrays.base import Destination, StreamingDevice
from libtz.checkpoint.catalog import Entry, is_valueless, memory_size
from libtz.checkpoint.slices import ReadItem, cut, thin
from libtz.checkpoint.small_reads import SmallReads
from libtz.errors import Error, OptionError
from libtz.format import dtype_name, is_known, item_size
from libtz.memory import HostBuffer, allocate
from libtz.options import ReadOptions
from libtz.sources.base import Source
from libtz.transfer.chunk_entries import fetch_chunk_entries
from libtz.transfer.items import LoadItems
from libtz.transfer.load import Load, LoadOptions
from libtz.transfer.stats import TransferStats
from libtz.transfer.verification import Verification

__all__ = ["Loader"]

U = TypeVar("U")


class _Reads:
    """The reads that entries need: one for the data of each owner, and one for each region."""

    def __init__(self, entries: Sequence[Entry], *, whole: bool = False) -> None:
        """`whole`: read the whole tensor for every region."""
        self._entries = entries
        self._numbers: list[int] = []
        self.tensors: list[lib.Tensor] = []
        self._owners: list[int] = []
        self.boxes: list[lib.Box | None] = []
        owned: dict[int, int] = {}
        for entry in entries:
            (_, region), _, owner, tensor = entry
            number = len(self.tensors)
            box = None
            if region is not None and not whole and not is_valueless(tensor):
                box = region.box
            else:
                number = owned.setdefault(owner, number)
            self._numbers.append(number)
            if number == len(self.tensors):
                self.tensors.append(tensor)
                self._owners.append(owner)
                self.boxes.append(box)

    def numbered(self) -> Iterator[tuple[int, Entry]]:
        """Each entry with the number of what it needs."""
        return zip(self._numbers, self._entries, strict=True)

    def items(self) -> LoadItems:
        boxes = None if self.boxes.count(None) == len(self.boxes) else self.boxes
        return LoadItems(self.tensors, np.array(self._owners, np.uint32), boxes)


class Loader:
    """Loads tensors from one source. An error in the middle of a load closes the source."""

    def __init__(
        self, source: Source, header: lib.Header, front: memoryview, options: ReadOptions
    ) -> None:
        """`front` holds the bytes read so far from the beginning of the file."""
        self.source = source
        self.options = options
        self._stats: Callable[[], TransferStats] = TransferStats
        self.is_closed = False
        self._header = header
        self.front = front
        self._planning = threading.Lock()  # the header changes when chunk entries are put
        self._small_reads = SmallReads(source, header, front, options, self._planning)

    @property
    def stats(self) -> TransferStats:
        """Statistics of the last load, computed when requested."""
        return self._stats()

    def read(
        self,
        entries: list[Entry],
        into: Destination[U],
        verification: Verification,
        *,
        streamed: bool,
    ) -> Generator[tuple[ReadItem, U], None, None]:
        """See `Checkpoint.read_items`."""
        _require_dtypes(entries, into)
        self._check_valueless(entries)
        has_regions = any(item.region is not None for item, _, _, _ in entries)
        is_cut = has_regions and verification.covers_tensors
        upload = None
        is_streamable = not has_regions and not verification.covers_tensors
        if is_streamable and isinstance(into.device, StreamingDevice):
            upload = into.device.upload()
        is_copied = into.device is not None and upload is None
        # Whole tensors that are cut or copied need not be in host memory all at once.
        is_one_by_one = streamed or is_copied or is_cut
        if is_one_by_one:
            # Tied tensors follow their owner.
            entries.sort(key=lambda entry: (entry.tensor.order, entry.order))
        options = LoadOptions(self.options, is_streamed=is_one_by_one, upload=upload)
        reads = _Reads(entries, whole=is_cut)
        if is_one_by_one:
            tensors = self._read_one_by_one(reads, into, options, verification)
            yield from tensors if streamed else list(tensors)
        else:
            # No list of pairs: thousands of objects that live make the garbage collector run.
            all_tensors = self._read_all(reads, into, options, verification)
            items = (entry.item for entry in entries)
            yield from zip(items, all_tensors, strict=True)

    def is_small(self, entry: Entry, into: Destination[Any]) -> bool:
        """Whether `read_small` can be used for it."""
        return into.device is None and self._small_reads.can_read(entry)

    def read_small(
        self, entry: Entry, into: Destination[U], verification: Verification
    ) -> tuple[U] | None:
        """The tensor of an entry that `is_small`; None if `read` is needed."""
        if verification.covers_tensors or verification.observe is not None:
            return None
        dtype = dtype_name(entry.tensor.dtype)
        into.framework.require(dtype, entry.item.name)
        self._require_open()
        prepared = self._small_reads.prepare(entry)
        try:
            read = self._small_reads.read(prepared, verification.level)
        except BaseException:
            self.close()
            raise
        if read is None:
            return None
        buffer, stats = read
        self._stats = stats.stats
        region = entry.item.region
        shape = _whole_shape(entry.tensor, dtype) if region is None else region.shape
        return (into.framework.make(buffer, 0, dtype, shape),)

    def _read_all(
        self, reads: _Reads, into: Destination[U], options: LoadOptions, verification: Verification
    ) -> list[U]:
        """The tensors of the entries."""
        made: dict[int, U] = {}
        tensors: list[U] = []
        with self._load(reads, options, verification) as load:
            load.wait_all()
            verification.finish()
            for number, entry in reads.numbered():
                tensor = made.get(number)
                if tensor is None:
                    tensor = made[number] = _make(load, reads, number, entry, into)
                tensors.append(tensor)
        return tensors

    def _read_one_by_one(
        self, reads: _Reads, into: Destination[U], options: LoadOptions, verification: Verification
    ) -> Generator[tuple[ReadItem, U], None, None]:
        """Entries and numbers are in file order."""
        last = len(reads.tensors) - 1
        with self._load(reads, options, verification) as load:
            if not reads.tensors:
                verification.finish()
            for number, group in itertools.groupby(reads.numbered(), key=itemgetter(0)):
                load.wait(number)
                if number == last:
                    load.wait_all()
                    verification.finish()
                made: list[tuple[ReadItem, U]] = []
                for _, entry in group:
                    is_tied = made and entry.item.region is None
                    tensor = made[0][1] if is_tied else _make(load, reads, number, entry, into)
                    made.append((entry.item, tensor))
                    del tensor
                load.release(number)
                while made:  # hold no reference while waiting for the next one
                    yield made.pop(0)

    def fill(
        self, entries: list[Entry], buffers: Mapping[str, HostBuffer], verification: Verification
    ) -> None:
        """See `Checkpoint.load_into`."""
        reads = _Reads(entries)
        existing: list[HostBuffer | None] = [None] * len(reads.tensors)
        for number, entry in reads.numbered():
            buffer, size = buffers[entry.item.name], memory_size(entry.tensor)
            if buffer.size != size or existing[number] is not None:
                raise OptionError(
                    f"tensor {entry.item.name!r} needs one buffer of {size} bytes, shared by"
                    " all tensors tied to it"
                )
            existing[number] = None if is_valueless(entry.tensor) else buffer
        options = LoadOptions(self.options, existing=existing)
        load: Load | None = None
        try:
            with self._load(reads, options, verification) as load:
                load.wait_all()
                verification.finish()
        except Error as error:
            begun = set() if load is None else load.begun()
            names = [entry.item.name for number, entry in reads.numbered() if number in begun]
            error.changed = tuple(names)
            raise
        for _, entry in reads.numbered():
            if is_valueless(entry.tensor):
                np.frombuffer(buffers[entry.item.name].view(), np.uint8)[:] = 0

    def check(self, entries: list[Entry], verification: Verification) -> None:
        """Reads and verifies tensors one at a time, and keeps nothing. `entries` are in file
        order."""
        reads = _Reads(entries)
        options = LoadOptions(self.options, is_streamed=True)
        with self._load(reads, options, verification) as load:
            for number in range(len(reads.tensors)):
                load.wait(number)
                load.release(number)
            verification.finish()

    @contextmanager
    def _load(
        self, reads: _Reads, options: LoadOptions, verification: Verification
    ) -> Iterator[Load]:
        self._require_open()
        items = reads.items()
        with self._planning:
            # np.unique imports numpy.ma at its first call, which takes 6 ms.
            owners = np.flatnonzero(np.bincount(items.indices)).astype(np.uint32)
            read = fetch_chunk_entries(self.source, self._header, owners, self.front)
            load = Load(self.source, self._header, items, verification, options)
        try:
            with load:
                yield load
        except GeneratorExit:
            raise
        except BaseException:
            self.close()
            raise
        finally:
            stats = load.stats(read)
            self._stats = lambda: stats

    def _require_open(self) -> None:
        if self.is_closed:
            raise OptionError(f"{self.source.url} is closed")

    def _check_valueless(self, entries: Sequence[Entry]) -> None:
        size = sum(memory_size(each.tensor) for each in entries if is_valueless(each.tensor))
        if size > self.options.meta_size_max:
            raise OptionError(
                f"{self.source.url}: tensors with {size} bytes in all have a shape but no values,"
                " and would load as zeros; that is more than ReadOptions.meta_size_max"
            )

    def close(self) -> None:
        self.is_closed = True
        self.source.close()


def _require_dtypes(entries: Sequence[Entry], into: Destination[Any]) -> None:
    """Raises OptionError for dtypes that the framework does not support, and FormatError for
    unknown ones. Checks each dtype once."""
    names = {tensor.dtype: item.name for item, _, _, tensor in reversed(entries)}
    for dtype, name in names.items():
        into.framework.require(dtype_name(dtype), name)


def _whole_shape(tensor: lib.Tensor, dtype: str) -> tuple[int, ...]:
    """The tensor's shape. For an unknown dtype, the shape of its bytes."""
    return tensor.shape if is_known(dtype) else (tensor.decoded_size,)


def _make(load: Load, reads: _Reads, number: int, entry: Entry, into: Destination[U]) -> U:
    """Makes the tensor of an entry whose data have arrived."""
    (_, region), _, _, described = entry
    dtype = dtype_name(described.dtype)
    if load.is_on_device and not is_valueless(described):
        uploaded: U = load.device_tensor(number)
        return uploaded
    if region is None and not described.flags:  # most tensors, hence the short way
        buffer, position = load.placed(number)
        shape = _whole_shape(described, dtype)
    else:
        buffer, position, shape = _values(load, reads, number, entry)
    tensor = into.framework.make(buffer, position, dtype, shape)
    return tensor if into.device is None else into.device.copy(tensor)


def _values(
    load: Load, reads: _Reads, number: int, entry: Entry
) -> tuple[HostBuffer | None, int, tuple[int, ...]]:
    """The data of an entry in host memory: a buffer, the position in it, and the shape."""
    region = entry.item.region
    shape = entry.tensor.shape if region is None else region.shape
    if is_valueless(entry.tensor):
        size = math.prod(shape) * item_size(dtype_name(entry.tensor.dtype))
        return allocate(size) if size else None, 0, shape  # zeros
    buffer, position = load.placed(number)
    if buffer is None or region is None:
        return buffer, position, shape
    if math.prod(shape) == 0:
        return None, 0, shape
    if reads.boxes[number] is None:  # the whole tensor was read
        data = buffer.view()[position : position + entry.tensor.decoded_size]
        return cut(data, region), 0, shape
    # Scalars are always read whole, so they share memory.
    if region.is_thinned or not region.info.shape:
        return thin(buffer, position, region), 0, shape
    return buffer, position, shape
