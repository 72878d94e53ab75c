"""A reader of level *load* (section 13 of the text) with the codec `raw` only, in 186 lines of
Python. BLAKE3 and CRC-32C are as many again.

    data = Path("model.tz").read_bytes()
    file = tz_load.Reader(data, pin="blake3:...")
    file.entries["weight"].shape, file.load("weight")                    # bytes, row-major

It opens files and loads tensors by name, and checks what that takes: no structure, no metadata, no
padding. `tz_reference.py` is the whole text, and the one to read.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from tz_hash import blake3, crc32c

UNIT_SIZES = {1: 1, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 4, 8: 8, 9: 8, 0x10: 2, 0x11: 2, 0x12: 4}
UNIT_SIZES |= {0x13: 8, 0x18: 4, 0x19: 8, 0x1A: 16, 0x28: 1, 0x29: 3, 0x2A: 3, 0x44: 2}
UNIT_SIZES |= dict.fromkeys([*range(0x20, 0x25), *range(0x30, 0x37), *range(0x38, 0x3F)], 1)
UNIT_SIZES |= dict.fromkeys(range(0x40, 0x44), 1)
RECORD_SIZES = {1: 120, 2: 8, 3: 0, 4: 0, 5: 0, 0xFFFFFFFF: 48}
NO_TIE = 0xFFFFFFFF


class BadFileError(Exception):
    """The file is not to be used. `rule` is the number of the requirement that it breaks."""

    def __init__(self, rule: int) -> None:
        super().__init__(f"TZ1-{rule}")
        self.rule = rule


def need(holds: bool, rule: int) -> None:
    if not holds:
        raise BadFileError(rule)


def align(n: int, a: int) -> int:
    return -(-n // a) * a


class Table(NamedTuple):
    offset: int
    size: int
    record_size: int


class Entry(NamedTuple):
    dtype: int
    shape: tuple[int, ...]
    order: int
    tie: int
    decoded_size: int
    data_offset: int
    stored_size: int
    chunk_begin: int
    run_digest: bytes
    content_digest: bytes


class Reader:
    """A file in memory whose header is valid, as far as loading takes."""

    def __init__(self, data: bytes, pin: str | None = None) -> None:
        self._data, self._is_pinned = data, pin is not None
        if pin is not None:
            need(len(data) >= 128 and "blake3:" + blake3(data[:128]).hex() == pin, 61)
        self._read_preamble(data)
        tables = self._read_directory(data)
        self._chunks = tables[0xFFFFFFFF]
        self.entries = self._read_tensors(data, tables)

    def _read_preamble(self, data: bytes) -> None:
        need(bytes.fromhex("F5545A460D0A1A0A").startswith(data[:8]), 1)
        need(len(data) >= 128, 2)
        major, self._minor, self._section_count, flags = struct.unpack_from("<HHIQ", data, 8)
        need(major == 1, 3)
        need(crc32c(data[:124]) == int.from_bytes(data[124:128], "little"), 4)
        need(flags == 0, 5)
        need(not any(data[61:64] + data[104:124]), 7)
        self._file_size, self._header_size, self._open_size = struct.unpack_from("<QQQ", data, 32)
        self._tensor_count, log2 = struct.unpack_from("<IB", data, 56)
        self._chunk_count = int.from_bytes(data[64:72], "little")
        need(16 <= log2 <= 26 and self._section_count <= 64 and self._tensor_count <= 1 << 24, 8)
        need(self._chunk_count <= 1 << 32 and self._open_size <= 1 << 32, 8)
        need(self._file_size < 1 << 63, 8)
        self._chunk_size, end = 1 << log2, 128 + 64 * self._section_count
        need(end <= self._open_size <= self._header_size <= self._file_size, 9)
        need(len(data) >= self._file_size, 10)
        need(len(data) <= self._file_size, 68)

    def _read_directory(self, data: bytes) -> dict[int, Table]:
        end = 128 + 64 * self._section_count
        need(blake3(data[128:end]) == data[72:104], 11)
        tables: dict[int, Table] = {}
        places, type_before = [], 0
        for at in range(128, end, 64):
            kind, flags, offset, size, record_size = struct.unpack_from("<IIQQI", data, at)
            need(kind > type_before, 12)
            need(flags <= 1 and not any(data[at + 28 : at + 32]), 13)
            type_before = kind
            places.append((kind, offset, size, data[at + 32 : at + 64]))
            if kind not in RECORD_SIZES:
                need(flags == 0, 14)
                continue
            need(flags == 1, 15)
            expected = RECORD_SIZES[kind]
            need(record_size == expected or (self._minor > 0 and 0 < expected < record_size), 16)
            need(record_size == 0 or size % record_size == 0, 70)
            tables[kind] = Table(offset, size, record_size)
        need({1, 2, 3, 0xFFFFFFFF} <= set(tables), 17)
        need(all(tables[kind].size > 0 for kind in {4, 5} & set(tables)), 71)
        for _, offset, size, _ in places:
            need(offset == align(end, 64), 18)
            end = offset + size
        need((places[-1][1], end) == (self._open_size, self._header_size), 72)
        for kind, count in ((1, self._tensor_count), (0xFFFFFFFF, self._chunk_count)):
            need(tables[kind].size == count * tables[kind].record_size, 73)
        for kind, offset, size, digest in places:
            if kind == 0xFFFFFFFF:
                need(not any(digest), 69)
            elif kind <= 3:
                need(blake3(data[offset : offset + size]) == digest, 20)
        return tables

    def _read_tensors(self, data: bytes, tables: dict[int, Table]) -> dict[str, Entry]:
        table, shapes, names = tables[1], tables[2], tables[3]
        entries: list[Entry] = []
        texts: list[str] = []
        name_end = dimension_end = 0
        name_before = b""
        for index in range(self._tensor_count):
            at = table.offset + index * table.record_size
            name_offset, name_size, dtype, shape_begin, rank, layout, reserved, *rest = (
                struct.unpack_from("<IHHIBBHIIQQQQ32s32s", data, at)
            )
            need(reserved == 0, 21)
            need(name_offset == name_end and name_end + name_size <= names.size, 22)
            name = data[names.offset + name_end :][:name_size]
            try:
                text = name.decode()
            except UnicodeDecodeError:
                raise BadFileError(23) from None
            need(not any(c < " " or "\x7f" <= c <= "\x9f" for c in text), 23)
            need(index == 0 or name > name_before, 24)
            name_end, name_before = name_end + name_size, name
            need(dtype in UNIT_SIZES or 0x0100 <= dtype <= 0x01FF, 25)
            need(layout == 0, 26)
            need(rank <= 64, 27)
            there = (dimension_end + rank) * shapes.record_size <= shapes.size
            need(shape_begin == dimension_end and there, 28)
            first = shapes.offset + dimension_end * shapes.record_size
            places = range(first, first + rank * shapes.record_size, shapes.record_size)
            shape = tuple(int.from_bytes(data[at : at + 8], "little") for at in places)
            dimension_end += rank
            texts.append(text)
            entries.append(Entry(dtype, shape, *rest))
            self._check_entry(entries, index)
        need(name_end == names.size and dimension_end * shapes.record_size == shapes.size, 34)
        self._check_places(entries)
        return dict(zip(texts, entries, strict=True))

    def _check_entry(self, entries: list[Entry], index: int) -> None:
        e = entries[index]
        size = product = UNIT_SIZES.get(e.dtype, 1)
        for dimension in e.shape:
            size, product = size * dimension, product * max(dimension, 1)
        need(product < 1 << 63, 29)
        need(e.decoded_size < 1 << 63, 74)
        need(e.dtype not in UNIT_SIZES or e.decoded_size == size, 30)
        need(e.order < self._tensor_count, 31)
        if e.tie != NO_TIE:
            need(e.tie < index, 32)
            owner = entries[e.tie]
            need(owner.tie == NO_TIE, 75)
            need((e[:2], e[4], e[-1]) == (owner[:2], owner[4], owner[-1]), 76)
            need(e.decoded_size != 0, 77)
        if self._chunk_number(e) == 0:
            need(e[5:9] == (0, 0, 0, blake3(b"")), 33)

    def _chunk_number(self, e: Entry) -> int:
        return -(-e.decoded_size // self._chunk_size) if e.tie == NO_TIE else 0

    def _check_places(self, entries: list[Entry]) -> None:
        need(len({e.order for e in entries}) == len(entries), 35)
        chunk_end, end = 0, self._header_size
        for e in sorted(entries, key=lambda e: e.order):
            count = self._chunk_number(e)
            if count:
                need(e.chunk_begin == chunk_end, 36)
                need(e.data_offset == align(end, 4096 if e.decoded_size >= 4096 else 64), 36)
                need(64 * (count - 1) < e.stored_size <= e.decoded_size, 36)
                chunk_end, end = chunk_end + count, e.data_offset + e.stored_size
        need((chunk_end, end) == (self._chunk_count, self._file_size), 37)

    def load(self, name: str) -> bytes:
        """The bytes of a tensor, for which nobody needs to know its dtype."""
        e = self.entries[name]
        if e.tie != NO_TIE:
            e = list(self.entries.values())[e.tie]
        step = self._chunks.record_size
        begin = self._chunks.offset + e.chunk_begin * step
        run = self._data[begin : begin + self._chunk_number(e) * step]
        need(blake3(run) == e.run_digest, 38)
        places, left, end = [], e.decoded_size, e.data_offset
        for at in range(0, len(run), step):
            length, crc, codec, reserved, digest = struct.unpack_from("<IIB7s32s", run, at)
            need(not any(reserved), 39)
            need(codec == 0, 40)
            need(length == min(left, self._chunk_size), 41)
            places.append((align(end, 64), length, crc, digest))
            left, end = left - length, align(end, 64) + length
        need(end == e.data_offset + e.stored_size, 42)
        for offset, length, crc, digest in places:
            stored = self._data[offset : offset + length]
            need(crc32c(stored) == crc, 43)
            need(not self._is_pinned or blake3(stored) == digest, 85)
        return self._data[e.data_offset : end]

    def load_typed(self, name: str) -> tuple[int, tuple[int, ...], bytes]:
        """Dtype, shape and bytes of a tensor whose dtype is known."""
        e = self.entries[name]
        need(e.dtype in UNIT_SIZES, 60)
        return e.dtype, e.shape, self.load(name)
