"""Files whose section directory is wrong, or whose sections lie elsewhere: TZ1-11 to TZ1-20."""

from __future__ import annotations

import tz_reference as tz
from tz_hash import blake3
from tz_kit import broken, directory, get, patch, splice

from scenarios.base import (
    EMPTY,
    ONE,
    TWO,
    extra_sections,
    invalid,
    metadata_file,
    node,
    pair,
    structure_file,
    u8,
)

CRITICAL = tz.CRITICAL
TABLES = {"chunks", "contents", "runs"}  # kept where the tables are said to lie elsewhere


def path_of(data: bytes, section_type: int) -> str:
    """The path of the directory entry of a type."""
    return f"directory[{[s.type for s in directory(data)].index(section_type)}]"


def without(section_type: int) -> bytes:
    d = tz.draft({})
    d.directory = [s for s in d.directory if s.type != section_type]
    if section_type == tz.CHUNKS:  # something must be last
        d.directory.append(tz.Section(0xFFFFFFFE, 0, 0, 0, 48, bytes(4), bytes(32)))
        d.bodies[0xFFFFFFFE] = b""
    return d.place().pack()


@invalid("checksum", 11)
def directory_digest() -> bytes:
    """The directory's digest is wrong."""
    return broken(ONE, {"preamble.directory_digest": bytes(32)}, keep={"directory"})


@invalid("checksum", 11)
def directory_bit_flip() -> bytes:
    """A bit of a section's offset is flipped."""
    return patch(ONE, "directory[1].offset", get(ONE, "directory[1].offset") ^ 64)


@invalid("directory", 12)
def section_type_0() -> bytes:
    """The first section has type 0."""
    return broken(ONE, {"directory[0].type": 0})


@invalid("directory", 12)
def section_type_twice() -> bytes:
    """Two sections of type 2."""
    return broken(ONE, {"directory[2].type": tz.SHAPES})


@invalid("directory", 12)
def section_types_descending() -> bytes:
    """Shapes and names stand in the other order, each where the directory says."""
    d = tz.draft({"x": u8(3)})
    d.directory[1], d.directory[2] = d.directory[2], d.directory[1]
    return d.place().pack()


@invalid("reserved", 13)
def section_flag_1() -> bytes:
    """The first reserved flag of a section is set."""
    return broken(ONE, {"directory[0].flags": CRITICAL | 1 << 1})


@invalid("reserved", 13)
def section_flag_31() -> bytes:
    """The last reserved flag of a section is set."""
    return broken(ONE, {"directory[3].flags": CRITICAL | 1 << 31})


@invalid("reserved", 13)
def section_reserved() -> bytes:
    """A reserved byte of a directory entry is not zero."""
    return broken(ONE, {"directory[1].reserved": b"\0\0\0\x01"})


@invalid("reserved", 13)
def section_flag_of_skipped_section() -> bytes:
    """A section that the reader would skip has a reserved flag."""
    return extra_sections((6, 1 << 1, b"later"))


@invalid("feature", 14)
def section_unknown_critical() -> bytes:
    """A section of type 6, which no table lists, is critical."""
    return extra_sections((6, CRITICAL, b"later"))


@invalid("feature", 14)
def section_key_slots_critical() -> bytes:
    """A section of type 16, reserved for key slots, is critical."""
    return extra_sections((16, CRITICAL, b"later"))


@invalid("feature", 14)
def section_last_type_critical() -> bytes:
    """A section of the largest type that this version does not use is critical."""
    return extra_sections((0xFFFFFFFE, CRITICAL, b""))


@invalid("directory", 15)
def section_tensors_not_critical() -> bytes:
    """The tensor table is not marked critical."""
    return broken(ONE, {"directory[0].flags": 0})


@invalid("directory", 15)
def section_chunks_not_critical() -> bytes:
    """The chunk table is not marked critical."""
    return broken(ONE, {"directory[3].flags": 0})


@invalid("directory", 15)
def section_metadata_not_critical() -> bytes:
    """The metadata are not marked critical."""
    data = metadata_file(pair(b"key"))
    return broken(data, {f"{path_of(data, tz.METADATA)}.flags": 0})


@invalid("directory", 16)
def record_size_0() -> bytes:
    """The tensor table's records have no size: a reader that divides by it fails."""
    return broken(ONE, {"directory[0].record_size": 0})


@invalid("directory", 16)
def record_size_small() -> bytes:
    """The chunk table's records are a byte too small."""
    return broken(EMPTY, {"directory[3].record_size": 47})


@invalid("directory", 16)
def record_size_large_in_minor_0() -> bytes:
    """The tensor table's records are larger than those of version 1.0, in a file of version 1.0."""
    d = tz.draft({"x": u8(3)})
    d.directory[0] = d.directory[0]._replace(record_size=128)
    return d.place().pack()


@invalid("directory", 16)
def record_size_small_in_minor_1() -> bytes:
    """A later minor version may add to a record, but not take away."""
    return broken(EMPTY, {"preamble.version_minor": 1, "directory[0].record_size": 119})


@invalid("directory", 16)
def record_size_of_names() -> bytes:
    """The names have no records, in no minor version."""
    return broken(ONE, {"preamble.version_minor": 1, "directory[2].record_size": 1})


@invalid("directory", 70)
def table_size_not_whole() -> bytes:
    """The shapes section is half a record longer than one record."""
    return broken(ONE, {"directory[1].size": 12})


@invalid("directory", 70)
def table_size_below_one_record() -> bytes:
    """The tensor table is a byte short."""
    return broken(ONE, {"directory[0].size": 119})


@invalid("directory", 17)
def section_count_0() -> bytes:
    """No sections."""
    return broken(EMPTY, {"preamble.section_count": 0})


@invalid("directory", 17)
def section_tensors_missing() -> bytes:
    """There is no tensor table."""
    return without(tz.TENSORS)


@invalid("directory", 17)
def section_shapes_missing() -> bytes:
    """There is no shapes section."""
    return without(tz.SHAPES)


@invalid("directory", 17)
def section_names_missing() -> bytes:
    """There is no names section."""
    return without(tz.NAMES)


@invalid("directory", 17)
def section_chunks_missing() -> bytes:
    """There is no chunk table."""
    return without(tz.CHUNKS)


@invalid("directory", 71)
def section_structure_empty() -> bytes:
    """The structure section is empty: no nested object is no section."""
    return structure_file()


@invalid("directory", 71)
def section_metadata_empty() -> bytes:
    """The metadata section is empty: no pairs are no section."""
    return metadata_file()


@invalid("layout", 18)
def section_first_too_late() -> bytes:
    """The first section begins 64 bytes after the directory."""
    return broken(ONE, {"directory[0].offset": get(ONE, "directory[0].offset") + 64})


@invalid("layout", 18)
def section_gap() -> bytes:
    """64 zero bytes too many lie between two sections, and everything agrees with that."""
    data = EMPTY[:384] + bytes(64)
    values: dict[str, int | bytes] = {
        f"directory[{i}].offset": get(EMPTY, f"directory[{i}].offset") + 64 for i in (2, 3)
    }
    sizes = ("open_size", "header_size", "file_size")
    values.update({f"preamble.{size}": 448 for size in sizes})
    return broken(data, values)


@invalid("layout", 18)
def section_overlap() -> bytes:
    """The names begin where the shapes do."""
    return broken(ONE, {"directory[2].offset": get(ONE, "directory[1].offset")})


@invalid("layout", 18)
def section_not_aligned() -> bytes:
    """The shapes follow the tensor table at once, at no multiple of 64."""
    at = get(ONE, "directory[0].offset") + get(ONE, "directory[0].size")
    return broken(ONE, {"directory[1].offset": at})


@invalid("layout", 18)
def section_end_wraps() -> bytes:
    """A skipped section's end, modulo 2^64, is the tensor table's begin, where the chunk table is
    said to lie too."""
    data = extra_sections((6, 0, b"later"))
    skipped, chunks, front = path_of(data, 6), path_of(data, tz.CHUNKS), 128 + 5 * 64
    values: dict[str, int | bytes] = {
        f"{skipped}.size": (1 << 64) - get(data, f"{skipped}.offset") + front,
        f"{chunks}.offset": front,
        "preamble.open_size": front,
        "preamble.header_size": front + 48,
    }
    return broken(data, values)


@invalid("layout", 18)
def section_align_wraps() -> bytes:
    """A section ends so close to 2^64 that rounding its end up gives 0."""
    size = (1 << 64) - 1 - get(ONE, "directory[2].offset")
    return broken(ONE, {"directory[2].size": size, "directory[3].offset": 0}, keep=TABLES)


@invalid("layout", 18)
def section_outside_file() -> bytes:
    """The names lie behind the end of the file."""
    return broken(ONE, {"directory[2].offset": 1 << 40})


@invalid("layout", 18)
def skipped_section_misplaced() -> bytes:
    """A section that the reader skips begins 64 bytes too late."""
    data = extra_sections((6, 0, b"later"))
    path = f"{path_of(data, 6)}.offset"
    return broken(data, {path: get(data, path) + 64})


@invalid("layout", 72)
def chunk_table_before_open_size() -> bytes:
    """open_size is 64 more than the chunk table's offset."""
    data = splice(ONE, 640, 640, bytes(64))
    sizes = {f"preamble.{s}": get(ONE, f"preamble.{s}") + 64 for s in ("open_size", "header_size")}
    return broken(data, {**sizes, "preamble.file_size": len(data)})


@invalid("layout", 72)
def chunk_table_after_header_size() -> bytes:
    """The chunk table goes on behind header_size."""
    return broken(ONE, {"preamble.header_size": get(ONE, "preamble.header_size") - 1})


@invalid("layout", 73)
def tensor_count_small() -> bytes:
    """The tensor table holds a record more than tensor_count says."""
    return broken(TWO, {"preamble.tensor_count": 1})


@invalid("layout", 73)
def tensor_count_large() -> bytes:
    """The tensor table holds a record less than tensor_count says."""
    return broken(TWO, {"preamble.tensor_count": 3})


@invalid("layout", 73)
def chunk_count_small() -> bytes:
    """The chunk table holds a record more than chunk_count says."""
    return broken(TWO, {"preamble.chunk_count": 1})


@invalid("layout", 73)
def chunk_count_large() -> bytes:
    """The chunk table holds a record less than chunk_count says."""
    return broken(TWO, {"preamble.chunk_count": 3})


def padded(data: bytes, section_type: int, *, last: bool) -> bytes:
    """`data` with the first or last byte of the padding before a section set."""
    sections = directory(data)
    i = [s.type for s in sections].index(section_type)
    end = sections[i - 1].offset + sections[i - 1].size
    at = sections[i].offset - 1 if last else end
    return splice(data, at, at + 1, b"\x01")


@invalid("reserved", 19)
def padding_after_tensors() -> bytes:
    """The first byte after the tensor table is not zero."""
    return padded(ONE, tz.SHAPES, last=False)


@invalid("reserved", 19)
def padding_before_names() -> bytes:
    """The last byte before the names is not zero."""
    return padded(ONE, tz.NAMES, last=True)


@invalid("reserved", 19)
def padding_before_chunks() -> bytes:
    """The last byte before the chunk table is not zero."""
    return padded(ONE, tz.CHUNKS, last=True)


@invalid("reserved", 19)
def padding_after_skipped_section() -> bytes:
    """The first byte after a section that the reader skips is not zero."""
    return padded(extra_sections((6, 0, b"later")), tz.CHUNKS, last=False)


def changed(data: bytes, section_type: int) -> bytes:
    """`data` with the last bit of a section flipped, and no digest changed."""
    s = next(s for s in directory(data) if s.type == section_type)
    at = s.offset + s.size - 1
    return splice(data, at, at + 1, bytes([data[at] ^ 1]))


@invalid("checksum", 20)
def tensors_changed() -> bytes:
    """A bit of the tensor table is flipped."""
    return changed(ONE, tz.TENSORS)


@invalid("checksum", 20)
def shapes_changed() -> bytes:
    """A bit of the shapes is flipped."""
    return changed(ONE, tz.SHAPES)


@invalid("checksum", 20)
def names_changed() -> bytes:
    """A bit of the names is flipped."""
    return changed(ONE, tz.NAMES)


@invalid("checksum", 20)
def structure_changed() -> bytes:
    """A bit of the structure is flipped."""
    return changed(structure_file(node(tz.STRING, 1, tail=b"a")), tz.STRUCTURE)


@invalid("checksum", 20)
def metadata_changed() -> bytes:
    """A bit of the metadata is flipped."""
    return changed(metadata_file(pair(b"key", b"a")), tz.METADATA)


@invalid("checksum", 20)
def skipped_section_changed() -> bytes:
    """A bit of a section that the reader skips is flipped."""
    return changed(extra_sections((6, 0, b"later")), 6)


@invalid("checksum", 20)
def empty_section_digest() -> bytes:
    """The digest of an empty section is zeros instead of the BLAKE3 of nothing."""
    return broken(EMPTY, {"directory[2].digest": bytes(32)}, keep={"sections"})


@invalid("reserved", 69)
def chunk_table_digest() -> bytes:
    """The chunk table has a digest, and even the right one."""
    begin, end = get(ONE, "preamble.open_size"), get(ONE, "preamble.header_size")
    return broken(ONE, {"directory[3].digest": blake3(ONE[begin:end])})
