"""The kit for broken files: find a field by name, change it, seal the file again.

    data = broken(encode({...}), {"tensor[0].dtype": 0x37})       # one wrong field, good seals
    data = broken(data, {"chunk[0].crc": 0}, keep={"chunks"})     # a wrong seal

Everything here takes any bytes, believes what they say as long as it lies inside them, and leaves
the rest alone: no function raises because of the bytes that it is given.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import tz_kit_tiered
import tz_reference as tz
from tz_hash import blake3, crc32c


class Layout:
    """A structure of the format as (name, offset, size) of its fields."""

    def __init__(self, packing: struct.Struct, names: Sequence[str]) -> None:
        self.size = packing.size
        self.fields: list[tuple[str, int, int]] = []
        offset = 0
        for token, name in zip(re.findall(r"\d*[a-zA-Z]", packing.format), names, strict=True):
            size = struct.calcsize("<" + token)
            self.fields.append((name, offset, size))
            offset += size


PREAMBLE = Layout(tz.PREAMBLE, tz.Preamble._fields)
SECTION = Layout(tz.SECTION, tz.Section._fields)
RECORD = Layout(tz.RECORD, tz.Record._fields)
DIMENSION = Layout(struct.Struct("<Q"), ["units"])
CHUNK = Layout(tz.CHUNK, tz.Chunk._fields)
NODE = Layout(tz.NODE, tz.Node._fields)
PAIR = Layout(tz.PAIR, ["key_size", "value_size"])


class Part(NamedTuple):
    """A structure, or plain bytes when there is no layout, in the file."""

    path: str
    begin: int
    end: int
    layout: Layout | None = None


class Field(NamedTuple):
    path: str
    begin: int
    end: int


# Finding things -----------------------------------------------------------------------------------


def directory(data: bytes) -> list[tz.Section]:
    """The entries that the preamble counts, as many as there are."""
    if len(data) < PREAMBLE.size:
        return []
    count = tz.Preamble(*tz.PREAMBLE.unpack_from(data)).section_count
    count = min(count, (len(data) - PREAMBLE.size) // SECTION.size)
    end = PREAMBLE.size + count * SECTION.size
    return [tz.Section(*fields) for fields in tz.SECTION.iter_unpack(data[PREAMBLE.size : end])]


def _records_at(data: bytes, section_type: int, layout: Layout) -> list[int]:
    """Where the records of the first section of a type begin, those that lie in the file."""
    for s in directory(data):
        if s.type == section_type:
            end = min(s.offset + s.size, len(data))
            step = max(s.record_size, layout.size)
            return list(range(s.offset, end - layout.size + 1, step))
    return []


def records(data: bytes) -> list[tuple[int, tz.Record]]:
    places = _records_at(data, tz.TENSORS, RECORD)
    return [(at, tz.Record(*tz.RECORD.unpack_from(data, at))) for at in places]


def runs(data: bytes) -> Iterator[tuple[int, tz.Record, list[tuple[int, int, int]]]]:
    """Each record with its place, and its chunks as (place of the entry, data begin, data end)."""
    places = _records_at(data, tz.CHUNKS, CHUNK)
    chunk_size = 1 << min(data[60], 63) if len(data) > 60 else 1
    for at, r in records(data):
        count = 0 if r.tie != tz.NO_TIE else -(-r.decoded_size // chunk_size)
        chunks, end = [], r.data_offset
        for entry in places[r.chunk_begin : r.chunk_begin + count]:
            begin = tz.align(end, 64)
            end = begin + int.from_bytes(data[entry : entry + 4], "little")
            chunks.append((entry, begin, end))
        yield at, r, chunks


def parts(data: bytes) -> Iterator[Part]:
    """Every structure and piece of plain bytes that the file tells of, tables first."""
    if len(data) >= PREAMBLE.size:
        yield Part("preamble", 0, PREAMBLE.size, PREAMBLE)
    for i in range(len(directory(data))):
        at = PREAMBLE.size + i * SECTION.size
        yield Part(f"directory[{i}]", at, at + SECTION.size, SECTION)
    tables = (("tensor", tz.TENSORS, RECORD), ("dimension", tz.SHAPES, DIMENSION))
    for name, section_type, layout in (*tables, ("chunk", tz.CHUNKS, CHUNK)):
        for i, at in enumerate(_records_at(data, section_type, layout)):
            yield Part(f"{name}[{i}]", at, at + layout.size, layout)
    for s in directory(data):
        end = min(s.offset + s.size, len(data))
        if s.type == tz.STRUCTURE:
            yield from _nodes(data, s.offset, end)
        elif s.type == tz.METADATA:
            yield from _pairs(data, s.offset, end)
        elif s.type not in tz.RECORD_SIZES:
            yield Part(f"section {s.type:#x}", s.offset, end)
    names_at = next((s.offset for s in directory(data) if s.type == tz.NAMES), len(data))
    for i, (_, r) in enumerate(records(data)):
        begin = names_at + r.name_offset
        yield Part(f"name of tensor[{i}]", begin, begin + r.name_size)
    entries = {at: i for i, at in enumerate(_records_at(data, tz.CHUNKS, CHUNK))}
    chunk_size = 1 << min(data[60], 63) if len(data) > 60 else 1
    for i, (_, r, chunks) in enumerate(runs(data)):
        for number, (entry, begin, end) in enumerate(chunks):
            if data[entry + 8] == tz.TIERED:
                decoded_size = min(r.decoded_size - number * chunk_size, chunk_size)
                yield from _tiered(data[begin:end], begin, entries[entry], r.dtype, decoded_size)
            yield Part(f"data of tensor[{i}], chunk[{entries[entry]}]", begin, end)


def _tiered(stored: bytes, at: int, number: int, dtype: int, decoded_size: int) -> Iterator[Part]:
    """What chunk `number`, of codec 1, consists of, up to where that makes no sense."""
    for piece in tz_kit_tiered.pieces(stored, tz.dtype_name(dtype), decoded_size):
        layout = None if piece.packing is None else Layout(piece.packing, piece.names)
        path = f"tiered[{number}].{piece.path}".rstrip(".")
        yield Part(path, at + piece.begin, at + piece.end, layout)


def _nodes(data: bytes, at: int, end: int) -> Iterator[Part]:
    i = 0
    while at + NODE.size <= end:
        node = tz.Node(*tz.NODE.unpack_from(data, at))
        yield Part(f"node[{i}]", at, at + NODE.size, NODE)
        at += NODE.size
        sizes = [("key", node.key if node.key_kind in tz.KEY_KINDS_WITH_BYTES else 0)]
        sizes.append(("value", node.value if node.kind in tz.KINDS_WITH_BYTES else 0))
        for name, size in sizes:
            if size > 0:
                yield Part(f"{name} of node[{i}]", at, min(at + size, end))
            at += size
        i += 1


def _pairs(data: bytes, at: int, end: int) -> Iterator[Part]:
    i = 0
    while at + PAIR.size <= end:
        key_size, value_size = tz.PAIR.unpack_from(data, at)
        yield Part(f"pair[{i}]", at, at + PAIR.size, PAIR)
        at += PAIR.size
        for name, size in (("key", key_size), ("value", value_size)):
            if size > 0:
                yield Part(f"{name} of pair[{i}]", at, min(at + size, end))
            at += size
        i += 1


def fields(data: bytes) -> dict[str, Field]:
    """Every field by its path: `preamble.file_size`, `tensor[0].dtype`, `name of tensor[0]`."""
    found: dict[str, Field] = {}
    for part in parts(data):
        if part.layout is None:
            found.setdefault(part.path, Field(part.path, part.begin, part.end))
            continue
        for name, offset, size in part.layout.fields:
            path, begin = f"{part.path}.{name}", part.begin + offset
            found.setdefault(path, Field(path, begin, begin + size))
    return found


# Changing things ----------------------------------------------------------------------------------


def splice(data: bytes, begin: int, end: int, new: bytes) -> bytes:
    return data[:begin] + new + data[end:]


def get(data: bytes, path: str) -> int:
    field = fields(data)[path]
    return int.from_bytes(data[field.begin : field.end], "little")


def patch(data: bytes, path: str, value: int | bytes) -> bytes:
    """`data` with another value in a field; bytes must be as many as the field has."""
    field = fields(data)[path]
    size = field.end - field.begin
    new = value if isinstance(value, bytes) else value.to_bytes(size, "little", signed=value < 0)
    if len(new) != size:
        raise ValueError(f"{path} has {size} bytes, not {len(new)}")
    return splice(data, field.begin, field.end, new)


LEVELS = ("chunks", "contents", "runs", "sections", "directory", "preamble")


def reseal(data: bytes, keep: Collection[str] = ()) -> bytes:
    """`data` with every checksum right, from the data up, but those of the levels in `keep`.

    Contents are sealed for tensors whose chunks are all raw.
    """
    out = bytearray(data)
    if "chunks" not in keep:
        for _, _, chunks in runs(data):
            for entry, begin, end in chunks:
                stored = data[begin:end]
                out[entry + 4 : entry + 8] = crc32c(stored).to_bytes(4, "little")
                out[entry + 16 : entry + 48] = blake3(stored)
    if "contents" not in keep:
        _seal_contents(data, out)
    if "runs" not in keep:
        size = max((s.record_size for s in directory(data) if s.type == tz.CHUNKS), default=0)
        for at, _, chunks in runs(data):
            run = b"".join(bytes(out[entry : entry + size]) for entry, _, _ in chunks)
            out[at + 56 : at + 88] = blake3(run)
    if "sections" not in keep:
        for i, s in enumerate(directory(data)):
            at = PREAMBLE.size + i * SECTION.size + 32
            if s.type != tz.CHUNKS:
                out[at : at + 32] = blake3(bytes(out[s.offset : s.offset + s.size]))
    directory_end = PREAMBLE.size + len(directory(data)) * SECTION.size
    if "directory" not in keep and len(out) >= PREAMBLE.size:
        out[72:104] = blake3(bytes(out[PREAMBLE.size : directory_end]))
    if "preamble" not in keep and len(out) >= PREAMBLE.size:
        out[124:128] = crc32c(bytes(out[:124])).to_bytes(4, "little")
    return bytes(out)


def _seal_contents(data: bytes, out: bytearray) -> None:
    places = records(data)
    for at, _, chunks in runs(data):
        if chunks and all(data[entry + 8] == tz.RAW for entry, _, _ in chunks):
            content = b"".join(data[begin:end] for _, begin, end in chunks)
            out[at + 88 : at + 120] = blake3(content)
    for at, r in places:
        if r.tie < len(places):
            owner = places[r.tie][0]
            out[at + 88 : at + 120] = out[owner + 88 : owner + 120]


def broken(data: bytes, values: Mapping[str, int | bytes], keep: Collection[str] = ()) -> bytes:
    """`data` with other values in some fields, and sealed again."""
    for path, value in values.items():
        data = patch(data, path, value)
    return reseal(data, keep)


# Writing a file down as annotated hex -------------------------------------------------------------


def annotate(data: bytes) -> Iterator[tuple[int, int, str]]:
    """All of `data` in order, as (begin, end, what it is)."""
    end = 0
    for field in sorted(fields(data).values(), key=lambda field: (field.begin, field.end)):
        if field.begin >= field.end or field.begin < end or field.end > len(data):
            continue  # empty, or a field that lies about where it is
        if field.begin > end:
            yield end, field.begin, _unclaimed(data[end : field.begin])
        yield field.begin, field.end, _describe(field, data[field.begin : field.end])
        end = field.end
    if end < len(data):
        yield end, len(data), _unclaimed(data[end:])


def _unclaimed(data: bytes) -> str:
    return "no field's bytes" if any(data) else "padding"


def _describe(field: Field, data: bytes) -> str:
    if field.path.startswith(("name", "key of", "value of")):
        text = ascii(data.decode("utf-8", "replace"))
        return f"{field.path} {text}" if len(text) <= 40 else field.path
    name = field.path.rpartition(".")[2]
    if len(data) > 8 or name == "magic" or name.startswith("reserved"):
        return field.path
    value = int.from_bytes(data, "little")
    if "data of" in field.path:
        return field.path
    as_hex = name in ("crc", "preamble_crc", "type", "tie", "dtype") or value >= 1 << 48
    return f"{field.path} = {value:#x}" if as_hex and value > 9 else f"{field.path} = {value}"
