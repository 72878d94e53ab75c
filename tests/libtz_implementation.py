"""libtz as an implementation for conformance and differential tests: through its C interface, which
the Python bindings call, and through `libtz.open`."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tests.kept import keep

import libtz
from libtz._native import lib
from libtz._native.verifying import Verifier
from libtz.arrays.base import BufferFramework, Destination, require_known
from libtz.checkpoint.file import File
from libtz.checkpoint.slices import ReadItem
from libtz.errors import Error, FormatError, IntegrityError
from libtz.format import digest_text, dtype_name, parse_digest

Description = dict[str, Any]

KINDS = ["none", "bool", "int", "float", "str", "bytes", "tensor"]
KINDS += ["dict", "list", "tuple", "large_int"]


def failed(error: Error) -> Description:
    keep(error)
    assert isinstance(error, (FormatError, IntegrityError)), repr(error)
    return {"result": "error", "class": error.code, "rule": error.rule}


@dataclass(frozen=True)
class CInterface:
    """tz_header_open, tz_verifier_* and the accessors, on bytes in memory."""

    name: str = "libtz-c"
    codecs: frozenset[str] = frozenset({"raw", "tiered"})

    def describe(
        self, data: bytes, *, pin: str | None = None, operation: str = "verify"
    ) -> Description:
        try:
            header = self._open(data, None if pin is None else parse_digest(pin)[1])
            if operation.startswith("load "):
                return self._load(header, data, operation.removeprefix("load "))
            if operation == "verify":
                self._verify(header, data)
                header.put_entries(0, data)
        except Error as error:
            return failed(error)
        return describe_header(header, with_chunks=operation == "verify")

    def _open(self, data: bytes, pin: bytes | None) -> lib.Header:
        needed = 0
        for _ in range(3):
            opened = lib.Header.open(
                data[:needed], len(data), label="file", pin=pin, format=lib.FORMAT_TZ
            )
            if isinstance(opened, lib.Header):
                return opened
            assert needed < opened <= len(data)
            needed = opened
        raise AssertionError("opening asks for more a third time")

    def _load(self, header: lib.Header, data: bytes, name: str) -> Description:
        """A tensor of one chunk, as a program in C would load it."""
        index = header.find(name)
        assert index is not None
        tensor = header.tensor(index)
        require_known(dtype_name(tensor.dtype), name)
        owner = index if tensor.tie is None else tensor.tie
        for offset, size in header.entry_ranges(np.array([owner], np.uint32)):
            header.put_entries(offset, data[offset : offset + size])
        content = bytearray()
        for number in range(header.tensor(owner).chunk_count):
            chunk = header.chunk(owner, number)
            assert chunk.codec == 0
            stored = data[chunk.offset : chunk.offset + chunk.stored_length]
            if lib.crc32c(stored) != chunk.crc:
                raise IntegrityError("a chunk", code="checksum", rule="TZ1-43", tensor=name)
            content += stored
        return describe_loaded(dtype_name(tensor.dtype), tensor.shape, bytes(content))

    def _verify(self, header: lib.Header, data: bytes) -> None:
        verifier = Verifier(header)
        while True:
            offset, size = verifier.next()
            if size == 0:
                return verifier.finish()
            verifier.put(data[offset : offset + size])


@dataclass(frozen=True)
class PythonReader:
    """libtz.open and File.verify."""

    name: str = "libtz-python"
    codecs: frozenset[str] = frozenset({"raw", "tiered"})

    def describe(
        self, data: bytes, *, pin: str | None = None, operation: str = "verify"
    ) -> Description:
        try:
            with libtz.open(data, digest=pin) as file:
                if file.format != "tz":  # a vector may be a valid file of another format
                    return {"result": "error", "class": "not-tz", "rule": "TZ1-1"}
                assert isinstance(file, File)
                if operation.startswith("load "):
                    name = operation.removeprefix("load ")
                    content = file.read_item(ReadItem(name), Destination(TypedBuffers()))
                    info = file.info(name)
                    return describe_loaded(info.dtype, info.shape, bytes(content))
                header = file._catalog.header
                if operation == "verify":
                    file.verify()
                    header.put_entries(0, data)
                return describe_header(header, with_chunks=operation == "verify")
        except Error as error:
            return failed(error)


class TypedBuffers(BufferFramework):
    """Bytes of every dtype of the format, for values that no library may have a type for."""

    def require(self, dtype: str, name: str) -> None:
        require_known(dtype, name)


def describe_loaded(dtype: str, shape: Sequence[int], content: bytes) -> Description:
    digest = hashlib.sha256(content).hexdigest()
    return {"result": "ok", "dtype": dtype, "shape": list(shape), "sha256": digest}


def describe_header(header: lib.Header, *, with_chunks: bool) -> Description:
    content = header.content_digest()
    assert content is not None
    nodes = [header.node(index) for index in range(header.info.node_count)]
    return {
        "result": "ok",
        "file_digest": digest_text(header.info.file_digest),
        "content_digest": digest_text(content),
        "chunk_size": header.info.chunk_size,
        "metadata": dict(header.pair(index) for index in range(header.info.metadata_count)),
        "structure": [describe_node(header, node) for node in nodes] or None,
        "tensors": [
            describe_tensor(header, index, with_chunks) for index in range(header.info.tensor_count)
        ],
    }


def describe_node(header: lib.Header, node: lib.Node) -> list[Any]:
    kind, value = KINDS[node.kind], node.value
    if kind == "float":
        value = struct.pack(">d", value).hex()
    elif kind == "bytes":
        value = value.hex()
    elif kind == "tensor":
        value = header.name(value)
    return [kind, node.key, value]


def describe_tensor(header: lib.Header, index: int, with_chunks: bool) -> Description:
    tensor = header.tensor(index)
    assert tensor.content_digest is not None
    assert header.find(tensor.name) == index
    assert header.order()[tensor.order] == np.uint32(index)
    description: Description = {
        "name": tensor.name,
        "dtype": dtype_name(tensor.dtype),
        "shape": list(tensor.shape),
        "order": tensor.order,
        "tie": None if tensor.tie is None else header.name(tensor.tie),
        "decoded_size": tensor.decoded_size,
        "stored_size": tensor.stored_size,
        "data_offset": tensor.data_offset,
        "content_digest": digest_text(tensor.content_digest),
    }
    if with_chunks:
        chunks = [header.chunk(index, number) for number in range(tensor.chunk_count)]
        description["chunks"] = [[c.stored_length, c.codec, c.crc] for c in chunks]
    return description
