"""The library whose tensors a load makes, and the device they are on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar, runtime_checkable

from libtz.errors import FormatError, OptionError
from libtz.format import is_known, item_size
from libtz.memory import HostBuffer
from libtz.transfer.upload import Upload

if TYPE_CHECKING:
    import torch

__all__ = [
    "BufferFramework",
    "Destination",
    "Device",
    "DeviceLike",
    "Framework",
    "StreamingDevice",
    "require_known",
]

T = TypeVar("T")


# Without PyTorch, there is only "cpu".
DeviceLike: TypeAlias = "str | int | torch.device"


class Framework(Protocol[T]):
    """Makes one library's tensors over host memory, and moves them to devices."""

    def require(self, dtype: str, name: str) -> None:
        """Raises OptionError if the framework lacks this dtype, and FormatError if libtz does not
        know it. `name` is the tensor's name, for the message."""

    def make(self, buffer: HostBuffer | None, position: int, dtype: str, shape: Sequence[int]) -> T:
        """A tensor over the buffer's bytes from `position` on. It keeps the buffer's owner alive.

        Without a buffer, an empty tensor.
        """

    def device(self, device: Any) -> Device[T] | None:
        """The device of that name; None for host memory. Raises OptionError if it is unusable."""


class Device(Protocol[T]):
    """Memory to which complete tensors are copied."""

    def copy(self, tensor: T) -> T:
        """A copy on the device of a tensor in host memory."""


@runtime_checkable
class StreamingDevice(Device[T], Protocol[T]):
    """A device to which tensors are copied piece by piece, while they arrive."""

    def upload(self) -> Upload:
        """Streams one load to the device."""


@dataclass(frozen=True)
class Destination(Generic[T]):
    """Where tensors go: to the device, or to host memory if that is None."""

    framework: Framework[T]
    device: Device[T] | None = None


def require_known(dtype: str, name: str) -> None:
    """Raises FormatError for a dtype that libtz can list, check and copy, but not load (TZ1-60)."""
    if not is_known(dtype):
        raise FormatError(
            f"tensor {name!r}: this version of libtz does not know its dtype, {dtype};"
            " iter_buffers() gives its bytes (feature, TZ1-60)",
            code="feature",
            rule="TZ1-60",
            tensor=name,
        )


class BufferFramework:
    """Plain bytes, for all dtypes. A tensor of an unknown dtype has the shape of its bytes."""

    def require(self, dtype: str, name: str) -> None:
        pass

    def make(
        self, buffer: HostBuffer | None, position: int, dtype: str, shape: Sequence[int]
    ) -> memoryview:
        if buffer is None:
            return memoryview(b"")
        size = math.prod(shape) * item_size(dtype)
        return buffer.view()[position : position + size]

    def device(self, device: Any) -> None:
        if device != "cpu":
            raise OptionError(f"bytes are in host memory, not on device {device!r}")
