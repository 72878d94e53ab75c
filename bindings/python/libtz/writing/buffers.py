"""The bytes of the objects that a caller may pass to a writer, without a copy."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from libtz.errors import OptionError

__all__ = ["byte_view", "is_buffer"]


class _Memory:
    """Memory at an address, for NumPy. Keeps the owner alive."""

    def __init__(self, address: int, size: int, owner: Any) -> None:
        self.owner = owner
        self.__array_interface__ = {
            "version": 3,
            "data": (address, True),
            "shape": (size,),
            "typestr": "|u1",
        }


def is_buffer(data: Any) -> bool:
    """Whether `data` is one piece of memory, rather than an iterable of pieces."""
    if isinstance(data, np.ndarray) or _is_tensor(data):
        return True
    try:
        memoryview(data)
    except TypeError:
        return False
    return True


def byte_view(data: Any) -> memoryview:
    """The bytes of a contiguous buffer, array or CPU tensor. The view keeps the owner alive. Raises
    OptionError for any other object."""
    if _is_tensor(data):
        return _tensor_bytes(data)
    if isinstance(data, np.ndarray) and not data.dtype.newbyteorder("<") == data.dtype:
        raise OptionError(f"an array of dtype {data.dtype.str} is not little-endian; convert it")
    try:
        return np.frombuffer(data, np.uint8).data
    except (BufferError, TypeError, ValueError) as error:
        raise OptionError(
            f"cannot write an object of type {type(data).__qualname__} as bytes: {error}"
        ) from error


def _is_tensor(data: Any) -> bool:
    # No import is needed: if there is a tensor, torch has been imported.
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(data, torch.Tensor)


def _tensor_bytes(tensor: Any) -> memoryview:
    from libtz.arrays.torch_memory import memory_of  # so that `import libtz` does not import torch

    if tensor.device.type != "cpu":
        raise OptionError(
            f"a tensor on {tensor.device} cannot be written directly; use libtz.torch.save_file"
        )
    try:
        begin, end = memory_of(tensor)
    except OptionError as error:
        raise OptionError(f"the tensor {error.message}") from error
    if not tensor.is_contiguous() or tensor.is_conj() or tensor.is_neg():
        raise OptionError("a tensor to be written must be contiguous, without pending conjugation")
    if begin == end:
        return memoryview(b"")
    return np.asarray(_Memory(begin, end - begin, tensor)).data
