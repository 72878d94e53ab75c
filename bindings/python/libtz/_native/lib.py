"""libtz for Python: one function for each function of tz.h, which documents them.

Handles are classes whose objects free themselves. Structs become named tuples, tables become NumPy
arrays over the library's own memory, and an error status becomes an exception (status.py). Only
this package uses cffi. The functions for writing are in writing.py and re-exported here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from libtz._native import clib, ffi
from libtz._native.checksums import Blake3, blake3, crc32, crc32c, file_digest
from libtz._native.dtypes import DtypeInfo, dtype, dtype_code
from libtz._native.memory import address, exported, owned_buffer
from libtz._native.status import NONE32, NONE64, check, new_diagnostic, status_name
from libtz._native.tables import Node, new_struct, read_node, record_dtype, text, view
from libtz._native.writing import (
    ENTRY,
    Builder,
    BuilderInfo,
    TensorSpec,
    encode_chunks,
    new_entries,
)
from libtz.errors import IntegrityError

__all__ = [
    "ENTRY",
    "NONE32",
    "NONE64",
    "Blake3",
    "Builder",
    "BuilderInfo",
    "Chunk",
    "DtypeInfo",
    "Header",
    "HeaderInfo",
    "Node",
    "Plan",
    "PlanInfo",
    "Tensor",
    "TensorSpec",
    "address",
    "blake3",
    "cpu_level",
    "crc32",
    "crc32c",
    "dtype",
    "dtype_code",
    "encode_chunks",
    "new_cursor",
    "new_entries",
    "owned_buffer",
    "status_name",
    "version",
]

# The tz_abi_version() that this module was written for.
ABI_VERSION = 1


def _check_library() -> None:
    """Compares the declarations with the library: in out-of-line ABI mode, cffi trusts them."""
    found = clib.tz_abi_version()
    if found != ABI_VERSION:
        raise ImportError(f"libtz: the library has ABI {found}, the bindings expect {ABI_VERSION}")
    for name in ffi.list_types()[0]:
        ctype = ffi.typeof(name)
        if ctype.kind != "struct":
            continue
        try:
            expected = ffi.sizeof(ctype)
        except ffi.error:  # opaque; asking for its fields would abort the process in cffi 2.1
            continue
        size = clib.tz_struct_size(name.encode())
        if size != expected:
            raise ImportError(f"libtz: {name} is {size} bytes in the library, expected {expected}")


_check_library()

FORMAT_TZ: int = clib.TZ_FORMAT_TZ
FORMAT_SAFETENSORS: int = clib.TZ_FORMAT_SAFETENSORS
FORMAT_COREWEAVE: int = clib.TZ_FORMAT_COREWEAVE
TENSOR_META: int = clib.TZ_TENSOR_META
TENSOR_PARAMETER: int = clib.TZ_TENSOR_PARAMETER
TENSOR_BUFFER: int = clib.TZ_TENSOR_BUFFER
TENSOR_DOTTED: int = clib.TZ_TENSOR_DOTTED
ITEM_RECORD: int = clib.TZ_ITEM_RECORD
NODE_TENSOR: int = clib.TZ_NODE_TENSOR
PLAN_STAGED: int = clib.TZ_PLAN_STAGED
# Values of tz_segment.allocation.
TO_STAGING: int = clib.TZ_TO_STAGING & 0xFFFF_FFFF
TO_NOWHERE: int = clib.TZ_TO_NOWHERE & 0xFFFF_FFFF
VERIFY_NONE: int = clib.TZ_VERIFY_NONE
VERIFY_CRC: int = clib.TZ_VERIFY_CRC
VERIFY_DIGEST: int = clib.TZ_VERIFY_DIGEST


# ---- Version -------------------------------------------------------------------------------------


def version() -> str:
    return ffi.string(clib.tz_version()).decode()


def cpu_level() -> str:
    return ffi.string(clib.tz_cpu_level()).decode()


# ---- Headers -------------------------------------------------------------------------------------


class HeaderInfo(NamedTuple):
    format: int
    tensor_count: int
    metadata_count: int
    node_count: int
    chunk_count: int
    chunk_size: int
    file_size: int
    header_size: int
    open_size: int
    decoded_size: int
    incompatible_flags: int
    compatible_flags: int
    file_digest: bytes
    is_encrypted: int


class Tensor(NamedTuple):
    name: str
    dtype: int
    shape: tuple[int, ...]
    order: int
    tie: int | None
    decoded_size: int
    stored_size: int
    data_offset: int
    chunk_count: int
    content_digest: bytes | None
    flags: int


class Chunk(NamedTuple):
    offset: int
    stored_length: int
    decoded_length: int
    codec: int
    crc: int
    digest: bytes | None


_INDEX = ffi.typeof("uint32_t *")


class Header:
    """The header of an open file. `label` names the file in messages.

    While one thread is in `put_entries`, no other may call `put_entries`, `entry_ranges` or
    `chunk`, or create a plan. Existing plans may be processed, and verifiers may run.
    """

    def __init__(self, handle: Any, label: str) -> None:
        self.handle = handle
        self.label = label
        out = new_struct("tz_header_info")
        check(clib.tz_header_get(handle, out), where=label)
        values = {name: getattr(out, name) for name in HeaderInfo._fields}
        self.info = HeaderInfo(**values | {"file_digest": bytes(out.file_digest)})

    @classmethod
    def open(
        cls,
        front: Any,
        file_size: int,
        *,
        label: str,
        pin: bytes | None = None,
        format: int = 0,
        open_size_max: int = 0,
    ) -> Header | int:
        """Returns the header, or the number of bytes needed from the front of the file: at most
        `open_size_max`, unless that is 0. `format` is FORMAT_*, or 0 to detect it."""
        digest = ffi.NULL if pin is None else ffi.new("uint8_t[32]", pin)
        options = new_struct("tz_open_options")
        options.format = format
        options.pin = digest
        options.open_size_max = open_size_max
        out = ffi.new("tz_header **")
        needed = ffi.new("uint64_t *")
        diagnostic = new_diagnostic()
        with exported(front) as source:
            status = clib.tz_header_open(
                source, len(source), file_size, options, out, needed, diagnostic
            )
        if status == clib.TZ_NEED_MORE:
            return int(needed[0])
        if status == clib.TZ_E_DIGEST and pin is not None:
            raise IntegrityError.wrong_pin(label, f"blake3:{pin.hex()}", file_digest(front))
        check(status, diagnostic, where=label)
        return cls(ffi.gc(out[0], clib.tz_header_free), label)

    def tensor(self, index: int) -> Tensor:
        return self.tensors([index])[0]

    def tensors(self, indices: Iterable[int]) -> list[Tensor]:
        t, header, read = new_struct("tz_tensor"), self.handle, clib.tz_header_tensor
        unpack, memory, new = ffi.unpack, ffi.buffer, tuple.__new__
        found = []
        for index in indices:
            status = read(header, index, t)
            if status:
                check(status, where=self.label)
            rank, tie, digest = t.rank, t.tie, t.content_digest
            fields = (
                unpack(t.name, t.name_size).decode(),
                t.dtype,
                tuple(unpack(t.shape, rank)) if rank else (),
                t.order,
                None if tie == NONE32 else tie,
                t.decoded_size,
                t.stored_size,
                t.data_offset,
                t.chunk_count,
                memory(digest, 32)[:] if digest else None,
                t.flags,
            )
            found.append(new(Tensor, fields))
        return found

    def name(self, index: int) -> str:
        return self.names([index])[0]

    def names(self, indices: Iterable[int]) -> list[str]:
        """The same as `name` for each index, but faster."""
        t, header, read = new_struct("tz_tensor"), self.handle, clib.tz_header_tensor
        found = []
        for index in indices:
            status = read(header, index, t)
            if status:
                check(status, where=self.label)
            found.append(ffi.unpack(t.name, t.name_size).decode())
        return found

    def find(self, name: str) -> int | None:
        try:
            encoded = name.encode()
        except UnicodeEncodeError:  # no file contains a lone surrogate
            return None
        index = ffi.new(_INDEX)
        status = clib.tz_header_find(self.handle, encoded, len(encoded), index)
        if status == clib.TZ_E_NOT_FOUND:
            return None
        check(status, where=self.label)
        return int(index[0])

    def order(self) -> NDArray[np.uint32]:
        count, dtype = self.info.tensor_count, np.dtype(np.uint32)
        return view(clib.tz_header_order(self.handle), count, dtype, self.handle)

    def pair(self, index: int) -> tuple[str, str]:
        out = ffi.new("tz_pair *")
        check(clib.tz_header_pair(self.handle, index, out), where=self.label)
        return text(out.key, out.key_size), text(out.value, out.value_size)

    def node(self, index: int) -> Node:
        out = ffi.new("tz_node *")
        check(clib.tz_header_node(self.handle, index, out), where=self.label)
        return read_node(out)

    def content_digest(self) -> bytes | None:
        """None in other formats than .tz."""
        digest = ffi.new("uint8_t[32]")
        status = clib.tz_header_content_digest(self.handle, digest)
        if status == clib.TZ_E_FEATURE:
            return None
        check(status, where=self.label)
        return bytes(digest)

    def entry_ranges(
        self, tensors: NDArray[np.uint32] | None, gap_max: int = 0
    ) -> list[tuple[int, int]]:
        """The offset and size of each range of missing chunk entries; `tensors` None: of all."""
        if tensors is None:
            return self._entry_ranges(ffi.NULL, 0, gap_max)
        with exported(np.ascontiguousarray(tensors, np.uint32), "uint32_t[]") as indices:
            return self._entry_ranges(indices, len(indices), gap_max)

    def _entry_ranges(self, indices: Any, count: int, gap_max: int) -> list[tuple[int, int]]:
        needed = ffi.new("size_t *")
        capacity = 16
        while True:
            out = ffi.new("tz_range[]", capacity)
            status = clib.tz_header_entry_ranges(
                self.handle, indices, count, gap_max, out, capacity, needed
            )
            if status != clib.TZ_E_BUFFER_TOO_SMALL:
                break
            capacity = needed[0]
        check(status, where=self.label)
        return [(out[i].offset, out[i].size) for i in range(needed[0])]

    def put_entries(self, offset: int, data: Any) -> None:
        diagnostic = new_diagnostic()
        with exported(data) as source:
            status = clib.tz_header_put_entries(
                self.handle, offset, source, len(source), diagnostic
            )
        check(status, diagnostic, where=self.label, name_of=self.name)

    def chunk(self, tensor: int, chunk: int) -> Chunk:
        out = new_struct("tz_chunk")
        check(clib.tz_header_chunk(self.handle, tensor, chunk, out), where=self.label)
        digest = bytes(ffi.buffer(out.digest, 32)) if out.digest else None
        return Chunk(out.offset, out.stored_length, out.decoded_length, out.codec, out.crc, digest)


# ---- Plans ---------------------------------------------------------------------------------------

Box = tuple[Sequence[int], Sequence[int]]  # begin and end, per dimension

REQUEST = record_dtype("tz_request")
SEGMENT = record_dtype("tz_segment")
PIECE = record_dtype("tz_piece")
PLACEMENT = record_dtype("tz_placement")
_ITEM = record_dtype("tz_read_item")


class PlanInfo(NamedTuple):
    request_count: int
    segment_count: int
    piece_count: int
    allocation_count: int
    staging_size_max: int
    gap_size_max: int
    bytes_read: int
    bytes_wanted: int


class Plan:
    """The requests of a load and their destinations. Tables are structured arrays with the fields
    of tz.h."""

    def __init__(
        self,
        header: Header,
        tensors: NDArray[np.uint32],
        boxes: Sequence[Box | None] | None = None,
        *,
        item_flags: NDArray[np.uint32] | None = None,
        flags: int = 0,
        request_size_max: int = 0,
        gap_max: int = 0,
        slab_size_max: int = 0,
        slab_tensor_max: int = 0,
    ) -> None:
        """`boxes` has one box for each tensor, or None to read all of it. `item_flags` has ITEM_*
        flags for each."""
        self._header = header  # must outlive the plan
        items, corners = _items(tensors, boxes)
        if item_flags is not None:
            items["flags"] = item_flags
        options = new_struct("tz_plan_options")
        options.flags = flags
        options.request_size_max = request_size_max
        options.gap_max = gap_max
        options.slab_size_max = slab_size_max
        options.slab_tensor_max = slab_tensor_max
        out = ffi.new("tz_plan **")
        diagnostic = new_diagnostic()
        with exported(items, "tz_read_item[]") as table:
            status = clib.tz_plan_new(header.handle, table, len(table), options, out, diagnostic)
        del corners  # had to live until the call returned
        check(status, diagnostic, where=header.label, name_of=header.name)
        self.handle = ffi.gc(out[0], clib.tz_plan_free)
        self.info = self._get()
        self.requests = self._table(clib.tz_plan_requests, self.info.request_count, REQUEST)
        self.segments = self._table(clib.tz_plan_segments, self.info.segment_count, SEGMENT)
        self.pieces = self._table(clib.tz_plan_pieces, self.info.piece_count, PIECE)
        self.placements = self._table(clib.tz_plan_placements, len(items), PLACEMENT)
        sizes = np.dtype(np.uint64)
        self.allocations: NDArray[np.uint64] = self._table(
            clib.tz_plan_allocations, self.info.allocation_count, sizes
        )

    def _get(self) -> PlanInfo:
        out = new_struct("tz_plan_info")
        check(clib.tz_plan_get(self.handle, out), where=self._header.label)
        return PlanInfo(*(getattr(out, name) for name in PlanInfo._fields))

    def _table(self, function: Any, count: int, dtype: np.dtype[Any]) -> Any:
        return view(function(self.handle), count, dtype, self.handle)

    def process(
        self,
        request: int,
        received: int,
        staging: int,
        allocations: NDArray[np.uint64],
        verify: int,
        cursor: Any,
    ) -> None:
        """`staging` is an address or 0. `allocations` has the address of each allocation (none in
        staged plans). `cursor` is from new_cursor(), a new one for each request."""
        if len(allocations) != self.info.allocation_count:
            raise ValueError(f"{len(allocations)} addresses for {self.info.allocation_count}")
        diagnostic = new_diagnostic()
        with exported(allocations, "void *[]") as addresses:
            status = clib.tz_plan_process(
                self.handle,
                request,
                received,
                ffi.cast("void *", staging),
                addresses,
                verify,
                cursor,
                diagnostic,
            )
        if status != clib.TZ_OK:
            header = self._header
            check(status, diagnostic, where=header.label, name_of=header.name)


def _items(tensors: NDArray[np.uint32], boxes: Sequence[Box | None] | None) -> tuple[Any, Any]:
    """The array of tz_read_item, and the memory that it points to."""
    items = np.zeros(len(tensors), _ITEM)
    items["struct_size"] = _ITEM.itemsize
    items["tensor"] = tensors
    if boxes is None:
        return items, None
    # A scalar has no corners: its only box is the whole tensor.
    bounds = [box or ((), ()) for box in boxes]
    corners = np.array([n for begin, end in bounds for n in (*begin, *end)], np.uint64)
    ranks = np.array([len(begin) for begin, _ in bounds], np.uint64)
    begins = address(corners) + 8 * (2 * (np.cumsum(ranks) - ranks)).astype(np.uint64)
    has_corners = ranks > 0
    items["begin"] = np.where(has_corners, begins, 0)
    items["end"] = np.where(has_corners, begins + 8 * ranks, 0)
    return items, corners


def new_cursor() -> Any:
    """For Plan.process: keeps track of the next chunk of a request."""
    return ffi.new("uint64_t *")
