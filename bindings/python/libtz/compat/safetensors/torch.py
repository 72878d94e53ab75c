"""`safetensors.torch` over libtz. See `libtz.compat.safetensors` for what differs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch

from libtz import _torch_save
from libtz import torch as libtz_torch
from libtz._torch_dtypes import FORMAT_NAMES
from libtz.compat.safetensors import safe_open
from libtz.compat.safetensors._writing import write, written
from libtz.errors import OptionError
from libtz.format import TensorInfo
from libtz.writer import TensorSpec

__all__ = ["load", "load_file", "load_model", "safe_open", "save", "save_file", "save_model"]


def save(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a .safetensors file."""
    return written(_specs(tensors), lambda name: _blocks(tensors[name]), metadata)


def save_file(
    tensors: Mapping[str, torch.Tensor],
    filename: Any,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Tensors must be contiguous and share no memory; `save_model` takes tied weights."""
    write(filename, _specs(tensors), lambda name: _blocks(tensors[name]), metadata)


def load(data: bytes) -> dict[str, torch.Tensor]:
    """From the bytes of a file."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise OptionError(f"load() takes the bytes of a file, not {type(data).__name__}")
    return libtz_torch.load_file(data)


def load_file(
    filename: Any, device: str | int | torch.device = "cpu", *, backend: str = "mmap"
) -> dict[str, torch.Tensor]:
    with safe_open(filename, framework="pt", device=device, backend=backend) as file:
        return file.get_tensors()


def save_model(
    model: torch.nn.Module,
    filename: Any,
    metadata: Mapping[str, str] | None = None,
    force_contiguous: bool = True,
) -> None:
    """Tied weights are stored once; the metadata say under which name each other one is."""
    state = model.state_dict()
    notes = dict(metadata or {})
    for kept, others in _tied(state, ()).items():
        for name in others:
            notes.setdefault(name, kept)
            del state[name]
    if force_contiguous:
        state = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(state, filename, metadata=notes or None)


def load_model(
    model: torch.nn.Module,
    filename: Any,
    strict: bool = True,
    device: str | int | torch.device = "cpu",
    *,
    backend: str = "mmap",
) -> tuple[list[str], list[str]]:
    """Copies the file's tensors into the model's; returns the missing and unexpected names."""
    with safe_open(filename, framework="pt", device=device, backend=backend) as file:
        infos = {name: file._file.info(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        state = model.state_dict()
        missing, unexpected = _difference(state, infos)
        problems = []
        if strict:
            problems += [f"missing in the file: {name!r}" for name in missing]
            problems += [f"not in the model: {name!r}" for name in unexpected]
        for name in sorted(infos.keys() & state.keys()):
            shape, own = infos[name].shape, tuple(state[name].shape)
            if shape != own:
                problems.append(f"{name!r} has shape {shape} in the file and {own} in the model")
        if problems:
            listed = "".join(f"\n  - {problem}" for problem in problems)
            raise OptionError(
                f"{filename} does not fit {type(model).__name__}; nothing was changed:{listed}"
            )
        model.load_state_dict(file.get_tensors(), strict=False)
    return missing, unexpected


def _difference(
    state: Mapping[str, torch.Tensor], infos: Mapping[str, TensorInfo]
) -> tuple[list[str], list[str]]:
    """Names of the model alone, and of the file alone. Of tied weights the file must have one; a
    further one is unexpected, unless the file says that it is tied too."""
    missing = state.keys() - infos.keys()
    unexpected = infos.keys() - state.keys()
    owners = {name: info.tied_to or name for name, info in infos.items()}
    for kept, others in _tied(state, infos).items():
        missing -= set(others)
        unexpected |= {name for name in others if name in infos and owners[name] != owners[kept]}
    return sorted(missing), sorted(unexpected)


def _specs(tensors: Mapping[str, torch.Tensor]) -> list[TensorSpec]:
    if not isinstance(tensors, Mapping):
        raise OptionError(f"tensors are a dict of names to tensors, not {type(tensors).__name__}")
    for name, tensor in tensors.items():
        _torch_save._check(name, tensor)
        if not tensor.is_contiguous():
            raise OptionError(f"tensor {name!r} is not contiguous; save its contiguous()")
    for group in _overlapping(tensors):
        if len(group) > 1:
            listed = ", ".join(repr(name) for name in sorted(group))
            raise OptionError(
                f"tensors {listed} share memory, which a .safetensors file cannot say; save_model"
                " stores one of them, a .tz file ties them"
            )
    return [
        TensorSpec(name, FORMAT_NAMES[tensor.dtype], tuple(tensor.shape))
        for name, tensor in tensors.items()
    ]


def _blocks(tensor: torch.Tensor) -> Iterable[Any]:
    data = _torch_save._data(tensor)
    return [data] if isinstance(data, torch.Tensor) else data


# ---- Tied weights --------------------------------------------------------------------------------


def _overlapping(tensors: Mapping[str, torch.Tensor]) -> list[list[str]]:
    """Names by shared memory; most are alone."""
    storages: dict[Any, list[tuple[int, int, str]]] = {}
    groups: list[list[str]] = []
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        if tensor.is_meta or storage.nbytes() == 0 or storage.data_ptr() == 0:
            groups.append([name])
            continue
        begin, end = _extent(tensor)
        storages.setdefault((tensor.device, storage.data_ptr()), []).append((begin, end, name))
    for areas in storages.values():
        reached = -1
        for begin, end, name in sorted(areas):
            if begin < reached:
                groups[-1].append(name)
            else:
                groups.append([name])
            reached = max(reached, end)
    return groups


def _extent(tensor: torch.Tensor) -> tuple[int, int]:
    size = tensor.element_size()
    begin = tensor.data_ptr()
    if not tensor.numel():
        return begin, begin
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    return begin, begin + size * (1 + sum((count - 1) * stride for count, stride in pairs))


def _tied(state: Mapping[str, torch.Tensor], preferred: Collection[str]) -> dict[str, list[str]]:
    """For each group that shares memory: the name to store, and the others.

    Stored is a tensor that covers all of the memory, one of the preferred names if possible.
    """
    ties: dict[str, list[str]] = {}
    for group in _overlapping(state):
        if len(group) < 2:
            continue
        complete = sorted(name for name in group if _is_complete(state[name]))
        if not complete:
            raise OptionError(
                f"{', '.join(map(repr, sorted(group)))} share memory, and none of them has all of"
                " it, so none can stand for the others"
            )
        kept = next((name for name in complete if name in preferred), complete[0])
        ties[kept] = sorted(name for name in group if name != kept)
    return ties


def _is_complete(tensor: torch.Tensor) -> bool:
    storage = tensor.untyped_storage()
    is_whole = tensor.numel() * tensor.element_size() == storage.nbytes()
    return is_whole and tensor.data_ptr() == storage.data_ptr()
