"""One load, from a list of items to memory that holds them. Connects plan, target and engine."""

from __future__ import annotations

import copy
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import numpy as np

from libtz._native import lib
from libtz.errors import OptionError
from libtz.format import dtype_name, item_size
from libtz.memory import HostBuffer, MemoryBudget, check_decoded_size
from libtz.options import ReadOptions
from libtz.sources.base import INLINE_SIZE_MAX, Profile, Source
from libtz.transfer.engine import SCRATCH_SIZE_MAX, EngineOptions, Transfer
from libtz.transfer.host import HostTarget, resident_buffers, staging_buffer
from libtz.transfer.items import LoadItems
from libtz.transfer.progress import Progress
from libtz.transfer.schedule import Schedule
from libtz.transfer.staging import SlotRing
from libtz.transfer.stats import TransferStats
from libtz.transfer.target import StagingBuffer, Target
from libtz.transfer.upload import DeviceTarget, Upload
from libtz.transfer.verification import Verification

__all__ = ["Load", "LoadOptions"]

KIB = 1024
MIB = 1024 * KIB

# Tensors up to this size share allocations of about a megabyte, which wastes less memory on pages
# and keeps requests and segments few.
SLAB_TENSOR_MAX = 64 * KIB
SLAB_SIZE_MAX = MIB

# At 16 MiB, latency is negligible; in smaller files requests are smaller, so all threads have some.
REQUEST_SIZE = 16 * MIB
REQUEST_SIZE_MIN = MIB
REQUESTS_PER_THREAD = 4


@dataclass(frozen=True)
class LoadOptions:
    """How to load."""

    read: ReadOptions
    is_streamed: bool = False  # tensors are taken one by one, from bounded memory
    upload: Upload | None = None  # to a device; None: host memory
    # Memory for the items, in their order; None is allocated.
    existing: Sequence[HostBuffer | None] | None = None


class Load:
    """A context manager, for one thread. After `wait` or `wait_all`, `placed` returns where an item
    is; `release` says that the caller has taken it."""

    def __init__(
        self,
        source: Source,
        header: lib.Header,
        items: LoadItems,
        verification: Verification,
        options: LoadOptions,
    ) -> None:
        self._begin = time.perf_counter()
        self._source = source
        self._items = items
        self._verification = verification
        self._options = options
        self.is_on_device = options.upload is not None
        self._before = copy.copy(source.stats)
        self._tensors = [*items.tensors, *verification.companions(items)]
        begins = np.array([tensor.data_offset for tensor in self._tensors], np.int64)
        sizes = np.array([tensor.stored_size for tensor in self._tensors], np.int64)
        ends = begins + sizes
        span = (int(begins.min()), int(ends.max())) if len(items) else (0, 0)
        self._bytes_stored = int(sizes.sum())
        profile = self._profile(span)
        self._resident = self._resident_memory(span)
        budget = MemoryBudget.split(options.read, is_streamed=options.is_streamed)
        plan = self._plan(header, profile.threads, budget.staging)
        self._schedule = schedule = Schedule(plan, begins, ends, len(items))
        slot_size = plan.info.staging_size_max
        slots = max(1, budget.staging // slot_size) if slot_size else 0
        self._slot_size = slot_size
        make_slot = options.upload.slot if options.upload else staging_buffer
        self._ring: SlotRing[StagingBuffer] = SlotRing(lambda: make_slot(slot_size), slots)
        resident = self._resident_buffers(schedule, span[0])
        if options.upload is None or options.read.decoded_size_max is not None:
            _check_size(schedule, options, resident, source.url)
        self.target = self._make_target(schedule, resident)
        verification.begin(schedule, self.target)
        engine_options = EngineOptions(
            threads=min(profile.threads, slots or profile.threads),
            threads_max=min(profile.threads_max, slots or profile.threads_max),
            verify=verification.level,
            piece_size=profile.piece_size,
            window=budget.window if options.is_streamed else None,
            observe=verification.observe,
            arrived=verification.arrived,
        )
        progress = Progress(plan.info.bytes_read, source.url, options.read.progress)
        self._transfer = Transfer(source, schedule, self.target, engine_options, progress)
        # Two signals in a row can end an iteration without leaving the context.
        self._abandon = weakref.finalize(self, self._transfer.abandon)
        self._abandon.atexit = False
        self._index(schedule)

    def _index(self, schedule: Schedule) -> None:
        """Makes lists of the values that are looked up per item."""
        items, companions = schedule.items, schedule.companions
        has_companions = len(companions.end) > 0
        ends = np.maximum(items.end, companions.end) if has_companions else items.end
        self._ends: list[int] = ends.tolist()
        self._allocations: list[int] = items.allocation.tolist()
        self._companion_allocations: list[int] = companions.allocation.tolist()
        self._positions: list[int] = items.position.tolist()
        used = schedule.all.allocation[schedule.all.allocation >= 0]
        # How many items and companions an allocation still holds for the caller.
        self._uses = np.bincount(used, minlength=len(schedule.allocation_sizes))

    def _profile(self, span: tuple[int, int]) -> Profile:
        """How to read what is stored in this span of the source."""
        profile = self._source.profile(*span, self._options.read)
        is_small = self._bytes_stored <= INLINE_SIZE_MAX and not profile.ramps
        if self._verification.observe is not None or is_small:
            return replace(profile, threads=1, threads_max=1)
        return profile

    def _resident_memory(self, span: tuple[int, int]) -> HostBuffer | None:
        """The span as memory that whole tensors can be views of, if the source has it."""
        has_destination = self._options.upload is not None or self._options.existing is not None
        if has_destination or self._verification.rewrites or self._items.boxes is not None:
            return None
        return self._source.resident(span[0], span[1] - span[0])

    def _plan(self, header: lib.Header, threads: int, budget: int) -> lib.Plan:
        """For the items and, behind them, their companions."""
        options, items = self._options, self._items
        companion_count = len(self._tensors) - len(items)
        indices, boxes, flags = items.indices, items.boxes, None
        if companion_count:
            indices = np.concatenate([indices, indices])
            boxes = None if boxes is None else [*boxes, *[None] * companion_count]
            both = np.array([0, lib.ITEM_RECORD], np.uint32)
            flags = np.repeat(both, [len(items), companion_count])
        # Small tensors may share memory that the load makes.
        has_memory = self._resident is not None or options.existing is not None
        share = max(REQUEST_SIZE_MIN, self._bytes_stored // (threads * REQUESTS_PER_THREAD))
        size = min(share, REQUEST_SIZE, options.read.request_size_max, budget // threads)
        while True:
            plan = lib.Plan(
                header,
                indices,
                boxes,
                item_flags=flags,
                flags=lib.PLAN_STAGED if options.upload else 0,
                request_size_max=size,
                slab_size_max=0 if has_memory else SLAB_SIZE_MAX,
                slab_tensor_max=0 if has_memory else SLAB_TENSOR_MAX,
            )
            if plan.info.staging_size_max <= budget:
                return plan
            if size == 1:
                raise OptionError(
                    f"{header.label}: ReadOptions.host_memory_max is too small for this file's"
                    f" chunks: one chunk needs {plan.info.staging_size_max} bytes of staging"
                    f" memory, and only {budget} are available"
                )
            size = 1  # a request for each chunk

    def _resident_buffers(self, schedule: Schedule, begin: int) -> dict[int, HostBuffer]:
        """By allocation. `begin`: where the resident memory begins in the source."""
        if self._resident is None:
            return {}
        offsets = [tensor.data_offset - begin for tensor in self._tensors]
        item_sizes = [item_size(dtype_name(tensor.dtype)) for tensor in self._tensors]
        return resident_buffers(self._resident, schedule, offsets, item_sizes)

    def _make_target(self, schedule: Schedule, resident: dict[int, HostBuffer]) -> Target:
        options = self._options
        if options.upload is not None:
            return DeviceTarget(schedule, self._ring, options.upload, self._tensors)
        existing = resident
        if options.existing is not None:
            allocations = schedule.items.allocation.tolist()
            for allocation, buffer in zip(allocations, options.existing, strict=True):
                if buffer is not None and allocation >= 0:
                    existing[allocation] = buffer
        return HostTarget(schedule, self._ring, existing)

    def __enter__(self) -> Load:
        try:
            self._transfer.__enter__()
        except BaseException as error:  # Ctrl-C, with threads running
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._transfer.__exit__(error_type, error, traceback)
        finally:
            self._abandon.detach()

    def wait_all(self) -> None:
        self._transfer.wait(self._schedule.request_count)
        self._source.check_unchanged()

    def wait(self, item: int) -> None:
        self._transfer.wait(self._ends[item])
        self._source.check_unchanged()
        self.target.publish()

    def placed(self, item: int) -> tuple[HostBuffer | None, int]:
        """In host memory: the buffer that holds the item, None for an empty one, and its position
        in the buffer."""
        allocation = self._allocations[item]
        if allocation < 0:
            return None, 0
        return self.target.buffer(allocation), self._positions[item]

    def device_tensor(self, item: int) -> Any:
        """After `wait`, copies that are still under way precede what the caller's stream does with
        it; after `wait_all`, they are over when the load is."""
        return self.target.tensor(item)

    def release(self, item: int) -> None:
        self._release(self._allocations[item])
        if self._companion_allocations:
            self._release(self._companion_allocations[item])

    def _release(self, allocation: int) -> None:
        if allocation < 0:
            return
        self._uses[allocation] -= 1
        if self._uses[allocation] == 0:
            self.target.forget(allocation)
            self._transfer.release(int(self._schedule.allocation_sizes[allocation]))

    def begun(self) -> set[int]:
        """When the load is over: the items whose memory may have been written to."""
        begun = set(self.target.begun_allocations)
        return {item for item, each in enumerate(self._allocations) if each in begun}

    def stats(self, entries_read: int) -> TransferStats:
        """Statistics so far. `entries_read`: bytes of chunk entries that were read before."""
        times = self._transfer.times
        after = self._source.stats
        before = self._before
        info = self._schedule.plan.info
        threads = self._transfer.thread_count
        return TransferStats(
            path=self._path(after.bytes_direct - before.bytes_direct),
            seconds=time.perf_counter() - self._begin,
            seconds_receive=times.receive,
            seconds_process=times.process,
            seconds_upload=times.upload,
            bytes_wanted=info.bytes_wanted,
            bytes_stored=self._bytes_stored,
            bytes_read=times.bytes_read + entries_read,
            bytes_direct=after.bytes_direct - before.bytes_direct,
            requests=after.requests - before.requests,
            retries=after.retries - before.retries,
            restarts=after.restarts - before.restarts,
            throttled=after.throttled - before.throttled,
            connections=after.connections - before.connections,
            threads=threads,
            host_memory=self._ring.made * self._slot_size
            + threads * min(info.gap_size_max, SCRATCH_SIZE_MAX)
            + after.memory,
        )

    def _path(self, bytes_direct: int) -> str:
        if self._options.upload is not None:
            return self._options.upload.path
        if self._resident is not None:
            return "map"
        return "direct" if 2 * bytes_direct > self._transfer.times.bytes_read else "copy"


def _check_size(
    schedule: Schedule, options: LoadOptions, resident: dict[int, HostBuffer], label: str
) -> None:
    """Checks the size of the load, or of one tensor of an iteration, before allocating memory."""
    sizes = schedule.all.size
    if resident:
        sizes = sizes[~np.isin(schedule.all.allocation, list(resident))]
    if len(sizes):
        size = sizes.max() if options.is_streamed else sizes.sum()
        check_decoded_size(int(size), options.read, label)
