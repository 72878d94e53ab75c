"""The layout of CoreWeave Tensorizer's .tensors files: file header, index and record headers.

A file consists of a header of 73 bytes, the index, one record for each tensor in the order of the
index (a record header and the tensor's bytes), and eight zero bytes. All numbers are little-endian.
A file has the lowest version that can express it.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from libtz._native import lib
from libtz.errors import OptionError
from libtz.format import item_size

__all__ = ["END", "Layout", "RecordHeader", "Role", "TensorRecord"]

MAGIC = b"|TZR|"
PREFIX_SIZE = 73  # of the header before the index
END = bytes(8)  # a record header of length zero

# Tensorizer always reserves this much. It reads any size.
INDEX_SIZE_MIN = 256 * 1024

# Flags of the file header.
ENCRYPTED = 1
VERSIONED_INDEX = 2

# The first version that can express each feature.
VERSION_PLAIN = 1
VERSION_OPAQUE = 2
VERSION_ENCRYPTED = 3
VERSION_META = 4
VERSION_LONG = 5

LONG_DIMENSION = 1 << 32

# Record headers are padded, so that their tensors can be mapped and read directly.
ALIGNMENT = 64
PAGE = 4096
PAGE_ALIGNED_SIZE_MIN = 64 * 1024

CRC32_SIZE = 6  # type, length, value
SHA256_SIZE = 34

_NUMPY = {
    "bool": "|b1",
    **{f"{letter}8": f"|{letter}1" for letter in "ui"},
    **{f"{letter}{8 * size}": f"<{letter}{size}" for letter in "ui" for size in (2, 4, 8)},
    **{f"f{8 * size}": f"<f{size}" for size in (2, 4, 8)},
    "c64": "<c8",
    "c128": "<c16",
}
# Dtypes that NumPy does not have are stored under PyTorch's name.
_TORCH = {
    "bf16": "bfloat16",
    "c32": "complex32",
    "f8_e4m3fn": "float8_e4m3fn",
    "f8_e5m2": "float8_e5m2",
    "f8_e4m3fnuz": "float8_e4m3fnuz",
    "f8_e5m2fnuz": "float8_e5m2fnuz",
    "f8_e8m0fnu": "float8_e8m0fnu",
    "f4_e2m1fn_x2": "float4_e2m1fn_x2",
    **{f"u{bits}": f"uint{bits}" for bits in range(1, 8)},
    **{f"i{bits}": f"int{bits}" for bits in range(1, 8)},
    "u1_x8": "bits1x8",
    "u2_x4": "bits2x4",
    "u4_x2": "bits4x2",
    "b8": "bits8",
    "b16": "bits16",
}


class Role(IntEnum):
    """The role of a tensor when it was saved."""

    PARAMETER = 0
    BUFFER = 1
    STATE_DICT = 2


@dataclass(frozen=True)
class TensorRecord:
    """A tensor to be written. `path` is a name, or the steps (str, or int from 0) to a tensor in a
    nested object. `dtype` and `shape` are as in `libtz.TensorSpec`. `module` is the index of the
    module that a parameter or buffer belongs to. A meta tensor has a shape, but no data."""

    path: tuple[str | int, ...]
    dtype: str
    shape: tuple[int, ...]
    role: Role = Role.STATE_DICT
    module: int = 0
    is_meta: bool = False

    @property
    def name(self) -> str | tuple[str | int, ...]:
        """The path; if it is a single str, that str."""
        return self.path[0] if self._is_plain else self.path  # type: ignore[return-value]

    @property
    def _is_plain(self) -> bool:
        return len(self.path) == 1 and isinstance(self.path[0], str)

    @property
    def nbytes(self) -> int:
        """The size of the data in the file, in bytes."""
        return 0 if self.is_meta else math.prod(self.shape) * item_size(self.dtype)

    @property
    def is_long(self) -> bool:
        """Whether a dimension needs 64 bits."""
        return any(dimension >= LONG_DIMENSION for dimension in self.shape)

    def encoded_name(self) -> bytes:
        if self._is_plain:
            encoded = str(self.path[0]).encode()
            if not encoded or encoded[0] == 0x1E:
                raise OptionError(f"a .tensors file cannot hold a tensor {self.name!r}")
        elif self.role is not Role.STATE_DICT:
            raise OptionError(f"tensor {self.path!r}: the name of a module's tensor must be a str")
        else:
            encoded = b"\x1e" + json.dumps(self.path, separators=(",", ":")).encode()
        return _bounded(encoded, "name", 0xFFFF, self.name)

    def encoded_dtype(self) -> bytes:
        numpy = _NUMPY.get(self.dtype)
        if numpy is not None:
            return numpy.encode()
        torch = _TORCH.get(self.dtype)
        if torch is None:
            raise OptionError(
                f"tensor {self.name!r}: a .tensors file cannot hold dtype {self.dtype}"
            )
        size = item_size(self.dtype)
        return f"{'|' if size == 1 else '<'}V{size}\0torch.{torch}".encode()

    def described(self) -> bytes:
        """Role, name, dtype and shape."""
        name, dtype = self.encoded_name(), self.encoded_dtype()
        head = struct.pack(f"<BH{len(name)}s", self.role, len(name), name)
        return head + self._dtype_and_shape(dtype)

    def _dtype_and_shape(self, dtype: bytes) -> bytes:
        if len(self.shape) > 0xFF or self.module > 0xFFFF:
            raise OptionError(
                f"tensor {self.name!r}: a .tensors file can have at most 255 dimensions and 65536"
                " modules"
            )
        width = "Q" if self.is_long else "I"
        layout = f"<B{len(dtype)}sB{len(self.shape)}{width}"
        return struct.pack(layout, len(dtype), dtype, len(self.shape), *self.shape)

    def index_entry(self, offset: int, data_offset: int) -> bytes:
        """The entry in the index, without its version."""
        name, dtype = self.encoded_name(), self.encoded_dtype()
        head = struct.pack(f"<H{len(name)}sB", len(name), name, self.role)
        tail = struct.pack("<QQQ", offset, data_offset, self.nbytes)
        return head + self._dtype_and_shape(dtype) + tail


def _bounded(text: bytes, what: str, size_max: int, name: object) -> bytes:
    if len(text) > size_max:
        raise OptionError(f"tensor {name!r}: the {what} has more than {size_max} bytes")
    return text


class RecordHeader:
    """A record header of known size, whose hashes and encryption block are filled in later.

    The hashes cover the header, with all digests zero and without the encryption block, and the
    unencrypted bytes of the tensor. Each tensor has a CRC-32 and a SHA-256; an encrypted one only
    has the SHA-256.
    """

    def __init__(self, record: TensorRecord, offset: int, crypt_size: int | None) -> None:
        """`crypt_size` is the size of the encryption block, including its length field. None if the
        file is not encrypted."""
        self.record = record
        self.offset = offset
        self.has_crc32 = crypt_size is None or not record.nbytes
        hash_size = 1 + (CRC32_SIZE if self.has_crc32 else 0) + SHA256_SIZE
        described = record.described()
        body = struct.pack("<H", record.module) + described + struct.pack("<H", hash_size)
        self._hash_offset = 8 + len(body)
        self._crypt_offset = self._hash_offset + hash_size
        self._crypt_size = crypt_size or 0
        end = self._crypt_offset + self._crypt_size + 8
        alignment = PAGE if record.nbytes >= PAGE_ALIGNED_SIZE_MIN else ALIGNMENT
        self.size = end + -(offset + end) % alignment
        before = struct.pack("<Q", self.size) + body + self._hashes(0, bytes(32))
        padding = bytes(self.size - end)
        self._before = before
        self._after = padding + struct.pack("<q", record.nbytes)
        self.crc32 = lib.crc32(self._after, lib.crc32(before))
        self.sha256 = hashlib.sha256(before)
        self.sha256.update(self._after)

    @property
    def data_offset(self) -> int:
        return self.offset + self.size

    def _hashes(self, crc32: int, sha256: bytes) -> bytes:
        crc = struct.pack("<BBI", 0, 4, crc32) if self.has_crc32 else b""
        return bytes([1 + self.has_crc32]) + crc + bytes([1, len(sha256)]) + sha256

    def finish(self, crypt: bytes) -> bytes:
        """The whole header, after `crc32` and `sha256` were updated with the data."""
        if len(crypt) != self._crypt_size:
            raise ValueError(f"an encryption block of {len(crypt)} bytes, not {self._crypt_size}")
        hashes = self._hashes(self.crc32, self.sha256.digest())
        return self._before[: self._hash_offset] + hashes + crypt + self._after


class Layout:
    """The offsets of everything in a file whose tensors are added one by one."""

    def __init__(self, *, index_size: int, is_encrypted: bool) -> None:
        self._index_size = max(index_size, INDEX_SIZE_MIN)
        self._is_encrypted = is_encrypted
        self._entries: list[tuple[bytes, bool]] = []
        self._entries_size = 0
        self._tree: dict[str | int, object] = {}
        self._version = VERSION_ENCRYPTED if is_encrypted else VERSION_PLAIN
        self._data_size = 0
        self.end = PREFIX_SIZE + self._index_size  # of the last record

    @staticmethod
    def index_size(records: Sequence[TensorRecord]) -> int:
        """The size of an index of these tensors, in bytes."""
        return sum(4 + len(record.index_entry(0, 0)) for record in records)

    @property
    def data_begin(self) -> int:
        """The offset of the first record."""
        return PREFIX_SIZE + self._index_size

    @property
    def data_size(self) -> int:
        """The size in bytes of all tensors so far."""
        return self._data_size

    def add(self, record: TensorRecord, crypt_size: int | None) -> RecordHeader:
        header = RecordHeader(record, self.end, crypt_size)
        entry = record.index_entry(header.offset, header.data_offset)
        # If a later tensor needs it, every entry gets a version of four bytes.
        if self._entries_size + 4 + len(entry) > self._index_size:
            raise OptionError(
                f"tensor {record.name!r}: the index is full after {len(self._entries)} tensors;"
                " its size was fixed by the first call that wrote; write many tensors in one call"
                " of write_module or write_state_dict"
            )
        self._check_path(record)
        self._entries.append((entry, record.is_long))
        self._entries_size += 4 + len(entry)
        self._version = max(self._version, _version(record))
        self._data_size += record.nbytes
        self.end = header.data_offset + record.nbytes
        return header

    def _check_path(self, record: TensorRecord) -> None:
        """Raises OptionError if the paths do not form a tree: Tensorizer builds one."""
        layer = self._tree
        for depth, step in enumerate(record.path):
            if isinstance(step, bool) or not isinstance(step, (str, int)):
                raise OptionError(f"tensor {record.name!r}: a name can only contain str and int")
            if isinstance(step, int) and step < 0:
                raise OptionError(f"tensor {record.name!r}: {step} is negative")
            if layer and isinstance(next(iter(layer)), str) != isinstance(step, str):
                raise OptionError(f"tensor {record.name!r}: str and int keys at the same level")
            is_last = depth == len(record.path) - 1
            known = layer.get(step)
            if known is not None and (is_last or not isinstance(known, dict)):
                raise OptionError(f"tensor {record.name!r}: this name, or a part of it, is taken")
            if is_last:
                layer[step] = record
            else:
                layer = layer.setdefault(step, {})  # type: ignore[assignment]

    def front(self) -> bytes:
        """File header and index."""
        is_versioned = self._version == VERSION_LONG
        flags = VERSIONED_INDEX if is_versioned else 0
        if self._is_encrypted and self._version >= VERSION_META:
            flags |= ENCRYPTED
        index = b"".join(
            (struct.pack("<I", VERSION_LONG if is_long else VERSION_PLAIN) if is_versioned else b"")
            + entry
            for entry, is_long in self._entries
        )
        return (
            MAGIC
            + struct.pack("<I", self._version)
            + flags.to_bytes(32, "little")
            + struct.pack("<QQQQ", self._data_size, 0, len(self._entries), self._index_size)
            + index.ljust(self._index_size, b"\0")
        )


def _version(record: TensorRecord) -> int:
    if record.is_long:
        return VERSION_LONG
    if record.is_meta:
        return VERSION_META
    return VERSION_PLAIN if record.dtype in _NUMPY else VERSION_OPAQUE
