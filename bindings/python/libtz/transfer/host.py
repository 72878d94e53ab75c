"""Loading into host memory: each allocation of the plan becomes a buffer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libtz.memory import Arena, HostBuffer, allocate
from libtz.transfer.schedule import Schedule
from libtz.transfer.staging import SlotRing
from libtz.transfer.target import Request, StagingBuffer

__all__ = ["HostTarget", "resident_buffers", "staging_buffer"]


def staging_buffer(size: int) -> StagingBuffer:
    block = allocate(size)
    return StagingBuffer(block.view(), block.address, block)


class HostTarget:
    """See `target.Target`. `existing` are buffers to use instead of new ones, by allocation."""

    def __init__(
        self, schedule: Schedule, ring: SlotRing[StagingBuffer], existing: Mapping[int, HostBuffer]
    ) -> None:
        self._schedule = schedule
        self._ring = ring
        self._existing = existing
        self._arena = Arena(schedule.bytes_total)
        self._blocks: list[HostBuffer | None] = [None] * len(schedule.allocation_sizes)
        self._views: list[memoryview] = [memoryview(b"")] * len(schedule.allocation_sizes)
        self._prepared = 0
        self.addresses: NDArray[np.uint64] = np.zeros(len(schedule.allocation_sizes), np.uint64)

    def prepare(self, count: int) -> None:
        for allocation in self._schedule.allocations[self._prepared : count].tolist():
            block = self._existing.get(allocation)
            if block is None:
                block = self._arena.allocate(int(self._schedule.allocation_sizes[allocation]))
            self._blocks[allocation] = block
            self._views[allocation] = block.view()
            self.addresses[allocation] = block.address
        self._prepared = max(self._prepared, count)

    @property
    def begun_allocations(self) -> list[int]:
        allocations: list[int] = self._schedule.allocations[: self._prepared].tolist()
        return allocations

    def buffer(self, allocation: int) -> HostBuffer:
        block = self._blocks[allocation]
        if block is None:
            raise RuntimeError(f"allocation {allocation} was released, or is not yet prepared")
        return block

    def tensor(self, allocation: int) -> Any:
        raise RuntimeError("this load goes to host memory")

    def publish(self) -> None:
        pass

    def forget(self, allocation: int) -> None:
        self.addresses[allocation] = 0  # libtz refuses to write there
        self._blocks[allocation] = None
        self._views[allocation] = memoryview(b"")

    def view(self, allocation: int) -> memoryview:
        return self._views[allocation]

    def acquire(self) -> StagingBuffer:
        return self._ring.acquire()

    def deliver(self, request: Request, slot: StagingBuffer) -> None:
        self._ring.release(slot)

    def stop(self) -> None:
        self._ring.stop()

    def close(self) -> None:
        pass


def resident_buffers(
    resident: HostBuffer, schedule: Schedule, offsets: list[int], item_sizes: list[int]
) -> dict[int, HostBuffer]:
    """The allocations that can be parts of existing memory: those that are stored raw, and aligned
    for their dtype.

    Every item and companion is a whole tensor with an allocation of its own. In the memory it
    begins at `offsets[item]`.
    """
    segments = schedule.plan.segments
    received = np.zeros(len(schedule.allocation_sizes), np.int64)
    allocations = segments["allocation"]
    is_direct = allocations < len(received)
    np.add.at(received, allocations[is_direct], segments["size"][is_direct].astype(np.int64))
    buffers = {}
    for item, allocation in enumerate(schedule.all.allocation.tolist()):
        if allocation < 0 or (resident.address + offsets[item]) % item_sizes[item]:
            continue
        # The chunks of a raw tensor are contiguous: all but the last are multiples of 64 bytes.
        size = int(schedule.allocation_sizes[allocation])
        if received[allocation] == size:
            buffers[allocation] = resident.part(offsets[item], size)
    return buffers
