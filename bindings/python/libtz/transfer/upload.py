"""Loading to a device: staged requests are copied piece by piece into existing tensors.

Data is received and checked in a ring of slots in pinned host memory. Copies run on a stream of
their own; a slot is free again when the event after its copies has completed. `HostUpload` runs the
same code without a device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from libtz._native import lib
from libtz.memory import HostBuffer
from libtz.transfer.host import staging_buffer
from libtz.transfer.schedule import Schedule
from libtz.transfer.staging import SlotRing, Use
from libtz.transfer.target import Request, StagingBuffer

__all__ = ["CudaUpload", "DeviceTarget", "HostUpload", "Upload"]

# Makes an uninitialised tensor for an entry of the file: (entry, device) -> (tensor, its bytes).
MakeEmpty = Callable[[lib.Tensor, Any], tuple[Any, Any]]


class Upload(Protocol):
    """Copies staged data to a device."""

    path: str

    def slot(self, size: int) -> StagingBuffer:
        """Staging memory that `copy` can read; its owner is a tensor of bytes."""

    def empty(self, entries: Sequence[lib.Tensor]) -> list[tuple[Any, Any]]:
        """Uninitialised tensors on the device, each with its bytes as a flat tensor."""

    def copy(self, pairs: Sequence[tuple[Any, Any]]) -> Use | None:
        """Enqueues copies (to, from). None if they are already finished."""

    def publish(self) -> None:
        """Makes the caller's stream wait for all copies so far."""

    def synchronize(self) -> None:
        """Returns when all copies are finished."""


class HostUpload:
    """Plain copies, for tests."""

    path = "staged"

    def __init__(self, make_empty: MakeEmpty) -> None:
        self._make_empty = make_empty

    def slot(self, size: int) -> StagingBuffer:
        import torch

        slot = staging_buffer(size)
        block = slot.owner
        data = torch.frombuffer(block.owner, dtype=torch.uint8, count=size, offset=block.offset)
        return StagingBuffer(slot.view, slot.address, data)

    def empty(self, entries: Sequence[lib.Tensor]) -> list[tuple[Any, Any]]:
        return [self._make_empty(entry, "cpu") for entry in entries]

    def copy(self, pairs: Sequence[tuple[Any, Any]]) -> Use | None:
        for target, source in pairs:
            target.copy_(source)
        return None

    def publish(self) -> None:
        pass

    def synchronize(self) -> None:
        pass


class CudaUpload:
    """Copies on a stream of its own, besides the caller's current one."""

    path = "pinned"

    def __init__(self, device: Any, make_empty: MakeEmpty) -> None:
        import torch

        self._torch = torch
        self._device = device
        self._make_empty = make_empty
        self._callers = torch.cuda.current_stream(device)
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def slot(self, size: int) -> StagingBuffer:
        data = self._torch.empty(size, dtype=self._torch.uint8, pin_memory=True)
        view: Any = data.numpy()
        return StagingBuffer(memoryview(view), data.data_ptr(), data)

    def empty(self, entries: Sequence[lib.Tensor]) -> list[tuple[Any, Any]]:
        # Allocated on the caller's stream, which will use the tensors. Kernels of a former owner of
        # the memory may still be queued there, so the copies wait for those.
        with self._torch.cuda.stream(self._callers):
            tensors = [self._make_empty(entry, self._device) for entry in entries]
        self._stream.wait_stream(self._callers)
        return tensors

    def copy(self, pairs: Sequence[tuple[Any, Any]]) -> Use | None:
        with self._torch.cuda.stream(self._stream):
            for target, source in pairs:
                target.copy_(source, non_blocking=True)
            event = self._torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(self._stream)
        use: Use = event
        return use

    def publish(self) -> None:
        self._callers.wait_stream(self._stream)

    def synchronize(self) -> None:
        self._stream.synchronize()


class DeviceTarget:
    """See `target.Target`. Each item is an allocation of its own."""

    addresses: NDArray[np.uint64] = np.empty(0, np.uint64)

    def __init__(
        self,
        schedule: Schedule,
        ring: SlotRing[StagingBuffer],
        upload: Upload,
        entries: Sequence[lib.Tensor],
    ) -> None:
        self._schedule = schedule
        self._ring = ring
        self._upload = upload
        self._entries = entries
        self._tensors: list[Any] = [None] * len(entries)
        self._bytes: list[Any] = [None] * len(entries)
        self._prepared = 0

    def prepare(self, count: int) -> None:
        allocations = self._schedule.allocations[self._prepared : count].tolist()
        if allocations:
            self._fill(allocations)
            self._prepared = count

    def _fill(self, allocations: Sequence[int]) -> None:
        made = self._upload.empty([self._entries[allocation] for allocation in allocations])
        for allocation, (tensor, data) in zip(allocations, made, strict=True):
            self._tensors[allocation], self._bytes[allocation] = tensor, data

    def tensor(self, allocation: int) -> Any:
        """An item whose requests are done. Its last copies may still be running."""
        if self._tensors[allocation] is None:
            self._fill([allocation])  # an empty tensor, which no request needed
        return self._tensors[allocation]

    @property
    def begun_allocations(self) -> list[int]:
        allocations: list[int] = self._schedule.allocations[: self._prepared].tolist()
        return allocations

    def buffer(self, allocation: int) -> HostBuffer:
        raise RuntimeError("this load goes to a device")

    def publish(self) -> None:
        self._upload.publish()

    def forget(self, allocation: int) -> None:
        self._tensors[allocation] = self._bytes[allocation] = None

    def view(self, allocation: int) -> memoryview:
        raise RuntimeError("a staged plan has no allocations")

    def acquire(self) -> StagingBuffer:
        return self._ring.acquire()

    def deliver(self, request: Request, slot: StagingBuffer) -> None:
        begin = request.piece_begin
        pieces = self._schedule.plan.pieces[begin : begin + request.piece_count].tolist()
        pairs = [
            (
                self._bytes[item][item_offset : item_offset + size],
                slot.owner[position : position + size],
            )
            for item_offset, size, position, item, _ in pieces
        ]
        self._ring.release(slot, self._upload.copy(pairs))

    def stop(self) -> None:
        self._ring.stop()

    def close(self) -> None:
        # Slots and tensors may be freed after this: no copies are left.
        self._upload.synchronize()
