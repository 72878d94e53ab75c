"""Where the bytes of a transfer go: one interface to host memory and devices."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from libtz.memory import HostBuffer

__all__ = ["Request", "StagingBuffer", "Target"]


class Request(NamedTuple):
    """A range of the source and where it goes: the fields of `tz_request`."""

    offset: int
    size: int
    segment_begin: int
    piece_begin: int
    segment_count: int
    piece_count: int
    staging_size: int


class StagingBuffer(NamedTuple):
    """Staging memory for one request."""

    view: memoryview
    address: int
    owner: Any


class Target(Protocol):
    """Where the bytes of a transfer go."""

    addresses: NDArray[np.uint64]  # of the plan's allocations; none in staged plans

    def prepare(self, count: int) -> None:
        """Prepare the first `count` allocations. Never called by two threads at once."""

    def view(self, allocation: int) -> memoryview:
        """A prepared allocation. Staged plans have none."""

    def buffer(self, allocation: int) -> HostBuffer:
        """An allocation in host memory whose requests are done. Not for devices."""

    def tensor(self, allocation: int) -> Any:
        """An allocation on a device whose requests are done. Not for host memory."""

    @property
    def begun_allocations(self) -> list[int]:
        """Allocations that were prepared, in order of first use."""

    def publish(self) -> None:
        """Make everything that has arrived visible to the caller."""

    def forget(self, allocation: int) -> None:
        """Drop the allocation; only its tensors keep it."""

    def acquire(self) -> StagingBuffer:
        """Wait for staging memory for one request. Raises Stopped after `stop`."""

    def deliver(self, request: Request, slot: StagingBuffer) -> None:
        """The request is checked and decoded: pass its data on if needed, take the slot back."""

    def stop(self) -> None:
        """Wake threads that wait in `acquire`."""

    def close(self) -> None:
        """Called when all workers have ended. Returns when the slots are no longer in use."""
