"""Which library's tensors a load makes, and on which device."""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Sequence
from typing import Any, Protocol

from libtz.errors import OptionError
from libtz.format import item_size
from libtz.memory import HostBuffer
from libtz.transfer.upload import CudaUpload, Upload

__all__ = ["BufferFramework", "Framework", "default_framework", "device_of", "for_device"]


class Framework(Protocol):
    """Makes one library's tensors over host memory."""

    def require(self, dtype: str, name: str) -> None:
        """Raises OptionError if the library has no such type; `name` is for the message."""

    def make(
        self, block: HostBuffer | None, position: int, dtype: str, shape: Sequence[int]
    ) -> Any:
        """A tensor over the block's bytes from `position` on, which keeps its owner alive.

        Without a block: an empty tensor.
        """


class BufferFramework:
    """Plain bytes."""

    def require(self, dtype: str, name: str) -> None:
        pass

    def make(
        self, block: HostBuffer | None, position: int, dtype: str, shape: Sequence[int]
    ) -> memoryview:
        if block is None:
            return memoryview(b"")
        size = math.prod(shape) * item_size(dtype)
        return block.view()[position : position + size]


@functools.cache
def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def default_framework() -> Framework:
    # Imported when needed, so that `import libtz` does not import torch.
    if _has_torch():
        from libtz.arrays.torch_arrays import TorchFramework

        return TorchFramework()
    from libtz.arrays.numpy_arrays import NumpyFramework

    return NumpyFramework()


def device_of(device: Any) -> Any:
    """As PyTorch's, if it can be used; None for host memory."""
    if device == "cpu":
        return None
    if not _has_torch():
        raise OptionError(f"device {device!r} needs PyTorch; without it there is only 'cpu'")
    import torch

    try:
        place = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise OptionError(f"{device!r} is not a device: {error}") from error
    if place.type == "cpu":
        return None
    try:
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:  # PyTorch without CUDA asserts
        raise OptionError(f"device {device!r} cannot be used: {error}") from error
    return place


def for_device(device: Any) -> tuple[Framework, Upload | None, Any]:
    """Returns (framework, upload, fallback device). An upload streams to its device; tensors for a
    fallback device are copied there once they are complete. At most one of the two is set."""
    framework = default_framework()
    place = device_of(device)
    if place is None or place.type != "cuda":
        return framework, None, place
    from libtz.arrays.torch_arrays import make_empty

    return framework, CudaUpload(place, make_empty), None
