"""Writes vector files: annotated hex text, whose grammar is in `spec/vectors/README.md`.

The kit reads them, and knows nothing of the reference.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import tz_kit
import tz_reference as tz

sys.path.append(str(Path(__file__).resolve().parent.parent / "kit"))

from libtz_vectors import (
    VECTORS,
    Vector,
    counted,
    data_of,
    differences,
    load,
    load_all,
    mismatches,
    parse,
)

__all__ = [
    "VECTORS",
    "Vector",
    "data_of",
    "differences",
    "hex_lines",
    "load",
    "load_all",
    "mismatches",
    "parse",
    "render",
]

_LINE_BYTES = 16
_COUNTED_SIZE_MIN = 1 << 16


def render(vector: Vector) -> str:
    values = {
        "expect": vector.expect,
        "rule": ", ".join(vector.rules),
        "comment": vector.comment,
        "operation": vector.operation if vector.operation != "verify" else None,
        "pin": vector.pin,
        "requires": vector.requires,
        "level": vector.level if vector.level != "load" else None,
        "file-digest": vector.file_digest,
        "content-digest": vector.content_digest,
        "released-sha256": vector.released,
    }
    head = [f"{key}: {value}" for key, value in values.items() if value is not None]
    return "\n".join([*head, "", *_render_body(vector.data)]) + "\n"


def _render_body(data: bytes) -> Iterator[str]:
    pairs = _counted_pairs(data)
    for begin, end, label in tz_kit.annotate(data):
        if pairs.start <= begin < pairs.stop:
            if begin == pairs.start:
                unit = data[begin : begin + pairs.step].hex(" ")
                yield f"{unit} ++ {len(pairs)}  # {begin:#06x} pairs, with keys that count"
            continue
        comment = f"  # {begin:#06x} {label}"
        for line in hex_lines(data[begin:end]):
            yield line.ljust(3 * _LINE_BYTES - 1) + comment if comment else line
            comment = ""


def _counted_pairs(data: bytes) -> range:
    """Where pairs lie that are too many to be read, and differ by a number; in steps of a pair."""
    for section in tz_kit.directory(data):
        if section.type == tz.METADATA and section.size > _COUNTED_SIZE_MIN:
            size = tz.PAIR.size + sum(tz.PAIR.unpack_from(data, section.offset))
            whole = section.size // size * size
            pairs = range(section.offset, section.offset + whole, size)
            if data[pairs.start : pairs.stop] == counted(data[pairs.start :][:size], len(pairs)):
                return pairs
    return range(0)


def hex_lines(data: bytes) -> Iterator[str]:
    """Up to 16 bytes a line; what repeats for long is written once with a count."""
    at = 0
    while at < len(data):
        for period in (1, 2, 4, 8, 16):
            unit = data[at : at + period]
            count = 1
            while data.startswith(unit, at + count * period) and len(unit) == period:
                count += 1
            if count * period >= 2 * _LINE_BYTES or (period == 1 and at + count == len(data) > 4):
                break
        else:
            unit, count = data[at : at + _LINE_BYTES], 1
        yield unit.hex(" ") + (f" * {count}" if count > 1 else "")
        at += len(unit) * count
