"""The bytes of PyTorch's tensors, as writers take them; what has no bytes of its own is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from libtz.arrays.torch_dtypes import FORMAT_NAMES
from libtz.arrays.torch_memory import memory_of
from libtz.errors import OptionError
from libtz.writing.overlap import Extent

__all__ = ["check", "data_of", "extent", "is_tensor"]

# Host memory for a tensor that lies on a device: enough to keep the copy engine busy.
PIECE_SIZE = 16 * 1024 * 1024

# A dtype of the same size on which every operation works: PyTorch has types that it cannot even
# copy.
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
    """Raises OptionError for what has no bytes of its own to save, freed storages included."""
    if not isinstance(tensor, torch.Tensor):
        problem = f"is not a tensor but {type(tensor).__module__}.{type(tensor).__qualname__}"
    elif tensor.is_quantized:
        problem = "is quantized; save its int_repr(), scales and zero points"
    elif tensor.layout != torch.strided or tensor.is_nested:
        problem = f"is not dense ({tensor.layout}); save its dense parts"
    elif tensor.is_meta:
        problem = "is on the meta device and has no data"
    elif hasattr(tensor, "__tensor_flatten__"):
        problem = f"is a {type(tensor).__qualname__}, which wraps others; save its plain tensors"
    elif tensor.dtype not in FORMAT_NAMES:
        problem = f"has dtype {tensor.dtype}, which the format does not have"
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
        kind=(tensor.dtype, tensor.is_conj(), tensor.is_neg()),
        address=memory_of(tensor)[0],
        itemsize=size,
        shape=tuple(tensor.shape),
        strides=tuple(stride * size for stride in tensor.stride()),
    )


def data_of(tensor: torch.Tensor) -> torch.Tensor | Iterator[torch.Tensor]:
    """What to hand to the writer: memory where it lies, or pieces of it."""
    tensor = tensor.detach().resolve_conj().resolve_neg()
    raw = tensor.view(_RAW[tensor.element_size()])
    if raw.device.type != "cpu":
        return _device_pieces(raw.contiguous())
    return raw if raw.is_contiguous() else _contiguous_copy(raw)


def _contiguous_copy(raw: torch.Tensor) -> Iterator[torch.Tensor]:
    """An iterable is used up at once, so there is one copy at a time."""
    yield raw.contiguous()


def _device_pieces(raw: torch.Tensor) -> Iterator[torch.Tensor]:
    """A contiguous tensor through one piece of host memory, used again and again."""
    flat = raw.view(-1)
    count = PIECE_SIZE // flat.element_size()
    host = torch.empty(min(count, flat.numel()), dtype=flat.dtype, pin_memory=flat.is_cuda)
    for begin in range(0, flat.numel(), count):
        piece = flat[begin : begin + count]
        yield host[: piece.numel()].copy_(piece)
