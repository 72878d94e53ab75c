"""PyTorch tensors over memory that libtz filled, and uninitialised ones on devices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from libtz._native import lib
from libtz.arrays.base import require_known
from libtz.arrays.torch_dtypes import TORCH_DTYPES
from libtz.errors import OptionError
from libtz.format import dtype_name
from libtz.memory import HostBuffer
from libtz.text import excerpt
from libtz.transfer.upload import CudaUpload, Upload

__all__ = ["CudaDevice", "TorchDevice", "TorchFramework", "make_empty"]


class TorchFramework:
    """See arrays.base.Framework. Each tensor has a storage of its own, of its own size."""

    def require(self, dtype: str, name: str) -> None:
        require_known(dtype, name)
        if dtype not in TORCH_DTYPES:
            raise OptionError(
                f"tensor {name!r}: PyTorch has no type for {dtype}; iter_buffers() gives its bytes"
            )

    def make(
        self, buffer: HostBuffer | None, position: int, dtype: str, shape: Sequence[int]
    ) -> torch.Tensor:
        torch_dtype = TORCH_DTYPES[dtype]
        if buffer is None:
            return _empty(torch_dtype, "cpu").resize_(tuple(shape))
        flat = torch.frombuffer(
            buffer.owner,
            dtype=torch_dtype,
            count=math.prod(shape),
            offset=buffer.offset + position,
        )
        # view() would make it a view of another tensor.
        return flat if len(shape) == 1 else flat.resize_(tuple(shape))

    def device(self, device: Any) -> TorchDevice | None:
        if device == "cpu":
            return None
        try:
            found = torch.device(device)
        except (RuntimeError, TypeError) as error:
            raise OptionError(f"{device!r} is not a device: {error}") from error
        if found.type == "cpu":
            return None
        try:
            torch.empty(0, device=found)
        except (RuntimeError, AssertionError) as error:  # PyTorch without CUDA asserts
            reason = excerpt(str(error).partition(". ")[0])
            raise OptionError(f"device {device!r} cannot be used: {reason}") from error
        return CudaDevice(found) if found.type == "cuda" else TorchDevice(found)


class TorchDevice:
    """See arrays.base.Device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.device)


class CudaDevice(TorchDevice):
    """See arrays.base.StreamingDevice."""

    def upload(self) -> Upload:
        return CudaUpload(self.device, make_empty)


def make_empty(entry: lib.Tensor, device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
    """An uninitialised tensor, and its bytes as a flat tensor over the same storage."""
    storage = torch.UntypedStorage(  # type: ignore[no-untyped-call]
        entry.decoded_size, device=device
    )
    data = _empty(torch.uint8, device).set_(storage)
    tensor = _empty(TORCH_DTYPES[dtype_name(entry.dtype)], device)
    strides = [math.prod(entry.shape[axis + 1 :]) for axis in range(len(entry.shape))]
    return tensor.set_(storage, 0, entry.shape, strides), data


def _empty(dtype: torch.dtype, device: torch.device | str) -> torch.Tensor:
    # torch.empty() itself warns about some types.
    return torch.empty(0, dtype=torch.uint8, device=device).view(dtype).detach()
