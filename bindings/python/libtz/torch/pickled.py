"""What `torch.save` wrote, as far as converting it needs: .pt, .pth, .ckpt and .bin files, and sets
of the latter with their index.

Pickle is read by PyTorch's own restricted loader, which runs no code but that of a short list. That
list has had holes, so this is for files that are to be converted once, not for serving models from.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from libtz._native.lib import Node
from libtz.arrays.torch_dtypes import FORMAT_NAMES
from libtz.checkpoint.shard_index import INDEX_SUFFIX, read_index
from libtz.checkpoint.sharded import check_shard
from libtz.errors import FormatError, OptionError, SourceError
from libtz.format import TensorInfo
from libtz.options import ReadOptions
from libtz.sources.resolve import scheme_of
from libtz.sources.url import shown
from libtz.sources.whole import location_of, sibling
from libtz.structure import NodeKind, flatten
from libtz.torch.tensor_bytes import check, data_of, extent, is_tensor
from libtz.writing.buffers import byte_view
from libtz.writing.overlap import find_ties

__all__ = ["Pickled"]

SHARD_SUFFIXES = (".bin",)


class Pickled:
    """The part of `File` that converting takes. Tensors are mapped from their files, so they take
    no memory of their own; files in the form before PyTorch 1.6 are read into memory."""

    def __init__(self, source: str, options: ReadOptions) -> None:
        location = location_of(source)
        if scheme_of(location) is not None:
            raise OptionError(f"{shown(location)}: PyTorch reads local files only; fetch it first")
        if location.endswith(INDEX_SUFFIX):
            value: Any = _load_set(location, options)
        else:
            value = _load(location)
        self._nodes: list[Node] = []
        if type(value) is not dict or not all(
            type(name) is str and is_tensor(each) for name, each in value.items()
        ):
            flat = flatten(value, is_tensor)
            value = dict(zip(flat.names, flat.tensors, strict=True))
            for node in flat.nodes:
                is_leaf = node.kind == NodeKind.TENSOR
                self._nodes.append(node._replace(value=flat.names[node.value]) if is_leaf else node)
        self._tensors: dict[str, torch.Tensor] = value
        for name, tensor in self._tensors.items():
            check(name, tensor)
        extents = [extent(name, tensor) for name, tensor in self._tensors.items()]
        names = list(self._tensors)
        ties = find_ties(extents, copy_overlapping=True)
        self._ties = {
            name: None if tie is None else names[tie] for name, tie in zip(names, ties, strict=True)
        }

    def __enter__(self) -> Pickled:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    @property
    def metadata(self) -> Mapping[str, str]:
        return {}

    def structure(self) -> list[Node]:
        return self._nodes

    def info(self, name: str) -> TensorInfo:
        tensor = self._tensors[name]
        return TensorInfo(
            name=name,
            dtype=FORMAT_NAMES[tensor.dtype],
            shape=tuple(tensor.shape),
            nbytes=tensor.nbytes,
            stored_nbytes=tensor.nbytes,
            content_digest=None,
            tied_to=self._ties[name],
        )

    def iter_buffers(self, names: Iterable[str]) -> Iterator[tuple[str, memoryview]]:
        for name in names:
            data = data_of(self._tensors[name])
            yield name, byte_view(data if isinstance(data, torch.Tensor) else next(data))


def _load(path: str) -> Any:
    """A state dict as a plain dict."""
    if not os.path.isfile(path):  # noqa: PTH113
        raise SourceError(f"{path}: there is no such file", url=path, errno=errno.ENOENT)
    try:
        try:
            value = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap can only be used" not in str(error):
                raise
            value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever unpickling says to odd bytes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        message = f"{path}: PyTorch does not load it safely: {reason}"
        raise FormatError(message, code="bad-pickle") from error
    return dict(value) if isinstance(value, dict) else value


def _load_set(location: str, options: ReadOptions) -> dict[str, torch.Tensor]:
    index = read_index(location, options, suffixes=SHARD_SUFFIXES)
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(set(index.values())):
        path = sibling(location, file)
        part = _load(path)
        if not isinstance(part, dict):
            raise FormatError(f"{path}: it holds no dict of tensors", code="bad-set")
        check_shard(path, part, {name for name, where in index.items() if where == file})
        tensors |= part
    return {name: tensors[name] for name in index}
