"""The bytes of PyTorch tensors, for writers. Tensors without bytes of their own are refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from libtz.arrays.torch_dtypes import FORMAT_NAMES
from libtz.arrays.torch_memory import memory_of
from libtz.errors import OptionError
from libtz.writing.overlap import Extent

__all__ = ["check", "data_of", "extent", "is_tensor"]

# Host memory for a tensor on a device: enough to keep the copy engine busy.
PIECE_SIZE = 16 * 1024 * 1024

# A dtype of each size that supports every operation: some of PyTorch's types cannot even be copied.
_RAW = {
    1: torch.uint8,
    2: torch.int16,
    4: torch.int32,
    8: torch.int64,
    16: torch.complex128,
}


def is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def check(name: str, tensor: Any) -> None:
    """Raises OptionError for a tensor that has no bytes of its own, or whose storage was freed."""
    if not isinstance(tensor, torch.Tensor):
        problem = f"must be a torch.Tensor, not {type(tensor).__qualname__}"
    elif tensor.is_quantized:
        problem = "is quantized; save its int_repr(), scales and zero points"
    elif tensor.is_nested:
        problem = "is nested; save its parts, as unbind() gives them"
    elif tensor.layout != torch.strided:
        problem = f"is not dense ({tensor.layout}); save its dense parts"
    elif tensor.is_meta:
        problem = "is on the meta device and has no data"
    elif hasattr(tensor, "__tensor_flatten__"):
        problem = f"is a {type(tensor).__qualname__}, which wraps other tensors; save those"
    elif tensor.dtype not in FORMAT_NAMES:
        problem = f"has dtype {tensor.dtype}, which the format does not support"
    else:
        try:
            memory_of(tensor)
        except OptionError as error:
            raise OptionError(f"tensor {name!r} {error.message}") from error
        return
    raise OptionError(f"tensor {name!r} {problem}")


def extent(name: str, tensor: torch.Tensor) -> Extent:
    size = tensor.element_size()
    return Extent(
        name=name,
        space=tensor.device,
        content=(tensor.dtype, tensor.is_conj(), tensor.is_neg()),
        address=memory_of(tensor)[0],
        itemsize=size,
        shape=tuple(tensor.shape),
        strides=tuple(stride * size for stride in tensor.stride()),
    )


def data_of(tensor: torch.Tensor) -> torch.Tensor | Iterator[torch.Tensor]:
    """What to pass to the writer: the memory itself, or an iterator over copies of its pieces."""
    tensor = tensor.detach().resolve_conj().resolve_neg()
    raw = tensor.view(_RAW[tensor.element_size()])
    if raw.device.type != "cpu":
        return _device_pieces(raw.contiguous())
    return raw if raw.is_contiguous() else _contiguous_copy(raw)


def _contiguous_copy(raw: torch.Tensor) -> Iterator[torch.Tensor]:
    """The writer consumes an iterator at once, so there is one copy at a time."""
    yield raw.contiguous()


def _device_pieces(raw: torch.Tensor) -> Iterator[torch.Tensor]:
    """Copies a contiguous tensor through one reused piece of host memory."""
    flat = raw.view(-1)
    count = PIECE_SIZE // flat.element_size()
    host = torch.empty(min(count, flat.numel()), dtype=flat.dtype, pin_memory=flat.is_cuda)
    for begin in range(0, flat.numel(), count):
        piece = flat[begin : begin + count]
        yield host[: piece.numel()].copy_(piece)
