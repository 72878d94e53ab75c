"""Where the bytes of a transfer go: what the engine asks of host memory and of devices alike."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from libtz.memory import HostBuffer

__all__ = ["Request", "StagingBuffer", "Target"]


class Request(NamedTuple):
    """A range of the source and what becomes of it: the fields of `tz_request`."""

    offset: int
    size: int
    segment_begin: int
    piece_begin: int
    segment_count: int
    piece_count: int
    staging_size: int


class StagingBuffer(NamedTuple):
    """Staging memory of one request."""

    view: memoryview
    address: int
    owner: Any


class Target(Protocol):
    """Where the bytes of a transfer go."""

    addresses: NDArray[np.uint64]  # of the plan's allocations; none in staged plans

    def prepare(self, count: int) -> None:
        """Make the first `count` allocations exist. Never called by two threads at once."""

    def view(self, allocation: int) -> memoryview:
        """An allocation that exists. Staged plans have none."""

    def buffer(self, allocation: int) -> HostBuffer:
        """An allocation in host memory whose requests are done. A device has none."""

    def tensor(self, allocation: int) -> Any:
        """An allocation on a device whose requests are done. Host memory has none."""

    @property
    def begun_allocations(self) -> list[int]:
        """Those that were prepared, in the order of their first use."""

    def publish(self) -> None:
        """What the caller does with the allocations from now on sees all that has arrived."""

    def forget(self, allocation: int) -> None:
        """From now on the allocation is its tensors' alone."""

    def acquire(self) -> StagingBuffer:
        """Staging memory for one request. Waits; raises Stopped after `stop`."""

    def deliver(self, request: Request, slot: StagingBuffer) -> None:
        """The request is checked and decoded: carry it on if need be, take the slot back."""

    def stop(self) -> None:
        """Wake threads that wait in `acquire`."""

    def close(self) -> None:
        """All workers have ended. Returns when nothing touches the slots any more."""
