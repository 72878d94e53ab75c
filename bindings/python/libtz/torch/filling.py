"""Writes the tensors of a file into a module."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch

from libtz._native import lib
from libtz.arrays.torch_dtypes import TORCH_DTYPES
from libtz.arrays.torch_memory import memory_of
from libtz.checkpoint.base import Checkpoint
from libtz.errors import Error, OptionError
from libtz.memory import HostBuffer
from libtz.torch.cast import load_as
from libtz.torch.fit import Fit
from libtz.torch.module_entries import PLAIN_TYPES, Group, Target, overlapping

__all__ = ["Filling", "assign"]


class Filling:
    """First what can fail without changing the module, then in-place writes, then assignments."""

    def __init__(self, file: Checkpoint[torch.Tensor], fit: Fit, target: Target) -> None:
        self._file = file
        self._fit = fit
        self._target = target
        self._changed: list[str] = []  # names in the module

    def run(self) -> None:
        self._compare_copies()
        groups = self._fit.groups
        replaced = [group for group in groups if self._target.is_replaced(group)]
        in_place = [group for group in groups if not self._target.is_replaced(group)]
        shared = overlapping(in_place)
        direct = [g for g in in_place if _is_direct(g) and id(g) not in shared]
        direct_ids = {id(group) for group in direct}
        copied = [group for group in in_place if id(group) not in direct_ids]
        fresh = self._load_fresh(replaced)
        extras = self._file.load(self._fit.extras)
        moved = self._moved()
        with self._naming_changed():
            self._load_direct(direct)
            self._load_copied(copied)
            self._assign(replaced, fresh)
            self._assign(*moved)
            for name, owner in self._fit.extras.items():
                self._changed.append(name)
                owner.set_extra_state(extras[name])

    @contextmanager
    def _naming_changed(self) -> Iterator[None]:
        """Errors name all tensors that may have been written to."""
        try:
            yield
        except Error as error:
            error.changed = tuple(self._changed)
            raise
        except Exception as error:  # from a method of a tensor or module
            wrapped = Error(f"{self._file!r}: the module raised {type(error).__name__}: {error}")
            wrapped.changed = tuple(self._changed)
            raise wrapped from error

    def _compare_copies(self) -> None:
        """For ties of the module that the file stores as copies, without digests to compare."""
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

    def _load_fresh(self, groups: Sequence[Group]) -> list[torch.Tensor]:
        fresh: dict[str, torch.Tensor] = {}
        for device in {self._target.device_of(group) for group in groups}:
            names = [g.infos[0].name for g in groups if self._target.device_of(g) == device]
            fresh |= load_as(self._file, names, device, self._target.dtype)
        return [fresh[group.infos[0].name] for group in groups]

    def _moved(self) -> tuple[list[Group], list[torch.Tensor]]:
        """Tensors that are not in the file and have to be moved to the device."""
        groups = [group for group in self._fit.others if self._target.is_moved(group)]
        return groups, [g.tensor.detach().to(self._target.device_of(g)) for g in groups]

    def _load_direct(self, groups: Sequence[Group]) -> None:
        buffers: dict[str, HostBuffer] = {}
        copies: list[tuple[Group, HostBuffer, HostBuffer]] = []
        first_of: dict[str, HostBuffer] = {}
        for group in groups:
            info = group.infos[0]
            buffer = _buffer(group.tensor)
            first = first_of.setdefault(info.tied_to or info.name, buffer)
            if first is buffer:
                buffers[info.name] = buffer
            else:
                copies.append((group, buffer, first))
        if buffers:
            try:
                self._file.load_into(buffers)
            except Error as error:
                begun = set(error.changed)
                for group in groups:
                    if any(info.name in begun for info in group.infos):
                        self._note(group)
                raise
        for group in groups:
            self._note(group)
        for _, target, source in copies:
            target.view()[:] = source.view()
        for group in groups:
            if not group.tensor.is_inference():
                torch.autograd.graph.increment_version(group.tensor)

    def _load_copied(self, groups: Sequence[Group]) -> None:
        for device in {group.tensor.device for group in groups}:
            targets = {g.infos[0].name: g for g in groups if g.tensor.device == device}
            for name, tensor in self._file.iter_tensors(targets, device):
                target = targets[name].tensor
                self._note(targets[name])
                with torch.inference_mode(target.is_inference()), torch.no_grad():
                    target.copy_(tensor)

    def _assign(self, groups: Sequence[Group], tensors: Sequence[torch.Tensor]) -> None:
        for group in groups:
            if not group.tensor.is_meta:
                self._note(group)
        assign(groups, tensors)

    def _note(self, group: Group) -> None:
        self._changed += [entry.name for entry in group.entries]


def _is_direct(group: Group) -> bool:
    """Whether its layout in host memory is the same as in the file."""
    tensor = group.tensor
    return (
        tensor.device.type == "cpu"
        and type(tensor) in PLAIN_TYPES
        and tensor.layout == torch.strided
        and tensor.is_contiguous()
        and not tensor.is_conj()
        and not tensor.is_neg()
        and TORCH_DTYPES[group.infos[0].dtype] == tensor.dtype
    )


def _buffer(tensor: torch.Tensor) -> HostBuffer:
    start, end = memory_of(tensor)
    # Keeps the tensor: a thread may still write to it when the module has dropped it.
    return HostBuffer(lib.owned_buffer(start, end - start, tensor), 0, end - start, start)


def assign(groups: Iterable[Group], tensors: Iterable[torch.Tensor]) -> None:
    """Gives groups new memory. Those on the meta device get new parameters."""
    made: dict[tuple[int, bool], torch.Tensor] = {}
    for group, tensor in zip(groups, tensors, strict=True):
        old = group.tensor
        if not old.is_meta:
            # The device or type changes: optimizers keep their references.
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
        for entry in group.entries:
            entry.put(tensor)
