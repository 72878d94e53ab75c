"""Builds transformers models without weights, and refuses those too large for their file."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch.nn.modules import module as torch_module

from libtz.arrays.torch_dtypes import TORCH_DTYPES
from libtz.checkpoint.base import Checkpoint
from libtz.integrations.transformers_config import bad_config, typed_errors
from libtz.locations import Location
from libtz.torch.no_init import no_init

__all__ = ["empty_model"]

# A layer has a few modules, such as activations, for each of its tensors. The factor is generous
# because a file may store several tensors merged into one.
PARTS_PER_TENSOR = 16
PARTS_MIN = 4096
ELEMENTS_MIN = 1 << 20
BUFFERS_SIZE_MIN = 256 << 20

# The dtypes that PyTorch accepts as the default of new tensors.
_DEFAULT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def empty_model(
    framework: Any,
    config: Any,
    file: Checkpoint[torch.Tensor],
    dtype: torch.dtype | None,
    location: Location,
) -> Any:
    """Builds the model that the configuration from `location` describes, with its parameters on the
    meta device. Raises FormatError if that fails, or if the model is much larger than `file`."""
    dtypes = [TORCH_DTYPES.get(file.info(name).dtype) for name in file]
    floating = [each for each in dtypes if each is not None and each.is_floating_point]
    with (
        typed_errors(location, "no model can be built"),
        _default_dtype(dtype or next(iter(floating), None)),
    ):
        # On the meta device first, where the sizes in config.json take no memory.
        with torch.device("meta"), _bounded_building(location, len(file)):
            outline = _new(framework, copy.deepcopy(config))
        _check_sizes(outline, file, location)
        with no_init():
            return _new(framework, config)


def _new(framework: Any, config: Any) -> Any:
    # Auto classes have a function to make models from a configuration.
    is_model = isinstance(framework, type) and issubclass(framework, transformers.PreTrainedModel)
    return framework(config) if is_model else framework.from_config(config)


@contextmanager
def _bounded_building(location: Location, tensor_count: int) -> Iterator[None]:
    """Raises FormatError during the construction of a model, in this thread, that has far more
    modules than the file has tensors."""
    thread = threading.get_ident()
    parts_max = PARTS_PER_TENSOR * tensor_count + PARTS_MIN
    count = 0

    def counted(*_: Any) -> None:
        nonlocal count
        if threading.get_ident() != thread:
            return
        count += 1
        if count > parts_max:
            raise bad_config(
                location,
                f"describes a model of more than {parts_max} modules and tensors; the weights file"
                f" has {tensor_count} tensors",
            )

    hooks = [
        torch_module.register_module_module_registration_hook(counted),
        torch_module.register_module_parameter_registration_hook(counted),
        torch_module.register_module_buffer_registration_hook(counted),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _check_sizes(outline: Any, file: Checkpoint[torch.Tensor], location: Location) -> None:
    infos = [file.info(name) for name in file]
    # Tied parameters are not tied yet, so they may count twice.
    elements_max = 2 * sum(math.prod(info.shape) for info in infos) + ELEMENTS_MIN
    elements = sum(parameter.numel() for parameter in outline.parameters())
    size_max = sum(info.nbytes for info in infos) + BUFFERS_SIZE_MIN
    size = sum(buffer.numel() * buffer.element_size() for buffer in outline.buffers())
    if elements > elements_max:
        raise bad_config(
            location,
            f"describes a model of {elements:,} parameters, more than the weights file contains",
        )
    if size > size_max:
        raise bad_config(
            location,
            f"describes a model with {size:,} bytes of buffers; {size_max:,} are allowed for this"
            " weights file",
        )


@contextmanager
def _default_dtype(dtype: torch.dtype | None) -> Iterator[None]:
    before = torch.get_default_dtype()
    if dtype in _DEFAULT_DTYPES:
        torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
