"""Loading into modules that customise loading, with hooks or with methods of their own.

Such a module may rename, split or join the entries of a state dict, or load a state that is not a
tensor. So PyTorch's `load_state_dict` runs with everything in memory, but it assigns tensors
instead of writing to them, and the module's own tensors are put back afterwards. This shows where
each tensor goes, and a mismatch is refused before the module is modified.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.module import _IncompatibleKeys
from torch.nn.parameter import is_lazy

from libtz.arrays.torch_memory import memory_of
from libtz.errors import Error, OptionError
from libtz.torch.filling import assign
from libtz.torch.fit import EXTRA_STATE
from libtz.torch.module_entries import (
    UNSCALED_TYPES,
    Group,
    ModuleEntry,
    Target,
    groups_of,
    problem_of,
)
from libtz.torch.names import cut

__all__ = ["HookedLoad", "has_load_hooks"]

# These differ only for old state dicts without a counter; see `has_load_hooks`.
_USUAL: tuple[Any, ...] = (
    torch.nn.Module._load_from_state_dict,
    _NormBase._load_from_state_dict,
    _InstanceNorm._load_from_state_dict,
)
_COUNTER = "num_batches_tracked"


def has_load_hooks(module: torch.nn.Module, known: Callable[[str], bool]) -> bool:
    """Whether the module's `load_state_dict` does more than copy tensors by name. `known` says
    whether the file has a name."""
    if _has_own(module, "load_state_dict", (torch.nn.Module.load_state_dict,)):
        return True
    for prefix, part in module.named_modules(remove_duplicate=False):
        if part._load_state_dict_pre_hooks or part._load_state_dict_post_hooks:
            return True
        if _has_own(part, "_load_from_state_dict", _USUAL):
            return True
        if isinstance(part, _NormBase) and part._buffers.get(_COUNTER) is not None:
            name = f"{prefix}.{_COUNTER}" if prefix else _COUNTER
            if not known(name):
                return True
    return False


def _has_own(module: torch.nn.Module, method: str, usual: tuple[Any, ...]) -> bool:
    return method in vars(module) or getattr(type(module), method) not in usual


class HookedLoad:
    """One load: `rehearse`, look at `problems`, `missing` and `unexpected`, then `apply`."""

    def __init__(self, module: torch.nn.Module, target: Target, *, is_converting: bool) -> None:
        """`is_converting`: values are converted to the types in the module, as in PyTorch."""
        self._module = module
        self._target = target
        self._is_converting = is_converting
        self._groups = groups_of(module)
        self._versions = [_version(group.tensor) for group in self._groups]
        self._changed: list[str] = []
        self._filled: list[tuple[Group, torch.Tensor]] = []
        self.problems: list[str] = []
        self.missing: list[str] = []
        self.unexpected: list[str] = []

    @property
    def has_post_hooks(self) -> bool:
        """Post hooks may change `missing` and `unexpected`, which are final only after `apply`."""
        return any(part._load_state_dict_post_hooks for part in self._module.modules())

    def rehearse(self, state: Mapping[str, torch.Tensor]) -> None:
        """Does everything except writing. Extra states are already set here."""
        volatile = {entry.name for g in self._groups for entry in g.entries if entry.is_volatile}
        given = {name: tensor for name, tensor in state.items() if name not in volatile}
        for group in self._groups:  # a file may have any one of the names of a tie
            names = [entry.name for entry in group.entries if not entry.is_volatile]
            stored = [name for name in names if name in state]
            given.update({name: state[stored[0]] for name in names if stored and name not in state})
        extras = [name for name in state if name.rpartition(".")[2] == EXTRA_STATE]
        self._changed += extras
        news: dict[int, list[torch.Tensor]] = {}
        own = [
            [(entry, entry.registry[entry.key]) for entry in group.entries]
            for group in self._groups
        ]
        with self._naming_changed():
            try:
                self._load(given)
            finally:
                for group, originals in zip(self._groups, own, strict=True):
                    news[id(group)] = _taken_back(originals)
        for group in self._groups:
            stored = [
                entry.name for entry in group.entries if entry.is_volatile and entry.name in state
            ]
            if found := news[id(group)] or [state[name] for name in stored]:
                self._fit(group, found)
        self.problems = cut(self.problems)

    @property
    def changed(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self._changed))

    def _load(self, given: Mapping[str, torch.Tensor]) -> None:
        load: Any = self._module.load_state_dict
        options = {"strict": False, "assign": True}
        try:
            inspect.signature(load).bind(given, **options)
        except TypeError:  # a method written before PyTorch 2.1
            if any(group.tensor.is_meta for group in self._groups):
                raise OptionError(
                    f"{type(self._module).__name__}.load_state_dict() does not take assign=True, so"
                    " it cannot make tensors on the meta device real"
                ) from None
            del options["assign"]
        hooks = [(part, part._load_state_dict_post_hooks) for part in self._module.modules()]
        is_swapping = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(False)
        try:
            for part, _ in hooks:
                part._load_state_dict_post_hooks = type(part._load_state_dict_post_hooks)()
            keys = load(given, **options)
        except RuntimeError as error:
            if not str(error).startswith("Error(s) in loading state_dict"):
                raise
            self.problems += [line.strip() for line in str(error).splitlines()[1:]]
        else:
            self.missing, self.unexpected = map(list, keys or ((), ()))
        finally:
            torch.__future__.set_swap_module_params_on_conversion(is_swapping)
            for part, own in hooks:
                part._load_state_dict_post_hooks = own

    def _fit(self, group: Group, news: list[torch.Tensor]) -> None:
        tensor, new = group.tensor, news[0]
        problem = problem_of(tensor, is_written=False)
        if problem is not None:
            self.problems.append(f"{group.name!r} {problem}")
            return
        if any(not _is_same(new, other) for other in news[1:]):
            names = " and ".join(repr(entry.name) for entry in group.entries)
            self.problems.append(f"{names} are tied in the module, but differ in the file")
        dtype = self._dtype_of(group, new)
        if dtype != new.dtype and not self._is_converting:
            both = new.is_floating_point() and tensor.is_floating_point()
            hint = "; dtype= converts" if both else ""
            self.problems.append(
                f"{group.name!r} has dtype {new.dtype} in the file and {dtype} in the module{hint}"
            )
        elif not self._is_replaced(group, dtype):
            problem = problem_of(tensor, is_written=True)
            if problem is not None:
                self.problems.append(f"{group.name!r} {problem}")
        self._filled.append((group, new))

    def _dtype_of(self, group: Group, new: torch.Tensor) -> torch.dtype:
        own = group.tensor.dtype
        if self._target.dtype is not None and new.dtype == self._target.dtype:
            return new.dtype if own.is_floating_point else own
        is_free = group.tensor.is_meta and own in UNSCALED_TYPES and new.dtype in UNSCALED_TYPES
        return new.dtype if is_free else own

    def _is_replaced(self, group: Group, dtype: torch.dtype) -> bool:
        return dtype != group.tensor.dtype or self._target.has_other_place(group)

    def apply(self) -> None:
        """Writes the tensors, then runs the post hooks."""
        with self._naming_changed():
            made: dict[Any, torch.Tensor] = {}  # ties of the file stay ties
            for group, new in self._filled:
                dtype = self._dtype_of(group, new)
                if self._is_replaced(group, dtype):
                    if not group.tensor.is_meta:
                        self._note(group)
                    device = self._target.device_of(group)
                    key = memory_of(new), new.shape, new.stride(), new.dtype, dtype, device
                    if key not in made or not new.numel():
                        made[key] = new.detach().to(device, dtype)
                    assign([group], [made[key]])
                else:
                    self._note(group)
                    with torch.inference_mode(group.tensor.is_inference()), torch.no_grad():
                        group.tensor.copy_(new)
            self._move_others()
            self._run_post_hooks(self._module)

    def _move_others(self) -> None:
        filled = {id(group) for group, _ in self._filled}
        for group in self._groups:
            if id(group) not in filled and self._target.is_moved(group):
                self._note(group)
                assign([group], [group.tensor.detach().to(self._target.device_of(group))])

    def _run_post_hooks(self, module: torch.nn.Module) -> None:
        for child in module.children():
            self._run_post_hooks(child)
        keys = _IncompatibleKeys(self.missing, self.unexpected)
        for hook in list(module._load_state_dict_post_hooks.values()):
            hook(module, keys)

    def _note(self, group: Group) -> None:
        self._changed += [entry.name for entry in group.entries]

    @contextmanager
    def _naming_changed(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # also from hooks
            written = [
                entry.name
                for group, version in zip(self._groups, self._versions, strict=True)
                if _version(group.tensor) != version
                for entry in group.entries
            ]
            changed = tuple(dict.fromkeys(self._changed + written))
            if isinstance(error, Error):
                error.changed = changed
                raise
            name = type(self._module).__name__
            wrapped = Error(
                f"the code of {name} raised {type(error).__name__} while loading: {error}"
            )
            wrapped.changed = changed
            raise wrapped from error


def _taken_back(originals: list[tuple[ModuleEntry, torch.Tensor]]) -> list[torch.Tensor]:
    """Puts the module's own tensors back; returns the tensors that were assigned instead."""
    news = []
    for entry, own in originals:
        new = entry.registry.get(entry.key)
        if new is None or new is own:
            continue
        # If a hook has changed the shape, the assigned tensor stays.
        if not is_lazy(own) and new.shape == own.shape:
            entry.put(own)
            news.append(new)
    return news


def _version(tensor: torch.Tensor) -> int:
    return 0 if is_lazy(tensor) or tensor.is_inference() else tensor._version


def _is_same(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    flat = (t.detach().contiguous().view(-1).view(torch.uint8) for t in (one, other))
    return torch.equal(*flat)
