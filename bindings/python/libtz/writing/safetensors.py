"""Writes .safetensors files in the form that their own library writes, tensor by tensor.

The header comes first in the file but is known from the declaration, so data stream through in
order and the SHA-256 of the whole file, its pin, is there at the end without reading anything
again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from libtz._native import lib
from libtz.errors import OptionError
from libtz.locations import resolve_sink
from libtz.options import WriteOptions
from libtz.sinks.base import Sink
from libtz.writing.buffers import byte_view
from libtz.writing.names import check_name
from libtz.writing.tz import TensorSpec

__all__ = ["METADATA_KEY", "SafetensorsWriter", "unit_size"]

HEADER_SIZE_MAX = 100_000_000  # what the format's own library accepts
METADATA_KEY = "__metadata__"

_DEFAULTS = WriteOptions()


class SafetensorsWriter:
    """Declared and used like `libtz.Writer`, but every tensor has data: the format has no ties."""

    def __init__(
        self,
        target: Any,
        specs: Sequence[TensorSpec],
        *,
        metadata: Mapping[str, str] | None = None,
        options: WriteOptions = _DEFAULTS,
    ) -> None:
        self._target = target
        self._options = options
        self._specs = list(specs)
        self._header, self._ends = _make_header(self._specs, metadata)
        self._written = 0
        self._hash = hashlib.sha256(self._header)
        self._sink: Sink | None = None
        self.digest: str | None = None  # "sha256:…" of the file, when it is complete

    def write(self, name: str, blocks: Iterable[Any]) -> None:
        """The bytes of the next tensor in pieces."""
        if self._sink is None:
            raise OptionError("a SafetensorsWriter is used in a with block")
        spec = self._specs[self._written] if self._written < len(self._specs) else None
        if spec is None or spec.name != name:
            expected = "nothing more" if spec is None else repr(spec.name)
            raise OptionError(f"tensors are written in the declared order; expected {expected}")
        offset = self._ends[self._written - 1] if self._written else len(self._header)
        end = self._ends[self._written]
        for block in blocks:
            data = byte_view(block)
            if len(data) > end - offset:
                raise OptionError(f"tensor {name!r}: more data than its dtype and shape say")
            self._hash.update(data)
            self._sink.write_at(offset, data)
            offset += len(data)
        if offset != end:
            raise OptionError(f"tensor {name!r}: {end - offset} bytes are missing")
        self._written += 1

    def __enter__(self) -> SafetensorsWriter:
        file_size = self._ends[-1] if self._ends else len(self._header)
        self._sink = resolve_sink(
            self._target, self._options, header_size=len(self._header), file_size_max=file_size
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        sink, self._sink = self._sink, None
        if sink is None:
            return
        try:
            if kind is None:
                self._finish(sink)
        finally:
            if self.digest is None:
                sink.abort()

    def _finish(self, sink: Sink) -> None:
        if self._written < len(self._specs):
            missing = self._specs[self._written].name
            raise OptionError(f"tensor {missing!r} was declared but not written")
        sink.write_at(0, memoryview(self._header))
        sink.commit(self._ends[-1] if self._ends else len(self._header))
        self.digest = f"sha256:{self._hash.hexdigest()}"


def _make_header(
    specs: Sequence[TensorSpec], metadata: Mapping[str, str] | None
) -> tuple[bytes, list[int]]:
    """The header, and where in the file each tensor ends."""
    entries: dict[str, Any] = {} if metadata is None else {METADATA_KEY: dict(metadata)}
    ends = []
    offset = 0
    for spec in specs:
        check_name(spec.name)
        if spec.name in entries or spec.name == METADATA_KEY:
            raise OptionError(f"a .safetensors file cannot hold a tensor {spec.name!r} here")
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
            f"the header of a .safetensors file has at most {HEADER_SIZE_MAX} bytes, "
            f"this would have {len(text)}"
        )
    header = len(text).to_bytes(8, "little") + text
    return header, [len(header) + end for end in ends]


def _described(spec: TensorSpec) -> tuple[str, list[int], int]:
    """A tensor in the other format's terms: its dtypes count numbers, not storage units."""
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


def unit_size(spec: TensorSpec) -> int:
    """In bits. Writing larger units first aligns every tensor; the format itself has no padding."""
    info = lib.dtype(lib.dtype_code(spec.dtype))
    return info.unit_bits if info else 0
