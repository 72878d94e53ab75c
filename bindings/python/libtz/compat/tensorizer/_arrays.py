"""The bytes of tensors, and NumPy arrays over them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["bits", "numpy_has", "raw_array"]


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor, as a flat tensor."""
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


def numpy_has(dtype: torch.dtype) -> bool:
    """Whether NumPy has this dtype."""
    try:
        torch.empty(0, dtype=torch.uint8).view(dtype).numpy()
    except (TypeError, RuntimeError):
        return False
    return True


def raw_array(tensor: torch.Tensor) -> NDArray[Any]:
    """An array of opaque elements over the memory of a tensor."""
    size = tensor.element_size()
    flat = tensor.view(-1).view(torch.uint8).numpy()
    return flat.view(np.dtype(f"V{size}")).reshape(tuple(tensor.shape))
