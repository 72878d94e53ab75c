"""Loads tensors from one file: plans the reads, makes tensors of the bytes, and handles errors."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import Any, TypeVar

import numpy as np

from libtz._native import lib
from libtz.arrays.base import Destination, StreamingDevice
from libtz.checkpoint.catalog import Entry, is_valueless, memory_size
from libtz.checkpoint.slices import ReadItem, cut, thin
from libtz.checkpoint.small_reads import is_small, read_small
from libtz.errors import Error, OptionError
from libtz.format import dtype_name, item_size
from libtz.memory import HostBuffer, allocate, check_decoded_size
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
        # Each entry with the number of its read.
        self.numbered: list[tuple[int, Entry]] = []
        self.tensors: list[lib.Tensor] = []
        self._owners: list[int] = []
        self.boxes: list[lib.Box | None] = []
        owned: dict[int, int] = {}
        for entry in entries:
            item, _, owner, tensor = entry
            number = len(self.tensors)
            is_whole = item.region is None or whole or is_valueless(tensor)
            box = None if item.region is None or is_whole else item.region.box
            if box is None:
                number = owned.setdefault(owner, number)
            self.numbered.append((number, entry))
            if number == len(self.tensors):
                self.tensors.append(tensor)
                self._owners.append(owner)
                self.boxes.append(box)

    def items(self) -> LoadItems:
        boxes = self.boxes if any(box is not None for box in self.boxes) else None
        return LoadItems(self.tensors, np.array(self._owners, np.uint32), boxes)


class Loader:
    """Loads tensors from one source. An error in the middle of a load closes the source."""

    def __init__(
        self, source: Source, header: lib.Header, front: memoryview, options: ReadOptions
    ) -> None:
        """`front` holds the bytes read so far from the beginning of the file."""
        self.source = source
        self.options = options
        self.stats = TransferStats()
        self.is_closed = False
        self._header = header
        self.front = front
        self._planning = threading.Lock()  # the header changes when chunk entries are put

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
        if len(entries) == 1 and (tensor := self._read_alone(entries[0], into, verification)):
            yield entries[0].item, tensor[0]
            return
        self._check_valueless(entries)
        has_regions = any(entry.item.region is not None for entry in entries)
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
        read = self._read_one_by_one if is_one_by_one else self._read_all
        tensors = read(reads, into, options, verification)
        yield from tensors if streamed else list(tensors)

    def _read_alone(
        self, entry: Entry, into: Destination[U], verification: Verification
    ) -> tuple[U] | None:
        """The tensor, if it is small and only its own bytes have to be read."""
        is_plain = entry.item.region is None and into.device is None
        is_whole = verification.covers_tensors or verification.observe is not None
        if not is_plain or is_whole or not is_small(entry.tensor):
            return None
        self._require_open()
        check_decoded_size(entry.tensor.decoded_size, self.options, self.source.url)
        begin, counts = time.perf_counter(), self.source.stats
        requests, retries = counts.requests, counts.retries
        try:
            with self._planning:
                owner = np.array([entry.owner], np.uint32)
                read = fetch_chunk_entries(self.source, self._header, owner, self.front)
            buffer = read_small(
                self.source, self._header, entry.owner, entry.tensor, verification.level
            )
        except BaseException:
            self.close()
            raise
        if buffer is None:
            return None
        self.stats = TransferStats(
            path="copy" if self.source.resident(0, 0) is None else "map",
            seconds=time.perf_counter() - begin,
            bytes_wanted=buffer.size,
            bytes_stored=buffer.size,
            bytes_read=buffer.size + read,
            requests=counts.requests - requests,
            retries=counts.retries - retries,
            threads=1,
        )
        dtype = dtype_name(entry.tensor.dtype)
        return (into.framework.make(buffer, 0, dtype, entry.tensor.shape),)

    def _read_all(
        self, reads: _Reads, into: Destination[U], options: LoadOptions, verification: Verification
    ) -> Generator[tuple[ReadItem, U], None, None]:
        made: dict[int, U] = {}
        with self._load(reads, options, verification) as load:
            load.wait_all()
            verification.finish()
            for number, entry in reads.numbered:
                if number not in made:
                    made[number] = _make(load, reads, number, entry, into)
                yield entry.item, made[number]

    def _read_one_by_one(
        self, reads: _Reads, into: Destination[U], options: LoadOptions, verification: Verification
    ) -> Generator[tuple[ReadItem, U], None, None]:
        """Entries and numbers are in file order."""
        last = len(reads.tensors) - 1
        with self._load(reads, options, verification) as load:
            if not reads.tensors:
                verification.finish()
            for number, group in itertools.groupby(reads.numbered, key=itemgetter(0)):
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
        for number, entry in reads.numbered:
            buffer, size = buffers[entry.item.name], memory_size(entry.tensor)
            if buffer.size != size or existing[number] is not None:
                raise OptionError(
                    f"tensor {entry.item.name!r} needs a buffer of {size} bytes, and only one for"
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
            names = [entry.item.name for number, entry in reads.numbered if number in begun]
            error.changed = tuple(names)
            raise
        for _, entry in reads.numbered:
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
            self.stats = load.stats(read)

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
    """Raises OptionError for dtypes that the framework does not support. Checks each one once."""
    names = {entry.tensor.dtype: entry.item.name for entry in reversed(entries)}
    for dtype, name in names.items():
        into.framework.require(dtype_name(dtype), name)


def _make(load: Load, reads: _Reads, number: int, entry: Entry, into: Destination[U]) -> U:
    """Makes the tensor of an entry whose data have arrived."""
    if load.is_on_device and not is_valueless(entry.tensor):
        uploaded: U = load.device_tensor(number)
        return uploaded
    if entry.item.region is None and not entry.tensor.flags:  # a shortcut for most tensors
        buffer, position = load.placed(number)
        shape = entry.tensor.shape
    else:
        buffer, position, shape = _values(load, reads, number, entry)
    tensor = into.framework.make(buffer, position, dtype_name(entry.tensor.dtype), shape)
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
