"""Saves tensors, modules and nested objects to .tz files.

The model is never copied as a whole. Contiguous tensors in host memory are not copied; others are
made contiguous one at a time; tensors on a device are copied to the host piece by piece.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from libtz._native.lib import Node
from libtz.arrays.numpy_arrays import NAMES
from libtz.arrays.torch_dtypes import FORMAT_NAMES
from libtz.errors import OptionError
from libtz.locations import TargetLike
from libtz.options import WriteOptions
from libtz.structure import flatten
from libtz.torch.tensor_bytes import check, data_of, extent, is_tensor
from libtz.writing.base import TensorSpec
from libtz.writing.overlap import find_ties
from libtz.writing.tz import Writer

__all__ = ["save", "save_file", "save_model"]


def save_file(
    tensors: Mapping[str, torch.Tensor],
    target: TargetLike,
    *,
    metadata: Mapping[str, str] | None = None,
    copy_overlapping: bool = False,
    options: WriteOptions | None = None,
) -> str:
    """Writes tensors to a .tz file, in their order. Returns the file digest ("blake3:…"), to pin
    the file with. The tensors must not change during the call.

    Tensors that share memory and have the same dtype, shape and strides are stored once, and tied
    again when loaded. Any other overlap raises an OptionError that names both tensors, unless
    `copy_overlapping` is set, which stores a copy of each.

    Raises OptionError for names and tensors that the format cannot hold, and SourceError if the
    target cannot be written.
    """
    if isinstance(tensors, torch.nn.Module):
        raise OptionError("save_file takes a dict of tensors by name; save_model saves a module")
    if not isinstance(tensors, Mapping):
        raise OptionError(f"tensors must be a dict by name, not {type(tensors).__name__}")
    items = list(tensors.items())
    return _write(items, target, metadata, (), copy_overlapping, options)


def save_model(
    module: torch.nn.Module,
    target: TargetLike,
    *,
    metadata: Mapping[str, str] | None = None,
    non_persistent: bool = False,
    copy_overlapping: bool = False,
    options: WriteOptions | None = None,
) -> str:
    """Writes a module's parameters and persistent buffers under the names of its state dict.

    `non_persistent` adds the other buffers, which modules normally compute for themselves, so that
    `load_model` can fill a module built on the meta device. Tied weights stay tied; shapes and
    types are kept. Returns the file digest. The module is not modified, and its tensors must not
    change during the call.

    Raises OptionError, before anything is written, for a tensor that has no bytes of its own: on
    the meta device or in freed memory, a DTensor, a quantized or sparse tensor, or an extra state
    that is not a tensor. Raises SourceError if the target cannot be written. Otherwise as
    `save_file`.
    """
    state = module.state_dict()
    if non_persistent:
        state |= dict(module.named_buffers(remove_duplicate=False))
    return _write(list(state.items()), target, metadata, (), copy_overlapping, options)


def save(
    obj: Any,
    target: TargetLike,
    *,
    metadata: Mapping[str, str] | None = None,
    copy_overlapping: bool = False,
    options: WriteOptions | None = None,
) -> str:
    """Writes a nested object, such as the state dict of an optimizer, without pickle.

    It may contain dict, list, tuple, None, bool, int, float, str, bytes and tensors; an int may
    have up to 8191 bits. NumPy scalars and arrays come back as Python scalars and as tensors, so
    that the random-number states of PyTorch, Python and NumPy can be saved. Anything else raises
    OptionError with its path. Otherwise as `save_file`. The tensors can also be read one by one,
    under names made from their paths: `optimizer/state/0/exp_avg`.
    """
    flat = flatten(obj, lambda value: is_tensor(value) or type(value) is np.ndarray)
    items = [
        (name, _from_numpy(name, value) if type(value) is np.ndarray else value)
        for name, value in zip(flat.names, flat.tensors, strict=True)
    ]
    return _write(items, target, metadata, flat.nodes, copy_overlapping, options)


def _from_numpy(name: str, array: NDArray[Any]) -> torch.Tensor:
    if array.dtype.newbyteorder("<") not in NAMES:
        raise OptionError(
            f"tensor {name!r} is an array of dtype {array.dtype}; only numbers can be saved"
        )
    is_usable = array.flags.writeable and array.dtype.isnative
    if not is_usable or any(stride < 0 or stride % array.itemsize for stride in array.strides):
        array = np.array(array, array.dtype.newbyteorder("="), order="C")
    return torch.from_numpy(array)


def _write(
    items: Sequence[tuple[str, Any]],
    target: TargetLike,
    metadata: Mapping[str, str] | None,
    nodes: Sequence[Node],
    copy_overlapping: bool,
    options: WriteOptions | None,
) -> str:
    for name, tensor in items:
        check(name, tensor)
    ties = find_ties([extent(*item) for item in items], copy_overlapping=copy_overlapping)
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
            writer.write_later(name, data_of(tensors[name]))
    return writer.digest
