"""The saving half of libtz.torch: tensors, modules and nested objects into .tz files.

The model is never copied as a whole. A contiguous tensor in host memory is read where it lies; a
non-contiguous one is made contiguous, one at a time; one on a device is copied piece by piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from libtz._native.lib import Node
from libtz._overlap import Extent, find_ties
from libtz._structure import flatten
from libtz._torch_dtypes import FORMAT_NAMES
from libtz.errors import OptionError
from libtz.options import WriteOptions
from libtz.writer import TensorSpec, Writer

__all__ = ["save", "save_file", "save_model"]

_DEFAULTS = WriteOptions()

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


def save_file(
    tensors: Mapping[str, torch.Tensor],
    target: Any,
    *,
    metadata: Mapping[str, str] | None = None,
    copy_overlapping: bool = False,
    options: WriteOptions = _DEFAULTS,
) -> str:
    """Writes the tensors, in their order, and returns the file digest ("blake3:…"), a pin for
    loading.

    Tensors that share memory with the same dtype, shape and start are stored once and tied again
    when loaded. Any other overlap is an OptionError that names both, unless `copy_overlapping`
    asks to store each on its own.
    """
    items = list(tensors.items())
    return _write(items, target, metadata, (), copy_overlapping, options)


def save_model(
    module: torch.nn.Module,
    target: Any,
    *,
    metadata: Mapping[str, str] | None = None,
    non_persistent: bool = False,
    copy_overlapping: bool = False,
    options: WriteOptions = _DEFAULTS,
) -> str:
    """Writes a module's parameters and persistent buffers under the names of its state dict.

    `non_persistent` adds the other buffers, which modules normally compute for themselves: then
    `load_model` can fill a module that was built on the meta device. Otherwise as `save_file`; tied
    weights stay tied.
    """
    state = module.state_dict()
    if non_persistent:
        state |= dict(module.named_buffers(remove_duplicate=False))
    return _write(list(state.items()), target, metadata, (), copy_overlapping, options)


def save(
    obj: Any,
    target: Any,
    *,
    metadata: Mapping[str, str] | None = None,
    copy_overlapping: bool = False,
    options: WriteOptions = _DEFAULTS,
) -> str:
    """Writes a nested object, such as the state dict of an optimizer, without pickle.

    It may hold dict, list, tuple, None, bool, int, float, str, bytes and tensors; anything else
    is an OptionError with its path. Otherwise as `save_file`. The tensors can also be read one by
    one, under names made from their paths: `optimizer/state/0/exp_avg`.
    """
    flat = flatten(obj, _is_tensor)
    items = list(zip(flat.names, flat.tensors, strict=True))
    return _write(items, target, metadata, flat.nodes, copy_overlapping, options)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _write(
    items: Sequence[tuple[str, Any]],
    target: Any,
    metadata: Mapping[str, str] | None,
    nodes: Sequence[Node],
    copy_overlapping: bool,
    options: WriteOptions,
) -> str:
    for name, tensor in items:
        _check(name, tensor)
    ties = find_ties([_extent(*item) for item in items], copy_overlapping=copy_overlapping)
    specs = [
        TensorSpec(
            name,
            FORMAT_NAMES[tensor.dtype],
            tuple(tensor.shape),
            None if tie is None else items[tie][0],
        )
        for (name, tensor), tie in zip(items, ties, strict=True)
    ]
    writer = Writer(target, specs, metadata=metadata, structure=nodes, options=options)
    tensors = dict(items)
    with writer:
        for name in writer.pending:
            writer.put(name, _data(tensors[name]))
    return writer.digest


def _check(name: str, tensor: Any) -> None:
    """Refuses what has no bytes of its own to save."""
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
        return
    raise OptionError(f"tensor {name!r} {problem}")


def _extent(name: str, tensor: torch.Tensor) -> Extent:
    size = tensor.element_size()
    return Extent(
        name=name,
        space=tensor.device,
        kind=(tensor.dtype, tensor.is_conj(), tensor.is_neg()),
        address=tensor.data_ptr(),
        itemsize=size,
        shape=tuple(tensor.shape),
        strides=tuple(stride * size for stride in tensor.stride()),
    )


def _data(tensor: torch.Tensor) -> torch.Tensor | Iterator[torch.Tensor]:
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
