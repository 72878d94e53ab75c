"""Builds modules without initialising them, to be filled from a file."""

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

LARGE = 1 << 28  # if a smaller allocation fails, something else is wrong


@contextmanager
def no_init() -> Iterator[None]:
    """Modules built in this context have their parameters on the meta device: they take no memory
    and no random numbers. Buffers are real, since those that are not saved could not be restored.
    `load_model` then makes the parameters real. If both types are floating-point types of 16 bits
    or more, they take the file's.

    A parameter may be larger than the machine's memory, since none is allocated for it; a buffer
    larger than that raises OptionError. So does code that uses the values of parameters while a
    module is built, as `parametrizations.orthogonal` does: build such a module as usual, and load
    into it.

    Only affects modules built by the same thread.
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
                f"buffer {name!r} of {type(module).__qualname__} needs {buffer.nbytes} bytes, more"
                " than this machine has; no_init() saves only the memory of parameters"
            )

    mode = _NoRandomNumbers()
    hook: Any = to_meta  # PyTorch's types say that a hook returns None; the documentation differs
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
            "a module that is built under no_init() uses the values of its parameters, which do not"
            f" exist yet ({error}); build it without no_init()"
        ) from error
    finally:
        for handle in handles:
            handle.remove()


class _NoRandomNumbers(TorchFunctionMode):
    """Leaves random floats uninitialised, since loading overwrites them. Tensors too large for the
    memory are made on the meta device, and kept in `unmade`, so that they are recognised."""

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
    """The machine's memory, in bytes."""
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
