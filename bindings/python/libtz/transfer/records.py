"""Checks tensors of .tensors files by their record headers, as soon as a tensor is complete.

The hashes of a tensor cover all of it, so a worker checks it when the last of its requests has
arrived. A tensor without hashes is not checked; `has_all_hashes` is then False.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from libtz._native import lib
from libtz._native.records import Record, parse_record, record_range
from libtz.errors import IntegrityError
from libtz.transfer.decryption import Decryption
from libtz.transfer.schedule import Schedule
from libtz.transfer.target import Target

__all__ = ["RecordCheck", "RecordNote", "check_hashes", "record_wants"]


class RecordNote(NamedTuple):
    """The fields of a record header that are kept."""

    module: int  # the number of the module that had the tensor
    has_sha256: bool


def record_wants(
    header: lib.Header, indices: Sequence[int], entries: Sequence[lib.Tensor]
) -> list[lib.Tensor]:
    """The record headers of tensors, as wants for tensors of bytes."""
    wants = []
    for index, entry in zip(indices, entries, strict=True):
        offset, size = record_range(header, index)
        wants.append(
            entry._replace(
                dtype=lib.dtype_code("u8"),
                shape=(size,),
                decoded_size=size,
                stored_size=size,
                data_offset=offset,
            )
        )
    return wants


class RecordCheck:
    """The check of one load. Its wants are those of `Wants.with_records`: tensors, then records."""

    def __init__(
        self,
        header: lib.Header,
        indices: Sequence[int],
        *,
        verify: bool,
        every_hash: bool,
        decryption: Decryption | None,
        notes: dict[int, RecordNote],
    ) -> None:
        """Without `every_hash`, an unencrypted tensor with a CRC-32 is checked only by that."""
        self._header = header
        self._indices = indices
        self._verify = verify
        self._every_hash = every_hash
        self._decryption = decryption
        self._lock = threading.Lock()
        self._notes = notes  # by tensor; filled as they arrive
        self.has_all_hashes = True

    @property
    def rewrites(self) -> bool:
        """Whether it changes the bytes it checks: decryption is in place."""
        return self._decryption is not None

    def begin(self, schedule: Schedule, target: Target, placements: Any) -> None:
        """Called once, before the first request."""
        self._target = target
        count = len(self._indices)
        self._units = schedule.unit_of_want
        self._positions: NDArray[np.uint64] = placements["position"]
        self._sizes: NDArray[np.uint64] = placements["size"]
        # A tensor's bytes and its record header's are one range: requests [first, end).
        first = schedule.want_begin[count:]
        end = np.maximum(schedule.want_end[:count], schedule.want_end[count:])
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
            for place in range(begin, end):
                self._missing[place] -= 1
                if self._missing[place] == 0:
                    complete.append(int(self._order[place]))
        for want in complete:
            self._check(want)

    def _check(self, want: int) -> None:
        index = self._indices[want]
        record = parse_record(self._header, index, self._memory(want + len(self._indices)))
        if self._decryption is not None:
            self._decryption.decrypt(record, self._memory(want), self._header.name(index))
        self._notes[index] = RecordNote(record.module, record.sha256 is not None)
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
        check_hashes(self._header, index, record, self._memory(want), every_hash=every_hash)
        if record.sha256 is None and record.crc32 is None:
            self.has_all_hashes = False

    def _memory(self, want: int) -> memoryview:
        unit = int(self._units[want])
        if unit < 0:
            return memoryview(b"")
        begin = int(self._positions[want])
        return self._target.view(unit)[begin : begin + int(self._sizes[want])]


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
