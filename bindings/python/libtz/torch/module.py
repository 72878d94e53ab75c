"""Loads files into modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from libtz._native import lib
from libtz.arrays.torch_dtypes import TORCH_DTYPES
from libtz.arrays.torch_memory import memory_of
from libtz.checkpoint.file import File
from libtz.errors import Error, OptionError
from libtz.format import TensorInfo
from libtz.memory import HostBuffer
from libtz.opening import open as open_file
from libtz.options import ReadOptions
from libtz.torch.cast import check_dtype, is_cast, load_as

__all__ = ["load_model"]

_DEFAULTS = ReadOptions()
_PLAIN_TYPES = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)
_EXTRA_STATE = "_extra_state"  # PyTorch's name for what get_extra_state() returns


@dataclass(frozen=True)
class _Slot:
    """A place of a module that holds a tensor."""

    name: str
    owner: torch.nn.Module
    key: str
    is_parameter: bool
    is_volatile: bool  # a buffer that is not saved

    @property
    def places(self) -> dict[str, Any]:
        return self.owner._parameters if self.is_parameter else self.owner._buffers

    def put(self, tensor: torch.Tensor) -> None:
        self.places[self.key] = tensor


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

    @property
    def objects(self) -> list[torch.Tensor]:
        """The tensors over that memory: a parameter and its detach() are two."""
        found = [slot.places[slot.key] for slot in self.slots]
        return list({id(tensor): tensor for tensor in found}.values())


@dataclass
class _Fit:
    """How a module and a file go together."""

    groups: list[_Group] = field(default_factory=list)  # those that the file has
    others: list[_Group] = field(default_factory=list)
    # Modules with a state of their own that is a tensor in the file, by its name.
    extras: dict[str, torch.nn.Module] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def load_model(
    module: torch.nn.Module,
    source: Any,
    *,
    strict: bool = True,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    digest: str | None = None,
    options: ReadOptions = _DEFAULTS,
) -> tuple[list[str], list[str]]:
    """Loads a file into a module; returns the names that are missing in the file and those that the
    module does not have, both empty if `strict`.

    Tensors are written where the module has them; those on the meta device become real, on
    `device` or the CPU. With `device` the whole module ends up there. With `dtype`, floating-point
    tensors of the file become this type, also in the module; all others stay. Ties of
    the module stay, ties of the file come to be between tensors that were meta, and
    `requires_grad` stays. Non-persistent buffers are loaded if the file has them, and never missed.

    Everything that does not fit is told in one OptionError before anything is changed. An error
    while loading leaves tensors on the meta device as they were; if others were being
    written, the error's `changed` names them.
    """
    check_dtype(dtype)
    with open_file(source, digest=digest, options=options) as file:
        fit = _fit(module, file, strict, dtype, device is not None)
        if fit.problems:
            listed = "".join(f"\n  - {problem}" for problem in fit.problems)
            raise OptionError(f"{file!r} does not fit the module:{listed}")
        place = None if device is None else torch.device(device)
        _Loading(file, fit, place, dtype).run()
    return fit.missing, fit.unexpected


# ---- What goes where -----------------------------------------------------------------------------


def _fit(
    module: torch.nn.Module, file: File, strict: bool, dtype: torch.dtype | None, is_moved: bool
) -> _Fit:
    fit = _Fit(extras=_extra_states(module))
    known = set(fit.extras)
    for group in _groups(module):
        names = [slot.name for slot in group.slots]
        known.update(names)
        group.infos = [file.info(name) for name in names if name in file]
        if group.infos:
            fit.groups.append(group)
            fit.problems += _mismatches(group, dtype)
            continue
        fit.others.append(group)
        if is_moved and not is_lazy(group.tensor):
            fit.problems += _memory_problems(group)
        saved = [slot.name for slot in group.slots if not slot.is_volatile]
        fit.missing += saved
        if strict and not saved and group.tensor.is_meta:
            fit.problems.append(
                f"{group.name!r}, a non-persistent buffer on the meta device, is not in the file,"
                " so nothing can fill it; build the module under libtz.torch.no_init(), or save it"
                " with non_persistent=True"
            )
    fit.missing += [name for name in fit.extras if name not in file]
    fit.extras = {name: owner for name, owner in fit.extras.items() if name in file}
    fit.unexpected = [name for name in file if name not in known]
    if strict:
        fit.problems += [f"missing in the file: {name!r}" for name in fit.missing]
        fit.problems += [f"not in the module: {name!r}" for name in fit.unexpected]
    return fit


def _extra_states(module: torch.nn.Module) -> dict[str, torch.nn.Module]:
    return {
        f"{prefix}.{_EXTRA_STATE}" if prefix else _EXTRA_STATE: owner
        for prefix, owner in module.named_modules(remove_duplicate=False)
        if type(owner).get_extra_state is not torch.nn.Module.get_extra_state
    }


def _groups(module: torch.nn.Module) -> list[_Group]:
    """All tensors of a module."""
    groups: dict[Any, _Group] = {}
    for prefix, owner in module.named_modules(remove_duplicate=False):
        dot = f"{prefix}." if prefix else ""
        parameters = [(key, tensor, True) for key, tensor in owner._parameters.items()]
        buffers = [(key, tensor, False) for key, tensor in owner._buffers.items()]
        for key, tensor, is_parameter in parameters + buffers:
            if tensor is None:
                continue
            is_volatile = not is_parameter and key in owner._non_persistent_buffers_set
            group = groups.setdefault(_identity(tensor), _Group(tensor))
            group.slots.append(_Slot(dot + key, owner, key, is_parameter, is_volatile))
    return list(groups.values())


def _identity(tensor: torch.Tensor) -> Any:
    if is_lazy(tensor) or not _has_plain_memory(tensor) or not tensor.numel():
        return id(tensor)
    place = memory_of(tensor)[0], tensor.stride()
    return tensor.device, tensor.dtype, tensor.shape, place


def _has_plain_memory(tensor: torch.Tensor) -> bool:
    if type(tensor) not in _PLAIN_TYPES or tensor.layout != torch.strided or tensor.is_meta:
        return False
    try:
        memory_of(tensor)
    except OptionError:
        return False
    return True


def _mismatches(group: _Group, dtype: torch.dtype | None) -> Iterator[str]:
    if is_lazy(group.tensor):
        yield f"{group.name!r} has no shape yet; run the module once before loading into it"
        return
    yield from _memory_problems(group)
    for info in group.infos:
        if info.shape != tuple(group.tensor.shape):
            shape = tuple(group.tensor.shape)
            yield f"{info.name!r} has shape {info.shape} in the file and {shape} in the module"
        own = group.tensor.dtype
        is_converted = is_cast(info.dtype) and own.is_floating_point
        if TORCH_DTYPES.get(info.dtype) != own and not (dtype is not None and is_converted):
            hint = "; dtype= converts" if is_converted else ""
            yield f"{info.name!r} has dtype {info.dtype} in the file and {own} in the module{hint}"
    digests = {info.content_digest for info in group.infos}
    if len(digests) > 1:
        names = " and ".join(repr(info.name) for info in group.infos)
        yield f"{names} are tied in the module, but differ in the file"


def _memory_problems(group: _Group) -> Iterator[str]:
    tensor = group.tensor
    if not tensor.is_meta and tensor.layout == torch.strided:
        try:
            memory_of(tensor)
        except OptionError as error:
            yield f"{group.name!r} {error.message}"


# ---- Loading -------------------------------------------------------------------------------------


class _Loading:
    """First what can fail without a trace, then what is written in place, then assignments."""

    def __init__(
        self, file: File, fit: _Fit, device: torch.device | None, dtype: torch.dtype | None
    ) -> None:
        self._file = file
        self._fit = fit
        self._device = device
        self._dtype = dtype

    def run(self) -> None:
        self._compare_copies()
        groups = self._fit.groups
        replaced = [group for group in groups if self._is_replaced(group)]
        in_place = [group for group in groups if not self._is_replaced(group)]
        overlapping = _overlapping(in_place)
        direct = [g for g in in_place if self._is_direct(g) and id(g) not in overlapping]
        direct_ids = {id(group) for group in direct}
        copied = [group for group in in_place if id(group) not in direct_ids]
        fresh = self._load_fresh(replaced)
        extras = self._file.load(self._fit.extras)
        self._write_in_place(direct, copied)
        _assign(replaced, fresh)
        for name, owner in self._fit.extras.items():
            owner.set_extra_state(extras[name])
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

    def _target_dtype(self, group: _Group) -> torch.dtype:
        is_converted = self._dtype is not None and is_cast(group.infos[0].dtype)
        return self._dtype if is_converted and self._dtype else group.tensor.dtype

    def _is_replaced(self, group: _Group) -> bool:
        tensor = group.tensor
        return (
            tensor.is_meta
            or tensor.device != self._target(group)
            or tensor.dtype != self._target_dtype(group)
            or _has_own_overlap(tensor)
        )

    def _is_direct(self, group: _Group) -> bool:
        """Whether its bytes lie in host memory as they lie in the file."""
        tensor = group.tensor
        return (
            tensor.device.type == "cpu"
            and type(tensor) in _PLAIN_TYPES
            and tensor.layout == torch.strided
            and tensor.is_contiguous()
            and not tensor.is_conj()
            and not tensor.is_neg()
            and TORCH_DTYPES[group.infos[0].dtype] == tensor.dtype
        )

    def _write_in_place(self, direct: Sequence[_Group], copied: Sequence[_Group]) -> None:
        """Errors name all tensors that may have been written to."""
        done: list[_Group] = []
        try:
            self._load_direct(direct)
            done += direct
            self._load_copied(copied, done)
        except Error as error:
            begun = set(error.changed)
            changed = done + [g for g in direct if any(info.name in begun for info in g.infos)]
            error.changed = tuple(slot.name for group in changed for slot in group.slots)
            raise

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
            fresh |= load_as(self._file, names, device, self._dtype)
        return [fresh[group.infos[0].name] for group in groups]

    def _load_direct(self, groups: Sequence[_Group]) -> None:
        blocks: dict[str, HostBuffer] = {}
        copies: list[tuple[HostBuffer, HostBuffer]] = []
        first_of: dict[str, HostBuffer] = {}
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

    def _load_copied(self, groups: Sequence[_Group], done: list[_Group]) -> None:
        for device in {group.tensor.device for group in groups}:
            places = {g.infos[0].name: g for g in groups if g.tensor.device == device}
            for name, tensor in self._file.iter_tensors(places, device):
                done.append(places[name])
                with torch.no_grad():
                    places[name].tensor.copy_(tensor)


def _has_own_overlap(tensor: torch.Tensor) -> bool:
    """Whether elements share memory, as after expand(), so that it cannot be written to."""
    if type(tensor) not in _PLAIN_TYPES or tensor.layout != torch.strided or not tensor.numel():
        return False
    pairs = zip(tensor.stride(), tensor.shape, strict=True)
    reach = 0  # of the dimensions seen so far, beginning with the shortest stride
    for stride, count in sorted(pair for pair in pairs if pair[1] > 1):
        if stride <= reach:
            return True
        reach += stride * (count - 1)
    return False


def _overlapping(groups: Sequence[_Group]) -> set[int]:
    """The ids of groups that may share memory with others: they are written one after the other, as
    what is checked in place must not change meanwhile."""
    areas = []
    for group in groups:
        tensor = group.tensor
        if _has_plain_memory(tensor) and tensor.numel():
            areas.append((str(tensor.device), *memory_of(tensor), id(group)))
    found: set[int] = set()
    device, reached, holder = "", 0, 0
    for place, begin, end, group_id in sorted(areas):
        if place == device and begin < reached:
            found |= {holder, group_id}
        if place != device or end > reached:
            device, reached, holder = place, end, group_id
    return found


def _block(tensor: torch.Tensor) -> HostBuffer:
    start, end = memory_of(tensor)
    size = end - start
    # The module holds the tensor longer than anyone holds this.
    return HostBuffer(lib.owned_buffer(start, size, lambda: None), 0, size, start)


def _assign(groups: Iterable[_Group], tensors: Iterable[torch.Tensor]) -> None:
    made: dict[tuple[int, bool], torch.Tensor] = {}
    for group, tensor in zip(groups, tensors, strict=True):
        old = group.tensor
        if not old.is_meta:
            # Of another device or type: optimizers and others keep their reference.
            for each in group.objects:
                each.data = tensor
                if each.grad is not None:
                    each.grad.data = each.grad.data.to(tensor)
            continue
        if isinstance(old, torch.nn.Parameter):
            key = id(tensor), old.requires_grad
            if key not in made:
                made[key] = torch.nn.Parameter(tensor, requires_grad=old.requires_grad)
                made[key].__dict__.update(old.__dict__)
            tensor = made[key]
        for slot in group.slots:
            slot.put(tensor)
