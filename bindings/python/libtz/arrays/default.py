"""The library whose tensors a load makes if none is chosen."""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

from libtz.arrays.base import Framework

__all__ = ["default_framework"]


@functools.cache
def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def default_framework() -> Framework[Any]:
    """PyTorch if it is installed, else NumPy."""
    # Imported on use, so that `import libtz` does not import torch.
    if _has_torch():
        from libtz.arrays.torch_arrays import TorchFramework

        return TorchFramework()
    from libtz.arrays.numpy_arrays import NumpyFramework

    return NumpyFramework()
