"""Writes .safetensors files, laid out as the safetensors package does, tensor by tensor.

The header comes first in the file, but is known from the declaration. So data are written in order,
and the SHA-256 of the whole file, its pin, is known at the end without reading anything again.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from libtz._native import lib
from libtz.errors import OptionError
from libtz.locations import TargetLike
from libtz.options import WriteOptions
from libtz.sinks.base import Extent
from libtz.structure import NodeKind
from libtz.writing.base import CheckpointWriter, Ending, TensorSpec, listed, untied
from libtz.writing.buffers import byte_view, is_buffer
from libtz.writing.names import check_name

__all__ = ["METADATA_KEY", "SafetensorsWriter"]

HEADER_SIZE_MAX = 100_000_000  # the limit of the safetensors package
METADATA_KEY = "__metadata__"


class SafetensorsWriter(CheckpointWriter):
    """The same as `libtz.Writer`, but without ties and nested objects, which the format does not
    have. Raises OptionError if a structure is given that is more than a state dict."""

    def __init__(
        self,
        target: TargetLike,
        specs: Iterable[TensorSpec],
        *,
        metadata: Mapping[str, str] | None = None,
        structure: Sequence[lib.Node] = (),
        options: WriteOptions | None = None,
    ) -> None:
        super().__init__(target, options)
        if structure and not _is_state_dict(structure):
            raise OptionError(f"{self._label}: a .safetensors file cannot hold a nested object")
        declared = listed(specs)
        self._header, ends = _make_header(declared, metadata)
        self._declare(spec.name for spec in declared)
        self._ends = deque(ends)
        self._offset = len(self._header)
        self._file_size = ends[-1] if ends else len(self._header)
        self._hash = hashlib.sha256(self._header)

    @classmethod
    def arranged(cls, specs: Iterable[TensorSpec]) -> list[TensorSpec]:
        # The format has no padding. With the largest units first, all tensors are aligned.
        return sorted(untied(specs), key=_unit_size, reverse=True)

    def _extent(self) -> Extent:
        return Extent(len(self._header), self._file_size)

    def _put(self, name: Hashable, data: Any) -> None:
        self._check_turn(name)
        begin, end = self._offset, self._ends[0]
        pieces = [data] if is_buffer(data) else data
        sink = self._opened()
        with self._failing():
            for piece in pieces:
                view = byte_view(piece)
                if len(view) > end - self._offset:
                    raise self._wrong_size(name, end - begin, "more")
                self._hash.update(view)
                sink.write_at(self._offset, view)
                self._offset += len(view)
            if self._offset != end:
                raise self._wrong_size(name, end - begin, f"{self._offset - begin}")
        self._ends.popleft()
        self._done()

    def _end(self) -> Ending:
        return Ending(self._header, self._file_size, f"sha256:{self._hash.hexdigest()}")


def _is_state_dict(structure: Sequence[lib.Node]) -> bool:
    """Whether the object is a dict of tensors by their names, which a flat file holds as well."""
    root, *entries = structure
    return root.kind == NodeKind.DICT and all(
        node.kind == NodeKind.TENSOR and node.key == node.value for node in entries
    )


def _make_header(
    specs: Sequence[TensorSpec], metadata: Mapping[str, str] | None
) -> tuple[bytes, list[int]]:
    """The header, and the offset in the file at which each tensor ends."""
    entries: dict[str, Any] = {} if metadata is None else {METADATA_KEY: dict(metadata)}
    ends = []
    offset = 0
    for spec in specs:
        check_name(spec.name)
        if spec.name in entries or spec.name == METADATA_KEY:
            reason = "the name is reserved" if spec.name == METADATA_KEY else "it is declared twice"
            raise OptionError(f"tensor {spec.name!r}: {reason}")
        dtype, shape, size = _described(spec)
        entries[spec.name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [offset, offset + size],
        }
        offset += size
        ends.append(offset)
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > HEADER_SIZE_MAX:
        raise OptionError(
            f"the header would have {len(text)} bytes; the limit of .safetensors files is"
            f" {HEADER_SIZE_MAX}"
        )
    header = len(text).to_bytes(8, "little") + text
    return header, [len(header) + end for end in ends]


def _described(spec: TensorSpec) -> tuple[str, list[int], int]:
    """Dtype, shape and size of a tensor in the format's terms: it counts elements, not storage
    units."""
    code = lib.dtype_code(spec.dtype)
    info = lib.dtype(code) if code else None
    if info is None or info.safetensors is None:
        raise OptionError(
            f"tensor {spec.name!r}: a .safetensors file cannot hold dtype {spec.dtype}"
        )
    shape = list(spec.shape)
    size = info.unit_bits // 8
    for dimension in shape:
        size *= dimension
    if info.elements > 1:
        if not shape:
            raise OptionError(
                f"tensor {spec.name!r}: a .safetensors file cannot hold a scalar of {spec.dtype}"
            )
        shape[-1] *= info.elements
    return info.safetensors, shape, size


def _unit_size(spec: TensorSpec) -> int:
    """The size of a storage unit, in bits."""
    info = lib.dtype(lib.dtype_code(spec.dtype))
    return info.unit_bits if info else 0
