"""Modules without memory and random numbers, to be filled from a file."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

__all__ = ["no_init"]


@contextmanager
def no_init() -> Iterator[None]:
    """Modules built under this have their parameters on the meta device: no memory, no random
    numbers. Buffers are real, since those that are not saved could not be had otherwise. Then
    `load_model` makes the parameters real.

    Only for modules built by the same thread.
    """
    thread = threading.get_ident()

    def to_meta(
        module: torch.nn.Module, name: str, parameter: torch.nn.Parameter
    ) -> torch.nn.Parameter | None:
        is_ours = threading.get_ident() == thread
        if not is_ours or parameter is None or parameter.is_meta or is_lazy(parameter):
            return None
        moved = torch.nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
        moved.__dict__.update(parameter.__dict__)
        return moved

    hook: Any = to_meta  # PyTorch declares a hook that returns nothing, and documents this one
    handle = register_module_parameter_registration_hook(hook)
    try:
        with _NoRandomNumbers():
            yield
    finally:
        handle.remove()


class _NoRandomNumbers(TorchFunctionMode):
    """Random floats become whatever is in memory: what they would have been is overwritten."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _IN_PLACE:
            return args[0]
        replacement = _FACTORIES.get(func)
        if replacement is not None:
            kwargs = {key: value for key, value in kwargs.items() if key != "generator"}
            return replacement(*args, **kwargs)
        return func(*args, **kwargs)


_FACTORIES: dict[Any, Callable[..., Any]] = {
    torch.rand: torch.empty,
    torch.randn: torch.empty,
    torch.rand_like: torch.empty_like,
    torch.randn_like: torch.empty_like,
}
_IN_PLACE = {
    torch.Tensor.cauchy_,
    torch.Tensor.exponential_,
    torch.Tensor.log_normal_,
    torch.Tensor.normal_,
    torch.Tensor.uniform_,
}
