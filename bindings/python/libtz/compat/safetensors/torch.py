"""`safetensors.torch`, implemented with libtz. See `libtz.compat.safetensors` for differences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.parameter import is_lazy

from libtz import torch as libtz_torch
from libtz.arrays.torch_dtypes import FORMAT_NAMES, TORCH_DTYPES
from libtz.arrays.torch_memory import memory_of
from libtz.compat._errors import RuntimeOptionError, ValueOptionError
from libtz.compat.safetensors import checkpoint_of, safe_open
from libtz.compat.safetensors._raw import DTYPES, described, file_bytes
from libtz.compat.safetensors._sharing import _end_ptr as _end_ptr
from libtz.compat.safetensors._sharing import (
    _find_shared_tensors,
    _remove_duplicate_names,
)
from libtz.compat.safetensors._sharing import _is_complete as _is_complete
from libtz.compat.safetensors._sharing import storage_ptr as storage_ptr
from libtz.compat.safetensors._sharing import storage_size as storage_size
from libtz.compat.safetensors._writing import check_names, write, written
from libtz.errors import OptionError
from libtz.format import TensorInfo
from libtz.torch import tensor_bytes
from libtz.torch.fit import EXTRA_STATE
from libtz.torch.load_hooks import HookedLoad, has_load_hooks
from libtz.torch.module_entries import Target
from libtz.writing.base import TensorSpec

__all__ = ["load", "load_file", "load_model", "safe_open", "save", "save_file", "save_model"]

# PyTorch's dtypes by their names in .safetensors files, and their sizes in bytes. Other libraries
# import these from the package.
_TYPES = {described(name, ())[0]: TORCH_DTYPES[name] for name in DTYPES.values()}
_SIZE = {dtype: dtype.itemsize for dtype in _TYPES.values()}


def _getdtype(dtype_str: str) -> torch.dtype:
    return _TYPES[dtype_str]


def _to_ndarray(tensor: torch.Tensor) -> tuple[NDArray[np.uint8], torch.Tensor]:
    """The bytes, and the tensor that may own their memory."""
    _check("to be converted", tensor)
    tensor = tensor.detach().cpu()
    return tensor.contiguous().view(-1).view(torch.uint8).numpy(), tensor


def save(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a .safetensors file. Raises SafetensorError if it cannot hold the tensors."""
    return written(_specs(tensors), lambda name: _pieces(tensors[name]), metadata)


def save_file(
    tensors: Mapping[str, torch.Tensor],
    filename: Any,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a .safetensors file. The tensors must be contiguous and must not share memory; for
    tied weights, use `save_model`. Raises SafetensorError."""
    write(filename, _specs(tensors), lambda name: _pieces(tensors[name]), metadata)


def load(data: bytes) -> dict[str, torch.Tensor]:
    """Loads the tensors in the bytes of a file. They own their memory. Raises SafetensorError."""
    return libtz_torch.load_file(file_bytes(data))


def load_file(
    filename: Any, device: str | int | torch.device = "cpu", *, backend: str = "mmap"
) -> dict[str, torch.Tensor]:
    """Loads the tensors of a file. With the backend "mmap", tensors on the CPU may be private
    mappings of it. Raises SafetensorError."""
    with safe_open(filename, framework="pt", device=device, backend=backend) as file:
        return file.get_tensors()


def save_model(
    model: torch.nn.Module,
    filename: Any,
    metadata: Mapping[str, str] | None = None,
    force_contiguous: bool = True,
) -> None:
    """Writes the state of a module. Tied weights are stored once; the metadata map their other
    names to the stored one. Raises SafetensorError."""
    state = model.state_dict()
    for name, tensor in state.items():
        _check(name, tensor)
    entries = dict(metadata or {})
    for kept, others in _remove_duplicate_names(state).items():
        for name in others:
            entries.setdefault(name, kept)
            del state[name]
    if force_contiguous:
        state = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(state, filename, metadata=entries if entries or metadata is not None else None)


def load_model(
    model: torch.nn.Module,
    filename: Any,
    strict: bool = True,
    device: str | int | torch.device = "cpu",
    *,
    backend: str = "mmap",
) -> tuple[list[str], list[str]]:
    """Copies the file's tensors into the model's. Returns the missing and unexpected names. Raises
    RuntimeError, before the model is modified, if something does not match."""
    with safe_open(filename, framework="pt", device=device, backend=backend) as file:
        checkpoint = checkpoint_of(file)
        infos = {name: checkpoint.info(name) for name in sorted(checkpoint)}
        state = model.state_dict()
        has_extra_state = any(name.rpartition(".")[2] == EXTRA_STATE for name in state)
        if has_extra_state or has_load_hooks(model, infos.__contains__):
            return _load_by_hooks(model, file.get_tensors(), filename, strict)
        problems = [
            problem
            for name in sorted(infos.keys() & state.keys())
            for problem in _memory_problems(name, state[name])
        ]
        missing, unexpected = ([], []) if problems else _difference(state, infos)
        if strict:
            problems += _strangers(missing, unexpected)
        for name in sorted(infos.keys() & state.keys()):
            shape, own = infos[name].shape, tuple(state[name].shape)
            if shape != own:
                problems.append(
                    f"size mismatch for {name}: copying a param with shape {torch.Size(shape)} from"
                    f" checkpoint, the shape in current model is {torch.Size(own)}."
                )
        _refuse(model, filename, problems)
        model.load_state_dict(file.get_tensors(), strict=False)
    return missing, unexpected


def _load_by_hooks(
    model: torch.nn.Module, state: Mapping[str, torch.Tensor], filename: Any, strict: bool
) -> tuple[list[str], list[str]]:
    """Loads as the package does, after checking everything that can be checked."""
    load = HookedLoad(model, Target(None, None), is_converting=True)
    load.rehearse(state)
    _refuse(model, filename, load.problems)
    if strict and not load.has_post_hooks:
        _refuse(model, filename, _strangers(load.missing, load.unexpected))
    load.apply()
    if strict and (load.missing or load.unexpected):
        text = _misfit(model, filename, _strangers(load.missing, load.unexpected))
        error = RuntimeOptionError(f"{text}; the model was changed")
        error.changed = load.changed
        raise error
    return sorted(load.missing), sorted(load.unexpected)


def _refuse(model: torch.nn.Module, filename: Any, problems: Iterable[str]) -> None:
    if listed := list(problems):
        raise RuntimeOptionError(f"{_misfit(model, filename, listed)}; nothing was changed")


def _misfit(model: torch.nn.Module, filename: Any, problems: Iterable[str]) -> str:
    """In the words of PyTorch and of the package, which callers look for."""
    lines = "".join(f"\n    {problem}" for problem in problems)
    name = type(model).__name__
    return f"Error(s) in loading state_dict for {name}:{lines}\n{filename} does not fit it"


def _strangers(missing: Iterable[str], unexpected: Iterable[str]) -> list[str]:
    """Messages about names that only the model has, and those that only the file has."""
    sides = (("Missing", missing), ("Unexpected", unexpected))
    listed = [(word, ", ".join(f'"{name}"' for name in sorted(names))) for word, names in sides]
    return [f"{word} key(s) in state_dict: {names}" for word, names in listed if names]


def _memory_problems(name: str, tensor: torch.Tensor) -> Iterator[str]:
    """Problems of memory that PyTorch would write to unchecked, although it was freed."""
    if not tensor.is_meta and tensor.layout == torch.strided and not is_lazy(tensor):
        try:
            memory_of(tensor)
        except OptionError as error:
            yield f"{name!r} {error.message}"


def _difference(
    state: Mapping[str, torch.Tensor], infos: Mapping[str, TensorInfo]
) -> tuple[list[str], list[str]]:
    """The names that only the model has, and those that only the file has. Of tied weights, the
    file must contain one. A second one is unexpected, unless it is tied in the file too."""
    missing = state.keys() - infos.keys()
    unexpected = infos.keys() - state.keys()
    owners = {name: info.tied_to or name for name, info in infos.items()}
    for kept, others in _remove_duplicate_names(state, preferred_names=infos).items():
        missing -= set(others)
        unexpected |= {name for name in others if name in infos and owners[name] != owners[kept]}
    return sorted(missing), sorted(unexpected)


def _specs(tensors: Mapping[str, torch.Tensor]) -> list[TensorSpec]:
    if not isinstance(tensors, Mapping):
        raise ValueOptionError(
            f"Expected a dict of [str, torch.Tensor] but received {type(tensors)}"
        )
    check_names(tensors)
    _refuse_sparse(tensors)
    for name, tensor in tensors.items():
        _check(name, tensor)
    if shared := [sorted(group) for group in _find_shared_tensors(tensors) if len(group) > 1]:
        raise RuntimeOptionError(
            "Some tensors share memory, this will lead to duplicate memory on disk and potential"
            f" differences when loading them again: {shared}. A potential way to correctly save"
            " your model is to use `save_model`, which stores one of each group; a .tz file ties"
            " them"
        )
    for name, tensor in tensors.items():
        if not tensor.is_contiguous():
            raise ValueOptionError(
                f"You are trying to save a non contiguous tensor: `{name}` which is not allowed."
                " Save its `.contiguous()`, or use save_model(..., force_contiguous=True)"
            )
    return [
        TensorSpec(name, FORMAT_NAMES[tensor.dtype], tuple(tensor.shape))
        for name, tensor in tensors.items()
    ]


def _refuse_sparse(tensors: Mapping[str, Any]) -> None:
    sparse = []
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise ValueOptionError(
                f"Key `{name}` is invalid, expected torch.Tensor but received {type(tensor)}"
            )
        if tensor.layout != torch.strided:
            sparse.append(name)
    if sparse:
        raise ValueOptionError(
            f"You are trying to save a sparse tensors: `{sparse}` which this library does not"
            " support. You can make it a dense tensor before saving with `.to_dense()` but be aware"
            " this might make a much larger file than needed."
        )


def _check(name: str, tensor: Any) -> None:
    """The errors have the types of the package's, and what its users look for in their text."""
    if isinstance(tensor, torch.Tensor) and tensor.is_meta:
        raise RuntimeOptionError(
            f"tensor {name!r}: Cannot copy out of meta tensor; no data! It has none to save"
        )
    try:
        tensor_bytes.check(name, tensor)
    except OptionError as error:
        raise ValueOptionError(error.message) from None


def _pieces(tensor: torch.Tensor) -> Iterable[Any]:
    data = tensor_bytes.data_of(tensor)
    return [data] if isinstance(data, torch.Tensor) else data
