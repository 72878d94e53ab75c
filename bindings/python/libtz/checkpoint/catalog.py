"""The tensors in the header of one file. Work per tensor is done on demand."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from libtz._native import lib
from libtz.checkpoint.contents import Contents
from libtz.checkpoint.slices import ReadItem
from libtz.format import Format, TensorInfo, digest_text, dtype_name, item_size
from libtz.structure import NodeKind

__all__ = ["Catalog", "Entry", "is_valueless", "memory_size"]

_FORMATS: dict[int, Format] = {
    lib.FORMAT_TZ: "tz",
    lib.FORMAT_SAFETENSORS: "safetensors",
    lib.FORMAT_COREWEAVE: "tensors",
}


# When one description in this many has been read alone, the rest are read at once.
SHARE_READ_ALONE = 8


def is_valueless(tensor: lib.Tensor) -> bool:
    """Whether the file stores a shape for the tensor but no values, so that it loads as zeros."""
    return bool(tensor.flags & lib.TENSOR_META)


def memory_size(tensor: lib.Tensor) -> int:
    """The size of the tensor in memory, in bytes."""
    if not is_valueless(tensor):
        return tensor.decoded_size
    return math.prod(tensor.shape) * item_size(dtype_name(tensor.dtype))


class Entry(NamedTuple):
    """A requested item, and the tensor that holds its data."""

    item: ReadItem
    order: int  # of the requested tensor, in the file
    owner: int  # index of the tensor that holds the data; another one only if tied
    tensor: lib.Tensor  # the owner


class Catalog(Contents):
    """Names, order, ties and descriptions of the tensors in one header."""

    def __init__(self, header: lib.Header) -> None:
        self.header = header
        self._indices: dict[str, int] | None = None
        self._tensors: list[lib.Tensor] | None = None
        # The last result of `_described`: reading a tensor calls it several times.
        self._latest: tuple[str, tuple[int, lib.Tensor]] | None = None
        self._single_count = 0  # descriptions that were read one by one

    def prepare(self) -> None:
        """Reads all descriptions at once, which takes half the time of single reads."""
        if self._tensors is None:
            tensors = self.header.tensors(range(len(self)))
            order = self.header.order().tolist()
            self._indices = {tensors[index].name: index for index in order}
            self._tensors = tensors

    @property
    def url(self) -> str:
        return self.header.label

    @property
    def format(self) -> Format:
        return _FORMATS[self.header.info.format]

    @property
    def digest(self) -> str | None:
        is_tz = self.header.info.format == lib.FORMAT_TZ
        return digest_text(self.header.info.file_digest) if is_tz else None

    @property
    def content_digest(self) -> str | None:
        digest = self.header.content_digest()
        return None if digest is None else digest_text(digest)

    @property
    def metadata(self) -> Mapping[str, str]:
        pairs = map(self.header.pair, range(self.header.info.metadata_count))
        return MappingProxyType(dict(pairs))

    def structure(self) -> list[lib.Node]:
        nodes = []
        for node in map(self.header.node, range(self.header.info.node_count)):
            is_tensor = node.kind == NodeKind.TENSOR
            value = self.header.name(node.value) if is_tensor else node.value
            nodes.append(lib.Node(NodeKind(node.kind), node.key, value))
        return nodes

    def __len__(self) -> int:
        return self.header.info.tensor_count

    def __iter__(self) -> Iterator[str]:
        """Names, in the writer's order."""
        if self._indices is None:
            order = self.header.order().tolist()
            self._indices = dict(zip(self.header.names(order), order, strict=True))
        return iter(self._indices)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._find(name) is not None

    def index(self, name: str) -> int:
        """The index in the tensor table. Raises KeyError if there is no tensor of that name."""
        index = self._find(name)
        if index is None:
            raise KeyError(name)
        return index

    def _find(self, name: str) -> int | None:
        if self._indices is not None:
            return self._indices.get(name)
        return self.header.find(name) if isinstance(name, str) else None

    def _described(self, name: str) -> tuple[int, lib.Tensor]:
        """The index of a tensor in the table, and the tensor."""
        tensors, indices = self._tensors, self._indices
        if tensors is not None and indices is not None:
            index = indices[name]
            return index, tensors[index]
        latest = self._latest
        if latest is None or latest[0] != name:
            index = self.index(name)
            self._latest = latest = name, (index, self.header.tensor(index))
            self._single_count += 1
            if self._single_count * SHARE_READ_ALONE >= len(self):
                self.prepare()
        return latest[1]

    def tensor(self, name: str) -> lib.Tensor:
        return self._described(name)[1]

    def info(self, name: str) -> TensorInfo:
        tensor = self.tensor(name)
        digest = tensor.content_digest
        return TensorInfo(
            name=tensor.name,
            dtype=dtype_name(tensor.dtype),
            shape=tensor.shape,
            nbytes=memory_size(tensor),
            stored_nbytes=tensor.stored_size,
            content_digest=None if digest is None else digest_text(digest),
            tied_to=None if tensor.tie is None else self.header.name(tensor.tie),
        )

    def entry(self, item: ReadItem) -> Entry:
        return self._entry(item, *self._described(item.name))

    def entries(self, items: Sequence[ReadItem]) -> list[Entry]:
        indices = [self.index(item.name) for item in items]
        known = self._tensors
        tensors = self.header.tensors(indices) if known is None else [known[i] for i in indices]
        return list(map(self._entry, items, indices, tensors))

    def _entry(self, item: ReadItem, index: int, tensor: lib.Tensor) -> Entry:
        if tensor.tie is None:
            return Entry(item, tensor.order, index, tensor)
        return Entry(item, tensor.order, tensor.tie, self.header.tensor(tensor.tie))
