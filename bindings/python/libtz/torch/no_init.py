"""Modules without memory and random numbers, to be filled from a file."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from libtz.errors import OptionError

__all__ = ["no_init"]

LARGE = 1 << 28  # without memory for less than this, something else is wrong


@contextmanager
def no_init() -> Iterator[None]:
    """Modules built under this have their parameters on the meta device: no memory, no random
    numbers. Buffers are real, since those that are not saved could not be had otherwise. Then
    `load_model` makes the parameters real; they take the type of the file, if that is a
    floating-point type of 16 bits or more too.

    A parameter may be larger than the machine's memory, which is never asked for it; a buffer that
    is raises OptionError. So does code that computes with values of parameters while a module is
    built, as `parametrizations.orthogonal` does: build such a module as usual, and load into it.

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

    def check_buffer(module: torch.nn.Module, name: str, buffer: torch.Tensor | None) -> None:
        if threading.get_ident() == thread and buffer is not None and id(buffer) in mode.unmade:
            raise OptionError(
                f"buffer {name!r} of {type(module).__qualname__} needs {buffer.nbytes} bytes, which"
                " this machine does not have; no_init() spares memory of parameters only"
            )

    mode = _NoRandomNumbers()
    hook: Any = to_meta  # PyTorch declares a hook that returns nothing, and documents this one
    handles = [
        register_module_parameter_registration_hook(hook),
        register_module_buffer_registration_hook(check_buffer),
    ]
    try:
        with mode:
            yield
    except (RuntimeError, NotImplementedError) as error:
        if "meta" not in str(error):
            raise
        raise OptionError(
            "a module that was built under no_init() computes with values of its parameters, which"
            f" are not there yet ({error}); build it without no_init()"
        ) from error
    finally:
        for handle in handles:
            handle.remove()


class _NoRandomNumbers(TorchFunctionMode):
    """Random floats become whatever is in memory: what they would have been is overwritten. What
    there is no memory for is on the meta device, and held here to be known."""

    def __init__(self) -> None:
        super().__init__()
        self.unmade: dict[int, torch.Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _IN_PLACE:
            return args[0]
        replacement = _FACTORIES.get(func)
        if replacement is None:
            return func(*args, **kwargs)
        kwargs = {key: value for key, value in kwargs.items() if key != "generator"}
        if kwargs.get("out") is not None:
            return replacement(*args, **kwargs)
        unmade: torch.Tensor = replacement(*args, **{**kwargs, **_META})
        if unmade.nbytes <= _memory_size():
            try:
                return replacement(*args, **kwargs)
            except RuntimeError:
                if unmade.nbytes < LARGE:
                    raise
        self.unmade[id(unmade)] = unmade
        return unmade


@functools.cache
def _memory_size() -> int:
    """Of the machine, in bytes."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return 1 << 62


_META: dict[str, Any] = {"device": "meta", "pin_memory": False}

_FACTORIES: dict[Any, Callable[..., Any]] = {
    torch.empty: torch.empty,
    torch.zeros: torch.zeros,
    torch.ones: torch.ones,
    torch.full: torch.full,
    torch.rand: torch.empty,
    torch.randn: torch.empty,
    torch.empty_like: torch.empty_like,
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
