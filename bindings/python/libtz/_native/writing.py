"""The functions of tz.h that write files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from libtz._native import clib, ffi
from libtz._native.memory import exported
from libtz._native.status import NONE32, check, new_diagnostic
from libtz._native.tables import Node, new_struct, record_dtype, write_node
from libtz.errors import IntegrityError, OptionError

__all__ = ["ENTRY", "Builder", "BuilderInfo", "TensorSpec", "encode_chunks", "new_entries"]

# Chunk entries are passed as arrays of this record.
ENTRY = record_dtype("tz_chunk_entry")


class TensorSpec(NamedTuple):
    """A tensor to lay out. `dtype` is a code; `tie` is the index of another spec, or None.
    `decoded_size` is only needed for a dtype of the extensible range."""

    name: str
    shape: Sequence[int]
    dtype: int
    tie: int | None = None
    decoded_size: int = 0


class BuilderInfo(NamedTuple):
    header_size: int
    chunk_size: int
    chunk_count: int
    decoded_size: int
    file_size_max: int


def new_entries(count: int) -> NDArray[Any]:
    """A zeroed array of ENTRY."""
    entries = np.zeros(count, ENTRY)
    entries["struct_size"] = ENTRY.itemsize
    return entries


def encode_chunks(
    dtype: int, chunk_size: int, compress: bool, source: Any, out: Any
) -> tuple[int, NDArray[Any]]:
    """Encodes whole chunks of `source` into `out`, which is writable and at least 64 bytes larger.

    Returns the number of bytes filled, and an array of ENTRY. If it is 0, every chunk is raw, and
    `source` itself is to be written to the file. Thread-safe; releases the GIL.
    """
    options = new_struct("tz_encode_options")
    options.dtype = dtype
    options.chunk_size = chunk_size
    options.compress = clib.TZ_COMPRESS_AUTO if compress else clib.TZ_COMPRESS_OFF
    out_size = ffi.new("size_t *")
    with exported(source) as data, exported(out, writable=True) as target:
        entries = new_entries(-(-len(data) // chunk_size))
        with exported(entries, "tz_chunk_entry[]", writable=True) as table:
            status = clib.tz_chunks_encode(
                options,
                data,
                len(data),
                target,
                len(target),
                out_size,
                table,
                len(table),
            )
    if status == clib.TZ_E_CODEC:
        raise IntegrityError(
            "a compressed chunk does not decode to the original data, because of a bug in libtz or"
            " a fault of this machine's memory; nothing was written",
            code="codec",
        )
    check(status, where="encode")
    return int(out_size[0]), entries


class Builder:
    """Lays out a file and builds its header. `label` names the target in messages."""

    def __init__(
        self,
        specs: Sequence[TensorSpec],
        *,
        label: str,
        metadata: Mapping[str, str] | None = None,
        nodes: Sequence[Node] = (),
        chunk_size: int | None = None,
    ) -> None:
        """Raises OptionError for invalid names, shapes and so on."""
        self._label = label
        self._names = [spec.name for spec in specs]
        keep: list[Any] = []
        options = new_struct("tz_builder_options")
        options.chunk_size_log2 = 0 if chunk_size is None else chunk_size.bit_length() - 1
        pairs = _pairs({} if metadata is None else metadata, keep)
        options.metadata, options.metadata_count = pairs, len(pairs)
        structure = ffi.new("tz_node[]", len(nodes))
        for i, node in enumerate(nodes):
            write_node(structure[i], node, keep)
        options.nodes, options.node_count = structure, len(nodes)
        out = ffi.new("tz_builder **")
        diagnostic = new_diagnostic()
        table = _specs(specs, keep)
        status = clib.tz_builder_new(table, len(specs), options, out, diagnostic)
        self._check(status, diagnostic)
        self._handle = ffi.gc(out[0], clib.tz_builder_free)
        self.info = self._get()

    def _get(self) -> BuilderInfo:
        out = new_struct("tz_builder_info")
        self._check(clib.tz_builder_get(self._handle, out))
        return BuilderInfo(*(getattr(out, name) for name in BuilderInfo._fields))

    def has_data(self, spec: int) -> bool:
        return bool(clib.tz_builder_has_data(self._handle, spec))

    def put_chunks(self, spec: int, entries: NDArray[Any]) -> int:
        """Returns the offset in the file of the first of these chunks."""
        offset = ffi.new("uint64_t *")
        with exported(entries, "tz_chunk_entry[]") as table:
            status = clib.tz_builder_put_chunks(self._handle, spec, table, len(table), offset)
        self._check(status)
        return int(offset[0])

    def put_content(self, spec: int, digest: bytes) -> None:
        pointer = ffi.new("uint8_t[32]", digest)
        self._check(clib.tz_builder_put_content(self._handle, spec, pointer))

    def finish(self) -> tuple[bytes, int, bytes]:
        """The header, the size of the file, and the file digest."""
        out = ffi.new("uint8_t[]", self.info.header_size)
        needed = ffi.new("size_t *")
        file_size = ffi.new("uint64_t *")
        digest = ffi.new("uint8_t[32]")
        status = clib.tz_builder_finish(self._handle, out, len(out), needed, file_size, digest)
        self._check(status)
        return bytes(ffi.buffer(out, needed[0])), int(file_size[0]), bytes(digest)

    def _check(self, status: int, diagnostic: Any = None) -> None:
        if status == clib.TZ_E_SEQUENCE:
            raise OptionError(
                f"{self._label}: tensors must be written in the declared order, each one completely"
                " and once, and all of them before the file is finished"
            )
        check(
            status,
            diagnostic,
            where=self._label,
            name_of=lambda index: self._names[index] if index < len(self._names) else f"#{index}",
            blames_caller=True,
        )


def _specs(specs: Sequence[TensorSpec], keep: list[Any]) -> Any:
    table = ffi.new("tz_tensor_spec[]", len(specs))
    for record, spec in zip(table, specs, strict=True):
        record.struct_size = ffi.sizeof("tz_tensor_spec")
        record.name, record.name_size = _text(spec.name, "a tensor's name", keep)
        shape = ffi.new("uint64_t[]", list(spec.shape))
        keep.append(shape)
        record.shape, record.rank = shape, len(shape)
        record.dtype = spec.dtype
        record.tie = NONE32 if spec.tie is None else spec.tie
        record.decoded_size = spec.decoded_size
    return table


def _pairs(metadata: Mapping[str, str], keep: list[Any]) -> Any:
    if not isinstance(metadata, Mapping):
        raise OptionError(f"metadata must be a dict of str to str, not {type(metadata).__name__}")
    pairs = ffi.new("tz_pair[]", len(metadata))
    for pair, (key, value) in zip(pairs, metadata.items(), strict=True):
        pair.key, pair.key_size = _text(key, "a metadata key", keep)
        pair.value, pair.value_size = _text(value, f"metadata[{key!r}]", keep)
    return pairs


def _text(value: Any, what: str, keep: list[Any]) -> tuple[Any, int]:
    if not isinstance(value, str):
        raise OptionError(f"{what} must be a str, not {type(value).__name__}")
    try:
        encoded = value.encode()
    except UnicodeEncodeError as error:
        raise OptionError(f"{what} is not valid Unicode: {value!r}") from error
    pointer = ffi.new("char[]", encoded)
    keep.append(pointer)
    return pointer, len(encoded)
