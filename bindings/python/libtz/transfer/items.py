"""What one load reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from libtz._native import lib

__all__ = ["LoadItems"]


@dataclass(frozen=True)
class LoadItems:
    """Tensors to load, or parts of them. A tied tensor stands for none: its owner does.

    With a box, an item is part of a tensor, and several items may be parts of the same one.
    """

    tensors: Sequence[lib.Tensor]
    indices: NDArray[np.uint32]  # of the tensors, in the header
    boxes: Sequence[lib.Box | None] | None = None

    def __len__(self) -> int:
        return len(self.tensors)
