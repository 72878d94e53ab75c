"""One load, from a list of wants to memory that holds them. Connects plan, target and engine."""

from __future__ import annotations

import copy
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libtz._native import lib
from libtz.errors import OptionError
from libtz.format import dtype_name, item_size
from libtz.memory import HostBuffer, MemoryBudget, check_decoded_size
from libtz.options import ReadOptions
from libtz.sources.base import INLINE_SIZE_MAX, Profile, Source
from libtz.transfer.engine import SCRATCH_SIZE_MAX, Settings, Transfer
from libtz.transfer.host import HostTarget, resident_buffers, staging_buffer
from libtz.transfer.progress import Progress
from libtz.transfer.records import RecordCheck
from libtz.transfer.schedule import Schedule
from libtz.transfer.staging import SlotRing
from libtz.transfer.stats import TransferStats
from libtz.transfer.target import StagingBuffer, Target
from libtz.transfer.upload import DeviceTarget, Upload

__all__ = ["Load", "Policy", "Wants"]

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
class Wants:
    """Tensors to load, never tied ones: only owners. With boxes, only parts of them are loaded, and
    the same tensor may occur several times.

    With `with_records`, the second half are the record headers of the first, in the same order.
    """

    tensors: Sequence[lib.Tensor]
    indices: NDArray[np.uint32]
    boxes: Sequence[lib.Box | None] | None = None
    with_records: bool = False

    def __len__(self) -> int:
        return len(self.tensors)


@dataclass(frozen=True)
class Policy:
    """How to load."""

    options: ReadOptions
    verify: int  # lib.VERIFY_*
    is_streamed: bool = False  # tensors are taken one by one, from bounded memory
    observe: Callable[[memoryview], None] | None = None  # gets all bytes in file order
    upload: Upload | None = None  # to a device; None: host memory
    # Memory for the first wants, in their order; the others, and None, are allocated.
    existing: Sequence[HostBuffer | None] | None = None
    # For .tensors files: checks tensors by their record headers, which are among the wants.
    check: RecordCheck | None = None


class Load:
    """A context manager, for one thread. After `wait` or `wait_all`, `placed` returns where a want
    is; `release` says that the caller has taken it."""

    def __init__(self, source: Source, header: lib.Header, wants: Wants, policy: Policy) -> None:
        self._begin = time.perf_counter()
        self._source = source
        self._wants = wants
        self._policy = policy
        self.check = policy.check
        self._before = copy.copy(source.stats)
        begins = np.array([tensor.data_offset for tensor in wants.tensors], np.int64)
        sizes = np.array([tensor.stored_size for tensor in wants.tensors], np.int64)
        ends = begins + sizes
        span = (int(begins.min()), int(ends.max())) if len(wants) else (0, 0)
        self._bytes_stored = int(sizes.sum())
        profile = _profile(source, span, self._bytes_stored, policy)
        self._resident = _resident(source, span, wants, policy)
        budget = MemoryBudget.split(policy.options, is_streamed=policy.is_streamed)
        has_memory = self._resident is not None or policy.existing is not None
        plan = _plan(header, wants, policy, profile.threads, budget.staging, not has_memory)
        self._schedule = schedule = Schedule(plan, begins, ends)
        slot_size = plan.info.staging_size_max
        slots = max(1, budget.staging // slot_size) if slot_size else 0
        self._slot_size = slot_size
        make_slot = policy.upload.slot if policy.upload else staging_buffer
        self._ring: SlotRing[StagingBuffer] = SlotRing(lambda: make_slot(slot_size), slots)
        resident = self._resident_buffers(schedule, span[0])
        if policy.upload is None or policy.options.decoded_size_max is not None:
            _check_size(schedule, policy, resident, source.url)
        self.target = self._make_target(schedule, resident)
        if policy.check is not None:
            policy.check.begin(schedule, self.target, plan.placements)
        settings = Settings(
            threads=min(profile.threads, slots or profile.threads),
            threads_max=min(profile.threads_max, slots or profile.threads_max),
            verify=policy.verify,
            piece_size=profile.piece_size,
            window=budget.window if policy.is_streamed else None,
            observe=policy.observe,
            arrived=None if policy.check is None else policy.check.arrived,
        )
        progress = Progress(plan.info.bytes_read, source.url, policy.options.progress)
        self._transfer = Transfer(source, schedule, self.target, settings, progress)
        # Two signals in a row can end an iteration without leaving the context.
        self._abandon = weakref.finalize(self, self._transfer.abandon)
        self._abandon.atexit = False
        # Lists, since these are read one element at a time.
        self._unit_of_want: list[int] = schedule.unit_of_want.tolist()
        self._positions: list[int] = plan.placements["position"].tolist()
        self._wants_of_unit = np.bincount(
            schedule.unit_of_want[schedule.unit_of_want >= 0], minlength=len(schedule.unit_sizes)
        )

    def _resident_buffers(self, schedule: Schedule, begin: int) -> dict[int, HostBuffer]:
        """By unit. `begin`: the offset of the resident memory in the source."""
        if self._resident is None:
            return {}
        offsets = [tensor.data_offset - begin for tensor in self._wants.tensors]
        item_sizes = [item_size(dtype_name(tensor.dtype)) for tensor in self._wants.tensors]
        return resident_buffers(self._resident, schedule, offsets, item_sizes)

    def _make_target(self, schedule: Schedule, resident: dict[int, HostBuffer]) -> Target:
        policy, wants = self._policy, self._wants
        if policy.upload is not None:
            return DeviceTarget(schedule, self._ring, policy.upload, wants.tensors)
        existing = resident
        if policy.existing is not None:
            for want, block in enumerate(policy.existing):
                unit = int(schedule.unit_of_want[want])
                if block is not None and unit >= 0:
                    existing[unit] = block
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
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._transfer.__exit__(kind, error, traceback)
        finally:
            self._abandon.detach()

    def wait_all(self) -> None:
        self._transfer.wait(self._schedule.request_count)
        self._source.check_unchanged()

    def wait(self, want: int) -> None:
        end = int(self._schedule.want_end[want])
        if self._wants.with_records:
            # An empty tensor has a record too, and nothing else waits for it.
            end = max(end, int(self._schedule.want_end[want + len(self._wants) // 2]))
        self._transfer.wait(end)
        self._source.check_unchanged()
        self.target.publish()

    def placed(self, want: int) -> tuple[HostBuffer | None, int]:
        """In host memory: the want's buffer, None for an empty want, and its position there."""
        unit = self._unit_of_want[want]
        if unit < 0:
            return None, 0
        return self.target.buffer(unit), self._positions[want]

    @property
    def is_on_device(self) -> bool:
        return self._policy.upload is not None

    def device_tensor(self, want: int) -> Any:
        """After `wait`, copies may still be running; the caller's stream waits for them. After
        `wait_all`, they are finished when the load is left."""
        return self.target.tensor(want)

    def release(self, want: int) -> None:
        self._release(want)
        if self._wants.with_records:
            self._release(want + len(self._wants) // 2)

    def _release(self, want: int) -> None:
        unit = self._unit_of_want[want]
        if unit < 0:
            return
        self._wants_of_unit[unit] -= 1
        if self._wants_of_unit[unit] == 0:
            self.target.forget(unit)
            self._transfer.release(int(self._schedule.unit_sizes[unit]))

    def begun(self) -> set[int]:
        """After the load: the wants whose memory may have been written to."""
        units = set(self.target.begun_units)
        return {want for want, unit in enumerate(self._unit_of_want) if unit in units}

    def stats(self, runs_read: int) -> TransferStats:
        """Statistics so far. `runs_read`: bytes of chunk entries that were read before."""
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
            bytes_read=times.bytes_read + runs_read,
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
        if self._policy.upload is not None:
            return self._policy.upload.path
        if self._resident is not None:
            return "map"
        return "direct" if 2 * bytes_direct > self._transfer.times.bytes_read else "copy"


def _profile(source: Source, span: tuple[int, int], stored: int, policy: Policy) -> Profile:
    """How to read `stored` bytes within this span of the source."""
    profile = source.profile(*span, policy.options)
    if policy.observe is not None or (stored <= INLINE_SIZE_MAX and not profile.ramps):
        return replace(profile, threads=1, threads_max=1)
    return profile


def _resident(
    source: Source, span: tuple[int, int], wants: Wants, policy: Policy
) -> HostBuffer | None:
    """Memory of the span that whole tensors can be views of, if the source has it."""
    has_destination = policy.upload is not None or policy.existing is not None
    is_changed = policy.check is not None and policy.check.rewrites
    if has_destination or is_changed or wants.boxes is not None:
        return None
    return source.resident(span[0], span[1] - span[0])


def _want_flags(wants: Wants) -> NDArray[np.uint32] | None:
    if not wants.with_records:
        return None
    half = len(wants) // 2
    return np.repeat(np.array([0, lib.ITEM_RECORD], np.uint32), half)


def _check_size(
    schedule: Schedule, policy: Policy, resident: dict[int, HostBuffer], label: str
) -> None:
    """Checks the size of the load, or of one tensor of an iteration, before allocating memory."""
    sizes = schedule.plan.placements["size"]
    if resident:
        sizes = sizes[~np.isin(schedule.unit_of_want, list(resident))]
    if len(sizes):
        size = sizes.max() if policy.is_streamed else sizes.sum()
        check_decoded_size(int(size), policy.options, label)


def _plan(
    header: lib.Header,
    wants: Wants,
    policy: Policy,
    threads: int,
    budget: int,
    allocates: bool,
) -> lib.Plan:
    """`allocates`: the load allocates its tensors, so small ones may share an allocation."""
    stored = sum(tensor.stored_size for tensor in wants.tensors)
    share = max(REQUEST_SIZE_MIN, stored // (threads * REQUESTS_PER_THREAD))
    size = min(share, REQUEST_SIZE, policy.options.request_size_max, budget // threads)
    while True:
        plan = lib.Plan(
            header,
            wants.indices,
            wants.boxes,
            item_flags=_want_flags(wants),
            flags=lib.PLAN_STAGED if policy.upload else 0,
            request_size_max=size,
            slab_size_max=SLAB_SIZE_MAX if allocates else 0,
            slab_tensor_max=SLAB_TENSOR_MAX if allocates else 0,
        )
        if plan.info.staging_size_max <= budget:
            return plan
        if size == 1:
            raise OptionError(
                f"{header.label}: ReadOptions.host_memory_max is too small for this file's chunks:"
                f" staging one needs {plan.info.staging_size_max} bytes, and {budget} are available"
            )
        size = 1  # one request per chunk
