"""Loading with a floating-point type other than the file's."""

from __future__ import annotations

from typing import Any

import torch

from libtz.arrays.torch_dtypes import TORCH_DTYPES
from libtz.checkpoint.base import Checkpoint
from libtz.checkpoint.selection import Names, select
from libtz.errors import OptionError

__all__ = ["check_dtype", "is_cast", "load_as"]

# Two numbers per byte, which PyTorch cannot convert.
_PACKED = torch.float4_e2m1fn_x2


def check_dtype(dtype: Any) -> None:
    """Raises OptionError unless `dtype` is None or a type that tensors can be converted to."""
    if dtype is None:
        return
    if not isinstance(dtype, torch.dtype) or not _is_floating(dtype):
        raise OptionError(
            f"dtype must be a floating-point type such as torch.bfloat16, not {dtype!r}"
        )


def is_cast(dtype: str) -> bool:
    """Whether `dtype=` converts tensors of this type of the format."""
    torch_dtype = TORCH_DTYPES.get(dtype)
    return torch_dtype is not None and _is_floating(torch_dtype)


def _is_floating(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point and dtype != _PACKED


def load_as(
    file: Checkpoint[torch.Tensor],
    names: Names,
    device: torch.device | str,
    dtype: torch.dtype | None,
) -> dict[str, torch.Tensor]:
    """As `Checkpoint.load`, with floating-point tensors converted to `dtype`. Each is converted as
    soon as it arrives, so that there are never two copies of everything."""
    if dtype is None:
        return file.load(names, device)
    tensors: dict[str, torch.Tensor] = {}
    before: tuple[Any, Any] = (None, None)
    if names is not None and not callable(names):
        names = select(names, ())
    for name, tensor in file.iter_tensors(names, device):
        if tensor is not before[0]:  # tied tensors follow each other, as one object
            before = tensor, _cast(tensor, dtype)
        tensors[name] = before[1]
    return {name: tensors[name] for name in select(names, file)}


def _cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.to(dtype) if _is_floating(tensor.dtype) else tensor
