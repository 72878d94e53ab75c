"""Checks tensors of .tensors files by their record headers, as soon as a tensor is complete.

The hashes of a tensor cover all of it, so a worker checks it when the last of its requests has
arrived. A tensor without hashes is not checked; `RecordLog.has_hashes` is then False.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from libtz._native import lib
from libtz._native.records import Record, parse_record, record_range
from libtz.errors import FormatError, IntegrityError
from libtz.sources.base import Source
from libtz.transfer.decryption import Decryption
from libtz.transfer.items import LoadItems
from libtz.transfer.schedule import Layout, Schedule
from libtz.transfer.target import Target

__all__ = ["END_MARK", "RecordChecks", "RecordLog", "RecordNote", "check_hashes"]

# After the last tensor's data: the size of a next record header.
END_MARK = bytes(8)


class RecordNote(NamedTuple):
    """The fields of a record header that are kept."""

    module: int  # the number of the module that had the tensor
    has_sha256: bool


@dataclass
class RecordLog:
    """What was found in the records of a file so far."""

    notes: dict[int, RecordNote] = field(default_factory=dict)  # by tensor
    has_hashes: bool | None = None  # unknown until something was checked


class RecordChecks:
    """See `verification.Verification`. The companions of tensors are their record headers."""

    level = lib.VERIFY_NONE
    covers_tensors = True
    observe = None

    def __init__(
        self,
        header: lib.Header,
        source: Source,
        log: RecordLog,
        *,
        verify: bool,
        every_hash: bool,
        decryption: Decryption | None,
    ) -> None:
        """Without `every_hash`, an unencrypted tensor with a CRC-32 is checked only by that. The
        results go to `log`."""
        self._header = header
        self._source = source
        self._log = log
        self._verify = verify
        self._every_hash = every_hash
        self._decryption = decryption
        self._lock = threading.Lock()
        self._has_all_hashes = True

    @property
    def rewrites(self) -> bool:
        """Whether it changes the bytes it checks: decryption is in place."""
        return self._decryption is not None

    def companions(self, items: LoadItems) -> list[lib.Tensor]:
        """Record headers, as if they were tensors of bytes."""
        self._indices: list[int] = items.indices.tolist()
        last = self._header.info.tensor_count - 1
        self._has_last = any(tensor.order == last for tensor in items.tensors)
        dtype = lib.dtype_code("u8")
        records = []
        for index, tensor in zip(self._indices, items.tensors, strict=True):
            offset, size = record_range(self._header, index)
            records.append(
                tensor._replace(
                    dtype=dtype,
                    shape=(size,),
                    decoded_size=size,
                    stored_size=size,
                    data_offset=offset,
                )
            )
        return records

    def begin(self, schedule: Schedule, target: Target) -> None:
        self._target = target
        self._tensors = schedule.items
        self._records = schedule.companions
        # A tensor's bytes and its record header's are one range: requests [first, end).
        first = self._records.begin
        end = np.maximum(self._tensors.end, self._records.end)
        # In file order, both ascend.
        self._order = np.lexsort((end, first))
        self._firsts = first[self._order]
        self._ends = end[self._order]
        self._missing: list[int] = (self._ends - self._firsts).tolist()

    def arrived(self, request: int) -> None:
        """Checks the tensors that this request completes. Called by workers."""
        begin = int(np.searchsorted(self._ends, request, side="right"))
        end = int(np.searchsorted(self._firsts, request, side="right"))
        complete = []
        with self._lock:
            for number in range(begin, end):
                self._missing[number] -= 1
                if self._missing[number] == 0:
                    complete.append(int(self._order[number]))
        for item in complete:
            self._check(item)

    def _check(self, item: int) -> None:
        index, data = self._indices[item], self._memory(self._tensors, item)
        record = parse_record(self._header, index, self._memory(self._records, item))
        if self._decryption is not None:
            self._decryption.decrypt(record, data, self._header.name(index))
        self._log.notes[index] = RecordNote(record.module, record.sha256 is not None)
        if not self._verify:
            return
        if record.cipher is not None and record.sha256 is None:
            # Pieces are authenticated without the tensor's name and shape. Only the hash over both
            # stops someone without the key from assigning the data to another tensor.
            raise IntegrityError(
                f"{self._header.label}, tensor {self._header.name(index)!r}: it is encrypted, but"
                " the SHA-256 that binds its name and shape to the data is missing",
                code="no-hash",
                tensor=self._header.name(index),
            )
        every_hash = self._every_hash or record.cipher is not None
        check_hashes(self._header, index, record, data, every_hash=every_hash)
        if record.sha256 is None and record.crc32 is None:
            self._has_all_hashes = False

    def _memory(self, layout: Layout, item: int) -> memoryview:
        allocation = int(layout.allocation[item])
        if allocation < 0:
            return memoryview(b"")
        begin = int(layout.position[item])
        return self._target.view(allocation)[begin : begin + int(layout.size[item])]

    def finish(self) -> None:
        if self._verify and self._indices:
            self._log.has_hashes = self._log.has_hashes is not False and self._has_all_hashes
        if self._has_last:
            self._check_end()

    def _check_end(self) -> None:
        offset = self._source.size - len(END_MARK)
        mark = bytearray(len(END_MARK))
        self._source.read_into(offset, len(mark), [memoryview(mark)])
        if mark != END_MARK:
            raise FormatError(
                f"{self._source.url}, byte {offset}: more follows the last tensor that the index"
                " names (trailing)",
                code="trailing",
                offset=offset,
            )


def check_hashes(
    header: lib.Header, index: int, record: Record, data: memoryview, *, every_hash: bool = True
) -> None:
    """Compares a tensor's bytes, decrypted, with the hashes in its record. Without `every_hash`,
    only with the CRC-32, if there is one."""
    if record.sha256 is not None and (every_hash or record.crc32 is None):
        state = hashlib.sha256(record.hashed)
        state.update(data)
        if state.digest() != record.sha256:
            raise _differs(header, index, "SHA-256")
    if record.crc32 is not None and lib.crc32(data, lib.crc32(record.hashed)) != record.crc32:
        raise _differs(header, index, "CRC-32")


def _differs(header: lib.Header, index: int, algorithm: str) -> IntegrityError:
    name = header.name(index)
    return IntegrityError(
        f"{header.label}, tensor {name!r}: these are not the bytes that were written; get the file"
        f" again ({algorithm})",
        code="checksum",
        tensor=name,
    )
