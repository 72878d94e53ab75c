"""Builds modules without initialising them, to be filled from a file."""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
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
    and no random numbers, unless the module computes with them. Buffers are real, since those that
    are not saved could not be restored. `load_model` then makes the parameters real. If both types
    are floating-point types of 16 bits or more, they take the file's.

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
        mode.draw_rest()
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
    """Defers random initialisation until a value is used. A parameter's values never are: loading
    overwrites them. Tensors too large for the memory are made on the meta device, and kept in
    `unmade`, so that they are recognised."""

    def __init__(self) -> None:
        super().__init__()
        self.unmade: dict[int, torch.Tensor] = {}
        # By id: tensors without values, and what draws these.
        self._undrawn: dict[int, tuple[weakref.ref[torch.Tensor], Callable[..., Any]]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._undrawn:
            self._draw(_tensors((*args, *kwargs.values())))
        replacement = _FACTORIES.get(func)
        # The numbers of a generator of its own depend on the order in which they are drawn.
        is_asked = kwargs.get("out") is not None or kwargs.get("generator") is not None
        if replacement is None or is_asked:
            return func(*args, **kwargs)
        kwargs.pop("generator", None)
        unmade: torch.Tensor = replacement(*args, **{**kwargs, **_META})
        if unmade.nbytes <= _memory_size():
            try:
                tensor: torch.Tensor = replacement(*args, **kwargs)
            except RuntimeError:
                if unmade.nbytes < LARGE:
                    raise
            else:
                draw = _DRAWS.get(func)
                if draw is not None and not tensor.is_floating_point():
                    return func(*args, **kwargs)
                if draw is not None:
                    self._undrawn[id(tensor)] = weakref.ref(tensor), draw
                return tensor
        self.unmade[id(unmade)] = unmade
        return unmade

    def _draw(self, tensors: Iterable[torch.Tensor]) -> None:
        for tensor in tensors:
            known, draw = self._undrawn.pop(id(tensor), (None, None))
            if draw is not None and known is not None and known() is tensor:  # no id used again
                with torch.no_grad():
                    draw(tensor)

    def draw_rest(self) -> None:
        """Draws the numbers of buffers, and of tensors that are kept in another way."""
        tensors = [known() for known, _ in self._undrawn.values()]
        self._draw(tensor for tensor in tensors if tensor is not None)


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):  # as torch.stack takes them
            yield from _tensors(value)


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
_DRAWS: dict[Any, Callable[..., Any]] = {
    torch.rand: torch.Tensor.uniform_,
    torch.randn: torch.Tensor.normal_,
    torch.rand_like: torch.Tensor.uniform_,
    torch.randn_like: torch.Tensor.normal_,
}
