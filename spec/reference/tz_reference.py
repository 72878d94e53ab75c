"""The tz format, version 1: a reader and a writer in plain Python, in the order of the text.

It is meant to be read beside `spec/tz-v1.md`, and to settle what other implementations say about
a file: the same verdict, the same class of error. `require(..., 36, ...)` enforces [TZ1-36].

    file = tz_reference.open("model.tz", pin="blake3:...")    # reads the whole file into memory
    file.names(), file.metadata, file.digest, file.content_digest
    file.load("layer.weight")                                 # Tensor(dtype, shape, data)
    file.object()                                             # the nested object, if there is one
    file.verify()                                             # every rule that there is for a file

    data = tz_reference.encode({"x": Tensor("f32", (2,), bytes(8))}, metadata={"license": "MIT"})
"""

from __future__ import annotations

import hashlib
import importlib
import math
import struct
from collections import namedtuple
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tz_hash import Blake3, blake3, crc32c

try:  # codec 1 has its own document, and its own reference
    tz_tiered: Any = importlib.import_module("tz_tiered")
except ImportError:
    tz_tiered = None

# 1. Conventions -----------------------------------------------------------------------------------


class TzError(Exception):
    """A file breaks a rule. `error_class` is one of section 13, `rule` is such as "TZ1-36"."""

    def __init__(self, error_class: str, rule: int, offset: int, message: str) -> None:
        super().__init__(f"{error_class} [TZ1-{rule}] at byte {offset}: {message}")
        self.error_class = error_class
        self.rule = f"TZ1-{rule}"
        self.offset = offset
        self.message = message


def require(holds: bool, error_class: str, rule: int, offset: int, message: str) -> None:
    if not holds:
        raise TzError(error_class, rule, offset, message)


def align(n: int, a: int) -> int:
    return -(-n // a) * a


def signed(n: int) -> int:
    return n - (1 << 64) if n >> 63 else n


def utf8(data: bytes, error_class: str, rule: int, offset: int) -> str:
    try:
        return data.decode("utf-8", "strict")  # rejects surrogates and longer forms too
    except UnicodeDecodeError as error:
        raise TzError(error_class, rule, offset + error.start, "not well-formed UTF-8") from None


def has_control_characters(text: str) -> bool:
    return any(character < " " or "\x7f" <= character <= "\x9f" for character in text)


# 3. Preamble --------------------------------------------------------------------------------------

MAGIC = bytes.fromhex("F5 54 5A 46 0D 0A 1A 0A")

PREAMBLE = struct.Struct("<8sHHIQQQQQIB3sQ32s20sI")
Preamble = namedtuple(
    "Preamble",
    "magic version_major version_minor section_count incompatible_flags compatible_flags "
    "file_size header_size open_size tensor_count chunk_size_log2 reserved_1 chunk_count "
    "directory_digest reserved_2 preamble_crc",
)


def read_preamble(front: bytes, size: int, pin: str | None) -> Preamble:
    """Steps 1 and 2 of section 13. `size` is the real size of the file that begins with `front`."""
    if pin is not None:
        same = size >= PREAMBLE.size and digest_text(front[: PREAMBLE.size]) == pin
        require(same, "digest", 61, 0, "not the pinned file")
    require(MAGIC.startswith(front[:8]), "not-tz", 1, 0, "other magic bytes")
    require(size >= PREAMBLE.size, "truncated", 2, size, "shorter than a preamble")
    p = Preamble(*PREAMBLE.unpack_from(front))
    require(p.version_major == 1, "version", 3, 8, f"major version {p.version_major}")
    require(p.preamble_crc == crc32c(front[:124]), "checksum", 4, 124, "the preamble's CRC")
    unknown = p.incompatible_flags & ~sum(known_flags().values())
    require(unknown == 0, "feature", 5, 16, f"unknown incompatible flags {unknown:#x}")
    require(not any(p.reserved_1 + p.reserved_2), "reserved", 7, 61, "reserved bytes are not zero")
    require(16 <= p.chunk_size_log2 <= 26, "limit", 8, 60, f"chunk size 2^{p.chunk_size_log2}")
    require(p.tensor_count <= 1 << 24, "limit", 8, 56, f"{p.tensor_count} tensors")
    require(p.chunk_count <= 1 << 32, "limit", 8, 64, f"{p.chunk_count} chunks")
    require(p.section_count <= 64, "limit", 8, 12, f"{p.section_count} sections")
    require(p.open_size <= 1 << 32, "limit", 8, 48, f"open_size {p.open_size}")
    require(p.file_size < 1 << 63, "limit", 8, 32, f"file_size {p.file_size}")
    directory_end = PREAMBLE.size + SECTION.size * p.section_count
    ascending = directory_end <= p.open_size <= p.header_size <= p.file_size
    require(ascending, "layout", 9, 32, "the sizes are not in order")
    require(size >= p.file_size, "truncated", 10, size, f"{size} of {p.file_size} bytes")
    require(size <= p.file_size, "trailing", 68, p.file_size, f"{size} for {p.file_size} bytes")
    return p


def known_flags() -> dict[int, int]:
    """Section 14: the incompatible flag of each codec but `raw` that this reader has."""
    return {TIERED: 1 << 1} if tz_tiered is not None else {}


# 4. Section directory -----------------------------------------------------------------------------

TENSORS, SHAPES, NAMES, STRUCTURE, METADATA, CHUNKS = 1, 2, 3, 4, 5, 0xFFFFFFFF
RECORD_SIZES = {TENSORS: 120, SHAPES: 8, NAMES: 0, STRUCTURE: 0, METADATA: 0, CHUNKS: 48}
CRITICAL = 1

SECTION = struct.Struct("<IIQQI4s32s")
Section = namedtuple("Section", "type flags offset size record_size reserved digest")


def read_directory(front: bytes, p: Preamble) -> dict[int, Section]:
    """Steps 3 and 4 of section 13. Sections that a reader skips are checked, but not returned."""
    directory_end = PREAMBLE.size + SECTION.size * p.section_count
    directory = front[PREAMBLE.size : directory_end]
    require(blake3(directory) == p.directory_digest, "checksum", 11, 128, "the directory")
    entries = [Section(*fields) for fields in SECTION.iter_unpack(directory)]
    type_before = 0
    for i, s in enumerate(entries):
        at = PREAMBLE.size + SECTION.size * i
        require(s.type > type_before, "directory", 12, at, f"type {s.type:#x} is out of order")
        type_before = s.type
        zero = s.flags & ~CRITICAL == 0 and not any(s.reserved)
        require(zero, "reserved", 13, at + 4, "reserved flags or bytes are not zero")
        critical = s.flags & CRITICAL != 0
        if s.type not in RECORD_SIZES:
            require(not critical, "feature", 14, at, f"unknown critical section {s.type:#x}")
            continue
        require(critical, "directory", 15, at + 4, "a section of this version is critical")
        expected = RECORD_SIZES[s.type]
        longer = p.version_minor > 0 and 0 < expected < s.record_size
        require(s.record_size == expected or longer, "directory", 16, at + 24, "record_size")
        whole = s.record_size == 0 or s.size % s.record_size == 0
        require(whole, "directory", 70, at + 16, "not a whole number of records")
    sections = {s.type: s for s in entries if s.type in RECORD_SIZES}
    for section_type in (TENSORS, SHAPES, NAMES, CHUNKS):
        require(section_type in sections, "directory", 17, 128, f"no section {section_type:#x}")
    for section_type in {STRUCTURE, METADATA} & set(sections):
        require(sections[section_type].size > 0, "directory", 71, 128, "an empty section")
    check_section_places(entries, p)
    check_section_bytes(front, entries, directory_end)
    return sections


def check_section_places(entries: Sequence[Section], p: Preamble) -> None:
    end = PREAMBLE.size + SECTION.size * p.section_count
    for i, s in enumerate(entries):
        at = PREAMBLE.size + SECTION.size * i
        require(s.offset == align(end, 64), "layout", 18, at + 8, f"offset {s.offset}")
        end = s.offset + s.size
    there = (entries[-1].offset, end) == (p.open_size, p.header_size)
    require(there, "layout", 72, 40, "the chunk table is not from open_size to header_size")
    counts = {TENSORS: p.tensor_count, CHUNKS: p.chunk_count}
    for s in entries:
        count = counts.get(s.type, 0)
        fits = s.type not in counts or s.size == count * s.record_size
        require(fits, "layout", 73, s.offset, f"{s.size} bytes for {count} records")


def check_section_bytes(front: bytes, entries: Sequence[Section], directory_end: int) -> None:
    end = directory_end
    for s in entries:
        require(not any(front[end : s.offset]), "reserved", 19, end, "padding is not zero")
        end = s.offset + s.size
        if s.type == CHUNKS:
            require(not any(s.digest), "reserved", 69, s.offset, "the chunk table has no digest")
        else:
            same = blake3(front[s.offset : end]) == s.digest
            require(same, "checksum", 20, s.offset, f"section {s.type:#x}")


# 5. Tensor table, 6. Shapes, 7. Names -------------------------------------------------------------

NO_TIE = 0xFFFFFFFF
RECORD = struct.Struct("<IHHIBB2sIIQQQQ32s32s")
Record = namedtuple(
    "Record",
    "name_offset name_size dtype shape_begin rank layout reserved order tie decoded_size "
    "data_offset stored_size chunk_begin run_digest content_digest",
)


@dataclass(frozen=True)
class Entry:
    """A record of the tensor table with what it refers to."""

    index: int
    at: int  # where the record lies in the file
    record: Record
    name: str
    shape: tuple[int, ...]
    chunk_count: int

    @property
    def is_tied(self) -> bool:
        return bool(self.record.tie != NO_TIE)


def read_tensor_table(front: bytes, p: Preamble, sections: Mapping[int, Section]) -> list[Entry]:
    """Step 5 of section 13."""
    table, shapes, names = sections[TENSORS], sections[SHAPES], sections[NAMES]
    entries: list[Entry] = []
    name_end = dimension_end = 0
    name_before = b""
    for index in range(p.tensor_count):
        at = table.offset + index * table.record_size
        r = Record(*RECORD.unpack_from(front, at))
        require(not any(r.reserved), "reserved", 21, at + 14, "reserved bytes are not zero")
        there = r.name_offset == name_end and name_end + r.name_size <= names.size
        require(there, "layout", 22, at, f"name at {r.name_offset}, {r.name_size} bytes")
        name_at = names.offset + name_end
        name_bytes = front[name_at : name_at + r.name_size]
        name = utf8(name_bytes, "name", 23, name_at)
        require(not has_control_characters(name), "name", 23, name_at, "control character")
        require(index == 0 or name_bytes > name_before, "name", 24, name_at, "not ascending")
        name_end, name_before = name_end + r.name_size, name_bytes
        known = r.dtype in UNIT_SIZES or r.dtype in EXTENSIBLE
        require(known, "feature", 25, at + 6, f"dtype {r.dtype:#x}")
        require(r.layout == 0, "feature", 26, at + 13, f"layout {r.layout}")
        require(r.rank <= 64, "limit", 27, at + 12, f"rank {r.rank}")
        shape_at = shapes.offset + dimension_end * shapes.record_size
        shape_end = shape_at + r.rank * shapes.record_size
        there = r.shape_begin == dimension_end and shape_end <= shapes.offset + shapes.size
        require(there, "layout", 28, at + 8, f"shape at {r.shape_begin}, rank {r.rank}")
        places = range(shape_at, shape_end, shapes.record_size)
        shape = tuple(struct.unpack_from("<Q", front, place)[0] for place in places)
        dimension_end += r.rank
        chunk_count = 0 if r.tie != NO_TIE else -(-r.decoded_size >> p.chunk_size_log2)
        entry = Entry(index, at, r, name, shape, chunk_count)
        check_record(entry, entries, p)
        entries.append(entry)
    require(name_end == names.size, "layout", 34, names.offset, "bytes after the last name")
    used = dimension_end * shapes.record_size
    require(used == shapes.size, "layout", 34, shapes.offset, "dimensions after the last shape")
    check_data_places(entries, p)
    return entries


def check_record(e: Entry, before: Sequence[Entry], p: Preamble) -> None:
    """TZ1-29 to TZ1-33, with TZ1-74 to TZ1-77."""
    r = e.record
    unit_size = UNIT_SIZES.get(r.dtype, 1)
    largest = math.prod(dimension for dimension in e.shape if dimension) * unit_size
    require(largest < 1 << 63, "limit", 29, e.at + 8, "dimensions of 2^63 bytes or more")
    require(r.decoded_size < 1 << 63, "limit", 74, e.at + 24, "2^63 bytes or more")
    fits = r.dtype not in UNIT_SIZES or r.decoded_size == math.prod(e.shape) * unit_size
    require(fits, "shape", 30, e.at + 24, f"{r.decoded_size} bytes for shape {e.shape}")
    require(r.order < p.tensor_count, "order", 31, e.at + 16, f"order {r.order}")
    if e.is_tied:
        require(r.tie < e.index, "tie", 32, e.at + 20, f"tied to record {r.tie}")
        owner = before[r.tie]
        o = owner.record
        require(not owner.is_tied, "tie", 75, e.at + 20, f"{owner.name!r} is tied itself")
        same = (r.dtype, e.shape, r.decoded_size) == (o.dtype, owner.shape, o.decoded_size)
        same = same and r.content_digest == o.content_digest
        require(same, "tie", 76, e.at + 20, f"tied to {owner.name!r}, which is not the same")
        require(r.decoded_size != 0, "tie", 77, e.at + 24, "an empty tensor is tied")
    if e.chunk_count == 0:
        nowhere = r.data_offset == r.stored_size == r.chunk_begin == 0
        require(nowhere, "layout", 33, e.at + 32, "a place without chunks")
        require(r.run_digest == blake3(b""), "layout", 33, e.at + 56, "a run without chunks")


def check_data_places(entries: Sequence[Entry], p: Preamble) -> None:
    """TZ1-35 to TZ1-37."""
    by_order: dict[int, Entry] = {}
    for e in entries:
        require(e.record.order not in by_order, "order", 35, e.at + 16, "an order used before")
        by_order[e.record.order] = e
    chunk_end, end = 0, p.header_size
    for _, e in sorted(by_order.items()):
        if e.chunk_count == 0:
            continue
        r = e.record
        require(r.chunk_begin == chunk_end, "layout", 36, e.at + 48, f"run at {r.chunk_begin}")
        begin = align(end, data_alignment(r.decoded_size))
        require(r.data_offset == begin, "layout", 36, e.at + 32, f"data at {r.data_offset}")
        possible = 64 * (e.chunk_count - 1) + 1 <= r.stored_size <= r.decoded_size
        require(possible, "layout", 36, e.at + 40, f"stored size {r.stored_size}")
        chunk_end, end = chunk_end + e.chunk_count, begin + r.stored_size
    require(chunk_end == p.chunk_count, "layout", 37, 64, f"{chunk_end} chunks are used")
    require(end == p.file_size, "layout", 37, 32, f"the data end at {end}")


def data_alignment(decoded_size: int) -> int:
    return 4096 if decoded_size >= 4096 else 64


# 8. Chunk table and chunks ------------------------------------------------------------------------

RAW, TIERED = 0, 1
CHUNK = struct.Struct("<IIB7s32s")
Chunk = namedtuple("Chunk", "stored_length crc codec reserved digest")
PlacedChunk = namedtuple("PlacedChunk", "chunk offset decoded_length")


def read_run(data: bytes, header: Header, e: Entry) -> list[PlacedChunk]:
    """What a reader checks before it uses the run of a tensor that is not tied."""
    p, r, table = header.preamble, e.record, header.sections[CHUNKS]
    begin = table.offset + r.chunk_begin * table.record_size
    end = begin + e.chunk_count * table.record_size
    require(blake3(data[begin:end]) == r.run_digest, "checksum", 38, begin, f"run of {e.name!r}")
    placed = []
    left, data_end = r.decoded_size, r.data_offset
    for at in range(begin, end, table.record_size):
        chunk = Chunk(*CHUNK.unpack_from(data, at))
        require(not any(chunk.reserved), "reserved", 39, at + 9, "reserved bytes are not zero")
        announced = p.incompatible_flags & known_flags().get(chunk.codec, 0) != 0
        require(chunk.codec == RAW or announced, "feature", 40, at + 8, f"codec {chunk.codec}")
        length, decoded_length = chunk.stored_length, min(left, 1 << p.chunk_size_log2)
        fits = length == decoded_length if chunk.codec == RAW else 1 <= length < decoded_length
        require(fits, "chunk", 41, at, f"{length} bytes for {decoded_length}")
        offset = align(data_end, 64)
        left, data_end = left - decoded_length, offset + length
        placed.append(PlacedChunk(chunk, offset, decoded_length))
    there = data_end == r.data_offset + r.stored_size
    require(there, "chunk", 42, begin, f"the chunks of {e.name!r} end at {data_end}")
    return placed


def read_chunk(data: bytes, e: Entry, placed: PlacedChunk) -> bytes:
    """The decoded bytes of a chunk. This reader checks both checksums, pinned or not."""
    chunk, offset = placed.chunk, placed.offset
    stored = data[offset : offset + chunk.stored_length]
    require(crc32c(stored) == chunk.crc, "checksum", 43, offset, f"a chunk of {e.name!r}")
    require(blake3(stored) == chunk.digest, "checksum", 85, offset, f"a chunk of {e.name!r}")
    if chunk.codec == RAW:
        return stored
    known = e.record.dtype in DTYPE_NAMES
    require(known, "feature", 86, offset, f"dtype {e.record.dtype:#x} cannot be decoded")
    try:
        dtype = dtype_name(e.record.dtype)
        return bytes(tz_tiered.decode(stored, dtype, placed.decoded_length))
    except ValueError as error:
        raise TzError("codec", 44, offset, str(error)) from error


# 9. Structure -------------------------------------------------------------------------------------

NONE, BOOLEAN, INTEGER, FLOAT, STRING, BYTES, TENSOR, DICT, LIST, TUPLE, LARGE_INTEGER = range(11)
NO_KEY, STRING_KEY, INTEGER_KEY, LARGE_INTEGER_KEY = range(4)
KINDS_WITH_BYTES = (STRING, BYTES, LARGE_INTEGER)
KEY_KINDS_WITH_BYTES = (STRING_KEY, LARGE_INTEGER_KEY)

NODE_COUNT_MAX = 1 << 26

NODE = struct.Struct("<BB6sQQ")
Node = namedtuple("Node", "kind key_kind reserved key value")


class TensorRef(NamedTuple):
    name: str  # stands for the tensor of this name in a nested object


class StructureReader:
    """Step 6 of section 13. It recurses, which the check of the depth before makes safe."""

    def __init__(self, front: bytes, section: Section, names: Sequence[str]) -> None:
        self.front, self.names = front, names
        self.at, self.end = section.offset, section.offset + section.size
        self.node_count = 0
        self.unused = set(range(len(names)))
        self.repeated_key_at: int | None = None

    def read(self) -> Any:
        _, value = self.read_node(parent_kind=None, depth=0)
        require(self.at == self.end, "structure", 79, self.at, "bytes after the last node")
        require(not self.unused, "structure", 81, self.at, "a tensor that no node refers to")
        at = self.repeated_key_at
        require(at is None, "structure", 52, at or 0, "a key used before in the same dict")
        return value

    def read_node(self, parent_kind: int | None, depth: int) -> tuple[str | int | None, Any]:
        at = self.at
        require(at + NODE.size <= self.end, "structure", 48, at, "the nodes end too early")
        self.node_count += 1
        require(depth <= 128, "limit", 53, at, f"depth {depth}")
        require(self.node_count <= NODE_COUNT_MAX, "limit", 82, at, "too many nodes")
        node = Node(*NODE.unpack_from(self.front, at))
        check_node(node, parent_kind, at)
        key_at = at + NODE.size
        value_at = key_at + (node.key if node.key_kind in KEY_KINDS_WITH_BYTES else 0)
        self.at = value_at + (node.value if node.kind in KINDS_WITH_BYTES else 0)
        require(self.at <= self.end, "structure", 78, at, "a key or value that goes on too far")
        key: str | int | None = signed(node.key) if node.key_kind == INTEGER_KEY else None
        if node.key_kind == STRING_KEY:
            key = utf8(self.front[key_at:value_at], "structure", 51, key_at)
        if node.key_kind == LARGE_INTEGER_KEY:
            key = large_integer(self.front[key_at:value_at], key_at)
        return key, self.read_value(node, value_at, depth)

    def read_value(self, node: Node, value_at: int, depth: int) -> Any:
        if node.kind == STRING:
            return utf8(self.front[value_at : self.at], "structure", 51, value_at)
        if node.kind == BYTES:
            return self.front[value_at : self.at]
        if node.kind == LARGE_INTEGER:
            return large_integer(self.front[value_at : self.at], value_at)
        if node.kind == TENSOR:
            require(node.value < len(self.names), "structure", 54, value_at, "no such tensor")
            require(node.value in self.unused, "structure", 80, value_at, "a tensor used before")
            self.unused.remove(node.value)
            return TensorRef(self.names[node.value])
        if node.kind == DICT:
            return self.read_dict(node.value, depth)
        if node.kind in (LIST, TUPLE):
            children = [self.read_node(node.kind, depth + 1)[1] for _ in range(node.value)]
            return children if node.kind == LIST else tuple(children)
        if node.kind == FLOAT:
            return struct.unpack("<d", struct.pack("<Q", node.value))[0]
        return {NONE: None, BOOLEAN: bool(node.value), INTEGER: signed(node.value)}[node.kind]

    def read_dict(self, count: int, depth: int) -> dict[str | int | None, Any]:
        children: dict[str | int | None, Any] = {}
        for _ in range(count):
            at = self.at
            key, value = self.read_node(DICT, depth + 1)
            if key in children and self.repeated_key_at is None:
                self.repeated_key_at = at
            children[key] = value
        return children


def check_node(node: Node, parent_kind: int | None, at: int) -> None:
    """TZ1-49 and TZ1-50."""
    require(node.kind <= LARGE_INTEGER, "structure", 49, at, f"kind {node.kind}")
    require(
        node.key_kind <= LARGE_INTEGER_KEY, "structure", 49, at + 1, f"key_kind {node.key_kind}"
    )
    require(not any(node.reserved), "structure", 49, at + 2, "reserved bytes are not zero")
    largest = {NONE: 0, BOOLEAN: 1}.get(node.kind, node.value)
    require(node.value <= largest, "structure", 49, at + 16, f"value {node.value}")
    no_key = node.key_kind == NO_KEY
    require(not no_key or node.key == 0, "structure", 49, at + 8, "a key of no kind")
    require(no_key == (parent_kind != DICT), "structure", 50, at + 1, "a key in the wrong place")


def large_integer(data: bytes, at: int) -> int:
    """TZ1-67 and TZ1-84."""
    require(len(data) <= 1024, "limit", 67, at, f"an integer of {len(data)} bytes")
    value = int.from_bytes(data, "little", signed=True)
    fewest = len(data) >= 9 and data == pack_large_integer(value)
    require(fewest, "structure", 84, at, "an integer in more bytes than it needs")
    return value


# 10. Metadata -------------------------------------------------------------------------------------

PAIR = struct.Struct("<II")


def read_metadata(front: bytes, section: Section) -> dict[str, str]:
    """Step 7 of section 13."""
    metadata: dict[str, str] = {}
    at, section_end, key_before = section.offset, section.offset + section.size, b""
    while at < section_end:
        require(len(metadata) < 65536, "limit", 58, at, "too many pairs")
        require(at + PAIR.size <= section_end, "metadata", 55, at, "the pairs end too early")
        key_size, value_size = PAIR.unpack_from(front, at)
        key_at = at + PAIR.size
        value_at = key_at + key_size
        end = value_at + value_size
        require(end <= section_end, "metadata", 55, at, "a pair that goes on too far")
        require(key_size <= 1024, "limit", 83, at, f"a key of {key_size} bytes")
        key_bytes = front[key_at:value_at]
        key = utf8(key_bytes, "metadata", 56, key_at)
        value = utf8(front[value_at:end], "metadata", 56, value_at)
        clean = key != "" and not has_control_characters(key)
        require(clean, "metadata", 56, key_at, "an empty key, or a control character in it")
        require(key_bytes > key_before, "metadata", 57, key_at, "keys are not ascending")
        metadata[key] = value
        at, key_before = end, key_bytes
    return metadata


# 11. Data types -----------------------------------------------------------------------------------


_TABLE = """ code, name, bytes of a storage unit
01 bool 1  02 u8 1  03 i8 1  04 u16 2  05 i16 2  06 u32 4  07 i32 4  08 u64 8  09 i64 8
10 f16 2  11 bf16 2  12 f32 4  13 f64 8  18 c32 4  19 c64 8  1A c128 16
20 f8_e4m3fn 1  21 f8_e5m2 1  22 f8_e4m3fnuz 1  23 f8_e5m2fnuz 1  24 f8_e8m0fnu 1
28 f4_e2m1fn_x2 1  29 f6_e2m3_x4 3  2A f6_e3m2_x4 3
30 u1 1  31 u2 1  32 u3 1  33 u4 1  34 u5 1  35 u6 1  36 u7 1
38 i1 1  39 i2 1  3A i3 1  3B i4 1  3C i5 1  3D i6 1  3E i7 1
40 u1_x8 1  41 u2_x4 1  42 u4_x2 1  43 b8 1  44 b16 2
"""
_CELLS = _TABLE.split("\n", 1)[1].split()
DTYPE_CODES = {name: int(code, 16) for code, name in zip(_CELLS[::3], _CELLS[1::3], strict=True)}
DTYPE_NAMES = {code: name for name, code in DTYPE_CODES.items()}
UNIT_SIZES = {code: int(size) for code, size in zip(DTYPE_NAMES, _CELLS[2::3], strict=True)}
EXTENSIBLE = range(0x0100, 0x0200)


def known_dtype(e: Entry) -> str:
    require(e.record.dtype in DTYPE_NAMES, "feature", 60, e.at + 6, f"dtype {e.record.dtype:#x}")
    return DTYPE_NAMES[e.record.dtype]


def dtype_name(code: int) -> str:
    return DTYPE_NAMES.get(code, f"0x{code:04x}")


# 12. Digests --------------------------------------------------------------------------------------


def digest_text(data: bytes) -> str:
    return "blake3:" + blake3(data).hex()


def file_content_digest(entries: Sequence[Entry]) -> str:
    parts = [b"tz content digest v1", bytes(4), struct.pack("<Q", len(entries))]
    for e in entries:
        name, r = e.name.encode(), e.record
        parts += [struct.pack("<I", len(name)), name, struct.pack("<HH", r.dtype, r.rank)]
        parts += [struct.pack(f"<{r.rank}Q", *e.shape), r.content_digest]
    return digest_text(b"".join(parts))


# 13. Order of checks: opening, loading, whole-file operations -------------------------------------


class Header(NamedTuple):
    """What opening gives. `structure` is also None in a file that holds the object None."""

    preamble: Preamble
    sections: dict[int, Section]
    entries: list[Entry]
    structure: Any  # with a TensorRef for each tensor
    metadata: dict[str, str]


def read_header(front: bytes, size: int, pin: str | None = None) -> Header:
    """Open a file of `size` bytes, of which `front` holds the first `open_size` or more."""
    p = read_preamble(front, size, pin)
    front = front[: p.open_size]  # nothing behind it is needed
    sections = read_directory(front, p)
    entries = read_tensor_table(front, p, sections)
    structure, metadata = None, {}
    if STRUCTURE in sections:
        names = [e.name for e in entries]
        structure = StructureReader(front, sections[STRUCTURE], names).read()
    if METADATA in sections:
        metadata = read_metadata(front, sections[METADATA])
    return Header(p, sections, entries, structure, metadata)


class Tensor(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    data: bytes


class File:
    """A file whose header is valid. Its data are checked when they are loaded."""

    def __init__(self, data: bytes, *, pin: str | None = None) -> None:
        self.header = read_header(data, len(data), pin)
        self.metadata = self.header.metadata
        self.digest = digest_text(data[: PREAMBLE.size])
        self.content_digest = file_content_digest(self.header.entries)
        # SHA-256 of the decoded bytes of all tensors that verify() has found right so far.
        self.released = hashlib.sha256()
        self._data = data
        self._entries = {e.name: e for e in self.header.entries}

    def names(self) -> list[str]:
        return list(self._entries)

    def load(self, name: str) -> Tensor:
        e = self._entries[name]
        return Tensor(known_dtype(e), e.shape, self.load_bytes(name))

    def load_bytes(self, name: str) -> bytes:
        """For this, nobody needs to know what the dtype means."""
        e = self._entries[name]
        owner = self.header.entries[e.record.tie] if e.is_tied else e
        return b"".join(read_chunk(self._data, owner, placed) for placed in self.run(owner))

    def object(self) -> Any:
        """The nested object with its tensors loaded."""
        if STRUCTURE not in self.header.sections:
            raise ValueError("the file holds tensors by name, not a nested object")

        def fill(node: Any) -> Any:
            if isinstance(node, TensorRef):
                return self.load(node.name)
            if isinstance(node, dict):
                return {key: fill(value) for key, value in node.items()}
            return type(node)(map(fill, node)) if isinstance(node, (list, tuple)) else node

        return fill(self.header.structure)

    def run(self, e: Entry) -> list[PlacedChunk]:
        return read_run(self._data, self.header, e)

    def verify(self) -> None:
        """The whole-file operation: all that loading checks, and TZ1-45 to TZ1-47."""
        p = self.header.preamble
        gaps, flags, end = [], 0, p.header_size
        own_data = [e for e in self.header.entries if not e.is_tied]
        for e in sorted(own_data, key=lambda e: e.record.order):
            run, content, released = self.run(e), Blake3(), self.released.copy()
            for placed in run:
                decoded = read_chunk(self._data, e, placed)
                content.update(decoded)
                released.update(decoded)
            same = content.digest() == e.record.content_digest
            require(same, "content", 46, e.at + 88, f"the content of {e.name!r}")
            self.released = released
            for chunk, offset, _ in run:
                gaps.append((end, offset))
                end = offset + chunk.stored_length
                flags |= known_flags().get(chunk.codec, 0)
        for begin, end in gaps:
            require(not any(self._data[begin:end]), "reserved", 45, begin, "padding is not zero")
        require(p.incompatible_flags == flags, "feature", 47, 16, "the flag of an unused codec")


def open(path: str | Path, *, pin: str | None = None) -> File:
    return File(Path(path).read_bytes(), pin=pin)


# 17. Writers --------------------------------------------------------------------------------------

NO_STRUCTURE = object()


@dataclass
class Draft:
    """The parts of a file, from which places and digests follow. Broken files start here too."""

    preamble: Preamble
    directory: list[Section]
    bodies: dict[int, bytes]  # of every section but the tensor table and the chunk table
    records: list[Record]
    chunks: list[Chunk]
    stored: list[bytes]  # of each chunk
    runs: dict[int, range]  # the chunks of a record by its index, in the order of the data

    def tables(self) -> dict[int, bytes]:
        """The bytes of every section; what a later minor version adds to records is '+'."""
        sizes = {s.type: s.record_size for s in self.directory}
        records = b"".join(RECORD.pack(*r).ljust(sizes.get(TENSORS, 0), b"+") for r in self.records)
        return {TENSORS: records, CHUNKS: self.run(range(len(self.chunks))), **self.bodies}

    def run(self, chunks: range) -> bytes:
        record_size = self.directory[-1].record_size
        return b"".join(CHUNK.pack(*self.chunks[i]).ljust(record_size, b"+") for i in chunks)

    def place(self) -> Draft:
        """Set every size, count and offset that follows from the rest."""
        tables, end = self.tables(), PREAMBLE.size + SECTION.size * len(self.directory)
        for i, s in enumerate(self.directory):
            offset, size = align(end, 64), len(tables[s.type])
            self.directory[i] = s._replace(offset=offset, size=size)
            end = offset + size
        p = self.preamble._replace(header_size=end, open_size=self.directory[-1].offset)
        for index, run in self.runs.items():
            begin = end = align(end, data_alignment(self.records[index].decoded_size))
            for i in run:
                end = align(end, 64) + len(self.stored[i])
            r = self.records[index]._replace(data_offset=begin, stored_size=end - begin)
            self.records[index] = r._replace(chunk_begin=run.start)
        p = p._replace(file_size=end, section_count=len(self.directory))
        self.preamble = p._replace(tensor_count=len(self.records), chunk_count=len(self.chunks))
        return self

    def pack(self) -> bytes:
        """Set every digest, from the data up to the preamble, and put the bytes together."""
        for i, stored in enumerate(self.stored):
            self.chunks[i] = self.chunks[i]._replace(crc=crc32c(stored), digest=blake3(stored))
        for index, r in enumerate(self.records):
            run_digest = blake3(self.run(self.runs.get(index, range(0))))
            self.records[index] = r._replace(run_digest=run_digest)
        tables = self.tables()
        for i, s in enumerate(self.directory):
            digest = bytes(32) if s.type == CHUNKS else blake3(tables[s.type])
            self.directory[i] = s._replace(digest=digest)
        directory = b"".join(SECTION.pack(*s) for s in self.directory)
        self.preamble = self.preamble._replace(directory_digest=blake3(directory))
        crc = crc32c(PREAMBLE.pack(*self.preamble)[:124])
        self.preamble = self.preamble._replace(preamble_crc=crc)
        out = bytearray(PREAMBLE.pack(*self.preamble) + directory)
        for s in self.directory:
            out += bytes(-len(out) % 64) + tables[s.type]
        for index, run in self.runs.items():
            out += bytes(-len(out) % data_alignment(self.records[index].decoded_size))
            for i in run:
                out += bytes(-len(out) % 64) + self.stored[i]
        return bytes(out)


def encode(tensors: Mapping[str, Tensor], **options: Any) -> bytes:
    """The file that holds `tensors`, in their order; the options are those of `draft`."""
    data = draft(tensors, **options).place().pack()
    try:
        File(data)
    except TzError as error:  # what no reader would open, no writer should write
        raise ValueError(f"no file can hold this: {error}") from error
    return data


def draft(
    tensors: Mapping[str, Tensor],
    *,
    ties: Iterable[Iterable[str]] = (),
    structure: Any = NO_STRUCTURE,
    metadata: Mapping[str, str] | None = None,
    chunk_size: int = 1 << 20,
    codec: str = "raw",
) -> Draft:
    """The parts of the one file that holds this.

    `ties`: groups of names that share memory. `structure`: a nested object, TensorRefs as leaves.
    """
    names = sorted(tensors, key=str.encode)  # str.encode refuses surrogates
    index_of = {name: index for index, name in enumerate(names)}
    groups = [sorted(index_of[name] for name in group) for group in ties]
    owners = {index: group[0] for group in groups for index in group[1:]}
    order = {name: place for place, name in enumerate(tensors)}
    dimensions = [dimension for name in names for dimension in tensors[name].shape]
    shapes = struct.pack(f"<{len(dimensions)}Q", *dimensions)
    bodies = {SHAPES: shapes, NAMES: "".join(names).encode()}
    if structure is not NO_STRUCTURE:
        bodies[STRUCTURE] = b"".join(pack_node(structure, index_of))
    if metadata:
        bodies[METADATA] = pack_metadata(metadata)
    log2 = chunk_size.bit_length() - 1
    if chunk_size != 1 << log2:
        raise ValueError(f"chunk size {chunk_size} is not a power of two")
    preamble = Preamble(*PREAMBLE.unpack(bytes(PREAMBLE.size)))
    preamble = preamble._replace(magic=MAGIC, version_major=1, chunk_size_log2=log2)
    types = sorted({TENSORS, CHUNKS, *bodies})
    directory = [Section(t, CRITICAL, 0, 0, RECORD_SIZES[t], bytes(4), bytes(32)) for t in types]
    d = Draft(preamble, directory, bodies, [], [], [], {})
    name_end = shape_end = 0
    for index, name in enumerate(names):
        t, name_size = tensors[name], len(name.encode())
        tie = owners.get(index, NO_TIE)
        if tie != NO_TIE and t != tensors[names[tie]]:
            raise ValueError(f"{name!r} and {names[tie]!r} are tied, but not the same")
        fields = (name_end, name_size, DTYPE_CODES[t.dtype], shape_end, len(t.shape), 0, bytes(2))
        places = (order[name], tie, len(t.data), 0, 0, 0, bytes(32), blake3(t.data))
        d.records.append(Record(*fields, *places))
        name_end, shape_end = name_end + name_size, shape_end + len(t.shape)
    for name, t in tensors.items():
        if t.data and index_of[name] not in owners:
            add_run(d, index_of[name], t, codec)
    return d


def add_run(d: Draft, index: int, t: Tensor, codec: str) -> None:
    size, first = 1 << d.preamble.chunk_size_log2, len(d.chunks)
    for begin in range(0, len(t.data), size):
        piece, code = t.data[begin : begin + size], RAW
        stored = tz_tiered.encode(piece, t.dtype) if codec == "tiered" else None
        if stored is not None and len(stored) < len(piece):
            if bytes(tz_tiered.decode(stored, t.dtype, len(piece))) != piece:  # TZ1-65
                raise RuntimeError("the codec does not give back what it was given")
            flags = d.preamble.incompatible_flags | known_flags()[TIERED]
            d.preamble = d.preamble._replace(incompatible_flags=flags)
            piece, code = stored, TIERED
        d.stored.append(piece)
        d.chunks.append(Chunk(len(piece), 0, code, bytes(7), bytes(32)))
    d.runs[index] = range(first, len(d.chunks))


def pack_metadata(metadata: Mapping[str, str]) -> bytes:
    parts = []
    for key, value in sorted((key.encode(), value.encode()) for key, value in metadata.items()):
        if key.startswith(b"tz."):
            raise ValueError(f"metadata key {key!r} is reserved (TZ1-59)")
        parts += [PAIR.pack(len(key), len(value)), key, value]
    return b"".join(parts)


def pack_large_integer(n: int) -> bytes:
    return n.to_bytes((n if n >= 0 else ~n).bit_length() // 8 + 1, "little", signed=True)


def pack_integer(n: Any, kind: int, large_kind: int) -> tuple[int, int, bytes]:
    """The kind, the field and the bytes of a key or a value."""
    if type(n) is not int:
        raise ValueError(f"{n!r} is no integer, nor anything else that a structure holds")
    if -(1 << 63) <= n < 1 << 63:
        return kind, n & (1 << 64) - 1, b""
    data = pack_large_integer(n)
    return large_kind, len(data), data


def pack_key(key: Any) -> tuple[int, int, bytes]:
    if key is None:
        return NO_KEY, 0, b""
    if isinstance(key, str):
        return STRING_KEY, len(key.encode()), key.encode()
    return pack_integer(key, INTEGER_KEY, LARGE_INTEGER_KEY)


def pack_node(value: Any, index_of: Mapping[str, int], key: Any = None) -> Iterator[bytes]:
    """The nodes of `value` in preorder."""
    key_kind, key_field, key_bytes = pack_key(key)
    value_bytes = b""
    children: Iterable[tuple[Any, Any]] = ()
    if value is None or isinstance(value, bool):
        kind, field = NONE if value is None else BOOLEAN, int(value or 0)
    elif isinstance(value, TensorRef):
        kind, field = TENSOR, index_of[value.name]
    elif isinstance(value, float):
        kind, field = FLOAT, struct.unpack("<Q", struct.pack("<d", value))[0]
    elif isinstance(value, (str, bytes)):
        kind = STRING if isinstance(value, str) else BYTES
        value_bytes = value.encode() if isinstance(value, str) else value
        field = len(value_bytes)
    elif isinstance(value, (dict, list, tuple)):
        kind, field = {dict: DICT, list: LIST, tuple: TUPLE}[type(value)], len(value)
        children = value.items() if isinstance(value, dict) else ((None, v) for v in value)
    else:
        kind, field, value_bytes = pack_integer(value, INTEGER, LARGE_INTEGER)
    yield NODE.pack(kind, key_kind, bytes(6), key_field, field) + key_bytes + value_bytes
    for child_key, child in children:
        yield from pack_node(child, index_of, child_key)
