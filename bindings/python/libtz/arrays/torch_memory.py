"""The address range of a PyTorch tensor, checked against its storage.

A tensor can outlive its memory: FSDP frees the storage of parameters (`resize_(0)`) and leaves the
tensors as they were. Access to their address crashes the process, so all addresses of tensors are
obtained here. Two faults cannot be detected: a mapped file that was truncated, and memory of a
NumPy array or foreign buffer that its owner has freed.
"""

from __future__ import annotations

import torch

from libtz.errors import OptionError

__all__ = ["memory_of"]


def memory_of(tensor: torch.Tensor) -> tuple[int, int]:
    """The addresses of the first element and of the end of the last; (0, 0) without elements.

    Raises OptionError unless all elements lie in the tensor's storage. The message is text to
    follow the tensor's name: "has no memory …".
    """
    of = torch.Tensor  # a subclass may return anything
    with torch._C.DisableTorchFunctionSubclass():
        if of.numel(tensor) == 0:
            return 0, 0
        try:
            begin = of.data_ptr(tensor)
            storage = of.untyped_storage(tensor)
            start = storage.data_ptr()
        except (RuntimeError, NotImplementedError) as error:
            raise _without_memory(tensor) from error
        if storage.device != tensor.device:
            raise _without_memory(tensor)
        pairs = zip(of.size(tensor), of.stride(tensor), strict=True)
        reach = sum((count - 1) * stride for count, stride in pairs)
        itemsize, offset = of.element_size(tensor), of.storage_offset(tensor)
    needed = (offset + reach + 1) * itemsize
    if storage.nbytes() < needed:
        raise OptionError(
            f"needs {needed} bytes of its storage, which has {storage.nbytes()}: it was freed or"
            " shrunk, as FSDP does with parameters between uses"
        )
    if start == 0 or begin != start + offset * itemsize:
        raise _without_memory(tensor)
    return begin, begin + (reach + 1) * itemsize


def _without_memory(tensor: torch.Tensor) -> OptionError:
    return OptionError(
        f"has no memory of its own ({type(tensor).__qualname__} on {tensor.device}); tensors that"
        " wrap others, fake tensors, and those of a transform such as torch.vmap have none"
    )
