"""Which library's tensors a load makes, and on which device."""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Sequence
from typing import Any, Protocol

from libtz.errors import OptionError
from libtz.format import item_size
from libtz.transfer.memory import Block
from libtz.transfer.upload import CudaLane, Lane

__all__ = ["BufferMaker", "Maker", "default_maker", "device_of", "for_device"]


class Maker(Protocol):
    """Makes one library's tensors over host memory."""

    def require(self, dtype: str, name: str) -> None:
        """Raises OptionError if the library has no such type; `name` is for the message."""

    def make(self, block: Block | None, position: int, dtype: str, shape: Sequence[int]) -> Any:
        """A tensor over the block's bytes from `position` on, which keeps its owner alive.

        Without a block: an empty tensor.
        """


class BufferMaker:
    """Plain bytes."""

    def require(self, dtype: str, name: str) -> None:
        pass

    def make(
        self, block: Block | None, position: int, dtype: str, shape: Sequence[int]
    ) -> memoryview:
        if block is None:
            return memoryview(b"")
        size = math.prod(shape) * item_size(dtype)
        return block.view()[position : position + size]


@functools.cache
def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def default_maker() -> Maker:
    # Imported when needed, so that `import libtz` does not import torch.
    if _has_torch():
        from libtz._torch_tensors import TorchMaker

        return TorchMaker()
    from libtz.numpy import NumpyMaker

    return NumpyMaker()


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


def for_device(device: Any) -> tuple[Maker, Lane | None, Any]:
    """What makes tensors in host memory, or the lane to the device; and a device that has no lane
    of its own, to which tensors are moved when they are complete."""
    maker = default_maker()
    place = device_of(device)
    if place is None or place.type != "cuda":
        return maker, None, place
    from libtz._torch_tensors import make_empty

    return maker, CudaLane(place, make_empty), None
