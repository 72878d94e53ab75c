"""Loads files into modules, and builds modules that wait for that."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from libtz._native import lib
from libtz._torch_dtypes import TORCH_DTYPES
from libtz.errors import Error, OptionError
from libtz.format import TensorInfo
from libtz.options import ReadOptions
from libtz.reader import File
from libtz.reader import open as open_file
from libtz.transfer.memory import Block

__all__ = ["load_model", "no_init"]

_DEFAULTS = ReadOptions()
_PLAIN_TYPES = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)


@dataclass(frozen=True)
class _Slot:
    """A place of a module that holds a tensor."""

    name: str
    owner: torch.nn.Module
    key: str
    is_parameter: bool

    def put(self, tensor: torch.Tensor) -> None:
        places: dict[str, Any] = (
            self.owner._parameters if self.is_parameter else self.owner._buffers
        )
        places[self.key] = tensor


@dataclass
class _Group:
    """A tensor of the module, and all its places: more than one if it is tied."""

    tensor: torch.Tensor
    slots: list[_Slot] = field(default_factory=list)
    # The file's tensors for it. More than one if the file stores a tie as copies.
    infos: list[TensorInfo] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.slots[0].name


@dataclass
class _Fit:
    """How a module and a file go together."""

    groups: list[_Group]  # those that the file has
    missing: list[str]
    unexpected: list[str]
    problems: list[str]
    others: list[_Group]  # not in the file, or not to be


def load_model(
    module: torch.nn.Module,
    source: Any,
    *,
    strict: bool = True,
    device: torch.device | str | None = None,
    digest: str | None = None,
    options: ReadOptions = _DEFAULTS,
) -> tuple[list[str], list[str]]:
    """Loads a file into a module; returns the names that are missing in the file and those that the
    module does not have, both empty if `strict`.

    Tensors are written where the module has them; those on the meta device become real, on
    `device` or the CPU. With `device` the whole module ends up there. Ties of the module stay, ties
    of the file come to be between tensors that were meta, and `requires_grad` stays.

    Everything that does not fit is told in one OptionError before anything is changed. An error
    while loading leaves tensors on the meta device as they were; if others were being
    written, the error names them.
    """
    with open_file(source, digest=digest, options=options) as file:
        fit = _fit(module, file, strict)
        if fit.problems:
            listed = "".join(f"\n  - {problem}" for problem in fit.problems)
            raise OptionError(f"{file!r} does not fit the module:{listed}")
        _Loading(file, fit, None if device is None else torch.device(device)).run()
    return fit.missing, fit.unexpected


# ---- What goes where -----------------------------------------------------------------------------


def _fit(module: torch.nn.Module, file: File, strict: bool) -> _Fit:
    persistent, volatile = _groups(module)
    fit = _Fit([], [], [], [], volatile)
    known: set[str] = set()
    for group in persistent:
        names = [slot.name for slot in group.slots]
        known.update(names)
        group.infos = [file.info(name) for name in names if name in file]
        if group.infos:
            fit.groups.append(group)
            fit.problems += _mismatches(group)
        else:
            fit.missing += names
            fit.others.append(group)
    fit.unexpected = [name for name in file if name not in known]
    if strict:
        fit.problems += [f"missing in the file: {name!r}" for name in fit.missing]
        fit.problems += [f"not in the module: {name!r}" for name in fit.unexpected]
        fit.problems += [
            f"{group.name!r} is not saved in files, and on the meta device, so nothing can fill it;"
            " build the module under libtz.torch.no_init()"
            for group in volatile
            if group.tensor.is_meta
        ]
    return fit


def _groups(module: torch.nn.Module) -> tuple[list[_Group], list[_Group]]:
    """All tensors of a module: those that are saved, and its non-persistent buffers."""
    persistent: dict[Any, _Group] = {}
    volatile: dict[Any, _Group] = {}
    for prefix, owner in module.named_modules(remove_duplicate=False):
        dot = f"{prefix}." if prefix else ""
        parameters = [(key, tensor, True) for key, tensor in owner._parameters.items()]
        buffers = [(key, tensor, False) for key, tensor in owner._buffers.items()]
        for key, tensor, is_parameter in parameters + buffers:
            if tensor is None:
                continue
            is_volatile = not is_parameter and key in owner._non_persistent_buffers_set
            groups = volatile if is_volatile else persistent
            group = groups.setdefault(_identity(tensor), _Group(tensor))
            group.slots.append(_Slot(dot + key, owner, key, is_parameter))
    return list(persistent.values()), list(volatile.values())


def _identity(tensor: torch.Tensor) -> Any:
    if tensor.is_meta or is_lazy(tensor) or type(tensor) not in _PLAIN_TYPES or not tensor.numel():
        return id(tensor)
    place = tensor.data_ptr(), tensor.stride()
    return tensor.device, tensor.dtype, tensor.shape, place


def _mismatches(group: _Group) -> Iterator[str]:
    if is_lazy(group.tensor):
        yield f"{group.name!r} has no shape yet; run the module once before loading into it"
        return
    for info in group.infos:
        if info.shape != tuple(group.tensor.shape):
            shape = tuple(group.tensor.shape)
            yield f"{info.name!r} has shape {info.shape} in the file and {shape} in the module"
        dtype = TORCH_DTYPES.get(info.dtype)
        if dtype != group.tensor.dtype:
            kind = group.tensor.dtype
            yield f"{info.name!r} has dtype {info.dtype} in the file and {kind} in the module"
    digests = {info.content_digest for info in group.infos}
    if len(digests) > 1:
        names = " and ".join(repr(info.name) for info in group.infos)
        yield f"{names} are tied in the module, but differ in the file"


# ---- Loading -------------------------------------------------------------------------------------


class _Loading:
    """First what can fail without a trace, then what is written in place, then assignments."""

    def __init__(self, file: File, fit: _Fit, device: torch.device | None) -> None:
        self._file = file
        self._fit = fit
        self._device = device

    def run(self) -> None:
        self._compare_copies()
        groups = self._fit.groups
        replaced = [group for group in groups if self._is_replaced(group)]
        in_place = [group for group in groups if not self._is_replaced(group)]
        direct = [group for group in in_place if _is_direct(group.tensor)]
        copied = [group for group in in_place if not _is_direct(group.tensor)]
        fresh = self._load_fresh(replaced)
        with _reporting(in_place):
            self._load_direct(direct)
            self._load_copied(copied)
        _assign(replaced, fresh)
        if self._device is not None:
            for group in self._fit.others:
                if not group.tensor.is_meta and group.tensor.device != self._target(group):
                    _assign([group], [group.tensor.detach().to(self._device)])

    def _target(self, group: _Group) -> torch.device:
        if self._device is None:
            return torch.device("cpu") if group.tensor.is_meta else group.tensor.device
        if self._device.type == "cuda" and self._device.index is None:
            return torch.device("cuda", torch.cuda.current_device())
        return self._device

    def _is_replaced(self, group: _Group) -> bool:
        return group.tensor.is_meta or group.tensor.device != self._target(group)

    def _compare_copies(self) -> None:
        """A tie of the module that the file stores as copies, without digests to tell so."""
        for group in self._fit.groups:
            first, *rest = group.infos
            if not rest or first.content_digest is not None:
                continue
            buffers = dict(self._file.iter_buffers(info.name for info in group.infos))
            for info in rest:
                if buffers[info.name] != buffers[first.name]:
                    raise OptionError(
                        f"{first.name!r} and {info.name!r} are tied in the module, but differ in"
                        " the file; nothing was changed"
                    )

    def _load_fresh(self, groups: Sequence[_Group]) -> list[torch.Tensor]:
        fresh: dict[str, torch.Tensor] = {}
        for device in {self._target(group) for group in groups}:
            names = [group.infos[0].name for group in groups if self._target(group) == device]
            fresh |= self._file.load(names, device)
        return [fresh[group.infos[0].name] for group in groups]

    def _load_direct(self, groups: Sequence[_Group]) -> None:
        blocks: dict[str, Block] = {}
        copies: list[tuple[Block, Block]] = []
        first_of: dict[str, Block] = {}
        for group in groups:
            info = group.infos[0]
            block = _block(group.tensor)
            first = first_of.setdefault(info.tied_to or info.name, block)
            if first is block:
                blocks[info.name] = block
            else:
                copies.append((block, first))
        if blocks:
            self._file.load_into(blocks)
        for target, source in copies:
            target.view()[:] = source.view()
        for group in groups:
            torch.autograd.graph.increment_version(group.tensor)

    def _load_copied(self, groups: Sequence[_Group]) -> None:
        for device in {group.tensor.device for group in groups}:
            places = {
                group.infos[0].name: group.tensor
                for group in groups
                if group.tensor.device == device
            }
            for name, tensor in self._file.iter_tensors(places, device):
                with torch.no_grad():
                    places[name].copy_(tensor)


def _is_direct(tensor: torch.Tensor) -> bool:
    """Whether its bytes lie in host memory as they lie in a file."""
    return (
        tensor.device.type == "cpu"
        and type(tensor) in _PLAIN_TYPES
        and tensor.layout == torch.strided
        and tensor.is_contiguous()
        and not tensor.is_conj()
        and not tensor.is_neg()
    )


def _block(tensor: torch.Tensor) -> Block:
    size = tensor.numel() * tensor.element_size()
    start = tensor.data_ptr()
    # The module holds the tensor longer than anyone holds this.
    return Block(lib.owned_buffer(start, size, lambda: None), 0, size, start)


@contextmanager
def _reporting(groups: Sequence[_Group]) -> Iterator[None]:
    try:
        yield
    except Error as error:
        if not groups:
            raise
        names = ", ".join(repr(slot.name) for group in groups for slot in group.slots)
        told = copy.copy(error)
        told.message = f"{error.message}; these were being written, and now hold anything: {names}"
        told.args = (told.message,)
        raise told from error


def _assign(groups: Sequence[_Group], tensors: Sequence[torch.Tensor]) -> None:
    made: dict[tuple[int, bool], torch.Tensor] = {}
    for group, tensor in zip(groups, tensors, strict=True):
        old = group.tensor
        if not old.is_meta:
            old.data = tensor  # another device: optimizers and others keep their reference
            continue
        if group.slots[0].is_parameter:
            key = id(tensor), old.requires_grad
            if key not in made:
                made[key] = torch.nn.Parameter(tensor, requires_grad=old.requires_grad)
                made[key].__dict__.update(old.__dict__)
            tensor = made[key]
        for slot in group.slots:
            slot.put(tensor)


# ---- Modules without memory ----------------------------------------------------------------------


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
