"""Files of `torch.save`, for conversion: .pt, .pth, .ckpt and .bin files, and sharded sets of .bin
files with an index.

Pickles are read by PyTorch's own restricted loader, which only calls functions from a short list.
That list has had holes, so use this to convert a file once, not to serve models.
"""

from __future__ import annotations

import errno
import math
import os
import re
import time
import zipfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from libtz._native.lib import Node
from libtz.arrays.base import Destination
from libtz.arrays.torch_arrays import TorchFramework
from libtz.arrays.torch_dtypes import FORMAT_NAMES
from libtz.checkpoint.base import Checkpoint
from libtz.checkpoint.contents import Contents
from libtz.checkpoint.shard_index import INDEX_SUFFIX, read_index
from libtz.checkpoint.shards import check_shard
from libtz.checkpoint.slices import ReadItem, Region, cut
from libtz.errors import FormatError, OptionError, SourceError
from libtz.format import Format, TensorInfo, Verified
from libtz.locations import Location
from libtz.memory import HostBuffer, allocate
from libtz.options import ReadOptions
from libtz.structure import flatten
from libtz.text import printable
from libtz.torch.tensor_bytes import check, data_of, extent, is_tensor
from libtz.transfer.stats import TransferStats
from libtz.writing.buffers import byte_view
from libtz.writing.overlap import find_ties

__all__ = ["Pickled"]

U = TypeVar("U")

SHARD_SUFFIXES = (".bin",)

# How much larger than the file its contents may be: shared containers are written out, and tensors
# of stride 0 repeat their data.
OBJECT_SIZE_EXTRA = 100_000
TENSORS_SIZE_EXTRA = 1 << 30

# From PyTorch's messages, between advice on how to load the file unsafely.
_REFUSED = re.compile(r"Unsupported global: GLOBAL (\S{1,200})")
_DETAIL = re.compile(r"WeightsUnpickler error: ([^\n]+?)(?: Please use|\n|$)")
_ESCAPES = re.compile("\x1b\\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class PickledContents(Contents):
    """What was found in a file of `torch.save`, or in a set of them."""

    location: str
    infos: Mapping[str, TensorInfo]
    nodes: list[Node]

    @property
    def url(self) -> str:
        return self.location

    @property
    def format(self) -> Format:
        return "pickle"

    @property
    def metadata(self) -> Mapping[str, str]:
        return {}

    @property
    def digest(self) -> None:
        return None

    @property
    def content_digest(self) -> None:
        return None

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    def __len__(self) -> int:
        return len(self.infos)

    def __contains__(self, name: object) -> bool:
        return name in self.infos

    def info(self, name: str) -> TensorInfo:
        return self.infos[name]

    def structure(self) -> list[Node]:
        return self.nodes


class Pickled(Checkpoint[torch.Tensor]):
    """A file of `torch.save`. Tensors are mapped from the file, so they take no memory of their
    own; files in the format used before PyTorch 1.6 are read into memory."""

    def __init__(self, source: str, options: ReadOptions) -> None:
        location = Location.of(source)
        if not location.is_local:
            raise OptionError(f"{location}: PyTorch reads only local files; download it first")
        self._is_closed = False
        self._stats = TransferStats()
        if location.name.endswith(INDEX_SUFFIX):
            value: Any = _load_set(location, options)
            size = 0  # of all that is not a tensor
        else:
            value = _load(location.text)
            size = Path(location.text).stat().st_size
        nodes: list[Node] = []
        if type(value) is not dict or not all(
            type(name) is str and is_tensor(each) for name, each in value.items()
        ):
            flat = flatten(value, is_tensor, size_max=size + OBJECT_SIZE_EXTRA)
            value = dict(zip(flat.names, flat.tensors, strict=True))
            nodes = flat.nodes
        self._tensors: dict[str, torch.Tensor] = value
        for name, tensor in self._tensors.items():
            check(name, tensor)
        self._infos = {info.name: info for info in _described(self._tensors)}
        super().__init__(TorchFramework(), PickledContents(str(location), self._infos, nodes))
        self._require_held()

    @property
    def verified(self) -> Verified:
        return "none"

    @property
    def stats(self) -> TransferStats:
        return self._stats

    @property
    def closed(self) -> bool:
        return self._is_closed

    def read_items(
        self, items: Sequence[ReadItem], into: Destination[U], *, streamed: bool
    ) -> Generator[tuple[ReadItem, U], None, None]:
        self._require_open()
        begin = time.perf_counter()
        size = 0
        for item in items:
            info = self._infos[item.name]
            into.framework.require(info.dtype, info.name)
        whole: dict[str, U] = {}  # by owner, for tensors tied to it
        for item in items:
            info = self._infos[item.name]
            owner = info.tied_to or info.name
            if item.region is not None:
                yield item, _made(self._tensors[owner], info, item.region, into)
                continue
            if owner not in whole:
                if streamed:
                    whole.clear()
                whole[owner] = _made(self._tensors[owner], info, None, into)
                size += info.nbytes
            yield item, whole[owner]
        self._stats = TransferStats("map", time.perf_counter() - begin, bytes_wanted=size)

    def fill(self, buffers: Mapping[str, HostBuffer]) -> None:
        self._require_open()
        for name, buffer in buffers.items():
            if buffer.size != self._infos[name].nbytes:
                raise OptionError(
                    f"tensor {name!r} needs a buffer of {self._infos[name].nbytes} bytes"
                )
        for name, buffer in buffers.items():
            _copy(self._tensors[name], buffer)

    def verify(self) -> None:
        raise OptionError(f"{self.url}: files of torch.save have no checksums to verify")

    def close(self) -> None:
        self._is_closed = True
        self._tensors = {}

    def _require_held(self) -> None:
        """Raises an error if the tensors are much larger than their stored data."""
        storages = {
            storage.data_ptr(): storage.nbytes()
            for storage in (tensor.untyped_storage() for tensor in self._tensors.values())
        }
        size = sum(info.stored_nbytes for info in self._infos.values())
        if size > sum(storages.values()) + TENSORS_SIZE_EXTRA:
            raise FormatError(
                f"{self.url}: its tensors would take {size} bytes, but the file stores"
                f" only {sum(storages.values())} bytes for them",
                code="bad-pickle",
            )

    def _require_open(self) -> None:
        if self._is_closed:
            raise OptionError(f"{self.url} is closed")


def _described(tensors: Mapping[str, torch.Tensor]) -> Iterator[TensorInfo]:
    names = list(tensors)
    ties = find_ties(
        [extent(name, tensor) for name, tensor in tensors.items()], copy_overlapping=True
    )
    for (name, tensor), tie in zip(tensors.items(), ties, strict=True):
        yield TensorInfo(
            name=name,
            dtype=FORMAT_NAMES[tensor.dtype],
            shape=tuple(tensor.shape),
            nbytes=tensor.nbytes,
            stored_nbytes=0 if tie is not None else tensor.nbytes,
            content_digest=None,
            tied_to=None if tie is None else names[tie],
        )


def _made(tensor: torch.Tensor, info: TensorInfo, region: Region | None, into: Destination[U]) -> U:
    """A copy, so that it owns its memory."""
    shape = info.shape if region is None else region.shape
    buffer = None
    if math.prod(shape):
        buffer = allocate(info.nbytes)
        _copy(tensor, buffer)
        if region is not None:
            buffer = cut(buffer.view(), region)
    made = into.framework.make(buffer, 0, info.dtype, shape)
    return made if into.device is None else into.device.copy(made)


def _copy(tensor: torch.Tensor, buffer: HostBuffer) -> None:
    data = data_of(tensor)
    begin = 0
    for piece in [data] if isinstance(data, torch.Tensor) else data:
        view = byte_view(piece)
        buffer.view()[begin : begin + len(view)] = view
        begin += len(view)


def _load(path: str) -> Any:
    """A state dict as a plain dict."""
    if not os.path.isfile(path):  # noqa: PTH113
        raise SourceError(f"{path}: there is no such file", url=path, errno=errno.ENOENT)
    try:
        _require_stored(path)
        try:
            value = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap can only be used" not in str(error):
                raise
            value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling bad bytes may raise anything
        message = f"{path}: PyTorch cannot load it safely: {_reason(error)}"
        raise FormatError(message, code="bad-pickle") from error
    return dict(value) if isinstance(value, dict) else value


def _reason(error: Exception) -> str:
    """What PyTorch says is wrong with a file, without its advice on how to load it unsafely."""
    text = _ESCAPES.sub("", str(error))
    refused = _REFUSED.search(text)
    if refused is not None:
        return (
            f"it needs {refused[1]}, and only tensors, containers and plain values are read; where"
            " you trust the file, load it with PyTorch, save its state dict alone, and convert that"
        )
    detail = _DETAIL.search(text)
    line = detail[1] if detail else (text.splitlines() or [""])[0]
    return printable(line) or type(error).__name__


def _require_stored(path: str) -> None:
    """That the members of a zip file are there as they are. PyTorch compresses nothing, and reads
    what others compressed into memory, however much it becomes."""
    with Path(path).open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    size = sum(member.file_size for member in members)
    is_stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
    if not is_stored or size > Path(path).stat().st_size:
        raise ValueError("its members are compressed or overlap, which torch.save never writes")


def _load_set(location: Location, options: ReadOptions) -> dict[str, torch.Tensor]:
    index = read_index(location, options, suffixes=SHARD_SUFFIXES)
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(set(index.values())):
        path = location.sibling(file).text
        part = _load(path)
        if not isinstance(part, dict):
            raise FormatError(f"{path}: it does not contain a dict of tensors", code="bad-set")
        expected = [name for name, where in index.items() if where == file]
        check_shard(path, part, set(expected))
        tensors |= {name: part[name] for name in expected}
    return {name: tensors[name] for name in index}
