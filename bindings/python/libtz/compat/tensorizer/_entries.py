"""The tensors of a file in the terms of a TensorDeserializer: with paths instead of names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from libtz.checkpoint.base import Checkpoint
from libtz.checkpoint.coreweave import CoreweaveFile
from libtz.compat.tensorizer._types import TensorPath, TensorType
from libtz.errors import OptionError
from libtz.structure import tensor_paths

__all__ = ["Entry", "arranged", "entries_of", "layers", "leaves"]


class Entry(NamedTuple):
    """A tensor of the file."""

    name: str  # in libtz
    path: TensorPath
    tensor_type: TensorType
    is_dotted: bool  # in the file, the name begins with a dot
    dtype: str
    shape: tuple[int, ...]
    nbytes: int

    @property
    def label(self) -> str | TensorPath:
        """The name or path in Tensorizer, which filters receive and generators yield."""
        if len(self.path) > 1 or not isinstance(self.path[0], str):
            return self.path
        return f".{self.path[0]}" if self.is_dotted else self.path[0]


def entries_of(file: Checkpoint[Any]) -> list[Entry]:
    """The entries in the order of the file."""
    paths = _paths(file)
    entries = []
    for info in map(file.info, file):
        path = paths.get(info.name, (info.name,))
        tensor_type = _tensor_type(file, info.name)
        is_dotted = isinstance(file, CoreweaveFile) and file.is_dotted(info.name)
        entries.append(
            Entry(info.name, path, tensor_type, is_dotted, info.dtype, info.shape, info.nbytes)
        )
    return entries


_TYPES = {"parameter": TensorType.PARAM, "buffer": TensorType.BUFFER}


def _tensor_type(file: Checkpoint[Any], name: str) -> TensorType:
    role = file.module_role(name) if isinstance(file, CoreweaveFile) else ""
    return _TYPES.get(role, TensorType.STATE_DICT)


def _paths(file: Checkpoint[Any]) -> dict[str, TensorPath]:
    """The paths of a nested object's tensors by name. Empty for a flat file."""
    paths = tensor_paths(file.structure())
    if paths is None:
        raise OptionError(f"{file.url} contains more than tensors; use libtz.torch.load to load it")
    return {name: path or (name,) for name, path in paths.items()}


def layers(entries: Iterable[Entry]) -> dict[Any, Any]:
    """The paths as nested dicts, with entries as leaves."""
    root: dict[Any, Any] = {}
    for entry in entries:
        layer = root
        for step in entry.path[:-1]:
            layer = layer.setdefault(step, {})
        layer[entry.path[-1]] = entry
    return root


def arranged(layer: Any, tensor: Callable[[Entry], Any], *, has_lists: bool) -> Any:
    """Replaces the entries of nested dicts by tensors. Returns dicts and lists, or only immutable
    mappings. The depth is limited, since files limit it."""
    if isinstance(layer, Entry):
        return tensor(layer)
    values = {key: arranged(layer[key], tensor, has_lists=has_lists) for key in layer}
    if not has_lists:
        return MappingProxyType(values)
    if values and isinstance(next(iter(values)), int):
        return [values[index] for index in sorted(values)]
    return values


def leaves(layer: Any) -> Sequence[Entry]:
    if isinstance(layer, Entry):
        return [layer]
    return [entry for value in layer.values() for entry in leaves(value)]
