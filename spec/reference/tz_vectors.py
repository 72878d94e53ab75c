"""Read and write vector files: annotated hex text, whose grammar is in `spec/vectors/README.md`."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tz_kit
import tz_reference as tz

VECTORS = Path(__file__).resolve().parent.parent / "vectors"
KEYS = (
    *("expect", "rule", "comment", "operation", "pin", "requires"),
    *("file-digest", "content-digest", "released-sha256"),
)

_LINE = re.compile(
    r"(?P<bytes>[0-9a-f]{2}(?: [0-9a-f]{2})*)(?: (?P<how>\*|\+\+) (?P<count>[1-9][0-9]*))?"
)
_LINE_BYTES = 16


@dataclass
class Vector:
    name: str
    data: bytes
    expect: str  # "ok" or an error class
    rules: list[str]
    comment: str
    operation: str = "verify"
    pin: str | None = None
    requires: str | None = None
    file_digest: str | None = None
    content_digest: str | None = None
    released: str | None = None
    unknown_keys: list[str] = field(default_factory=list)


def parse(name: str, text: str) -> Vector:
    head, separator, body = text.partition("\n\n")
    if not separator:
        raise ValueError(f"{name}: no empty line after the header")
    values: dict[str, str] = {}
    for line in head.splitlines():
        key, colon, value = line.partition(": ")
        if not colon or key in values:
            raise ValueError(f"{name}: bad header line {line!r}")
        values[key] = value
    return Vector(
        name=name,
        data=b"".join(_parse_body(name, body)),
        expect=values["expect"],
        rules=values["rule"].split(", "),
        comment=values["comment"],
        operation=values.get("operation", "verify"),
        pin=values.get("pin"),
        requires=values.get("requires"),
        file_digest=values.get("file-digest"),
        content_digest=values.get("content-digest"),
        released=values.get("released-sha256"),
        unknown_keys=[key for key in values if key not in KEYS],
    )


def _parse_body(name: str, body: str) -> Iterator[bytes]:
    for number, line in enumerate(body.splitlines(), start=1):
        code = line.partition("#")[0].strip()
        if not code:
            continue
        match = _LINE.fullmatch(code)
        if match is None:
            raise ValueError(f"{name}: line {number} of the body is no hex: {line!r}")
        unit, count = bytes.fromhex(match["bytes"]), int(match["count"] or 1)
        yield counted(unit, count) if match["how"] == "++" else unit * count


def counted(unit: bytes, count: int) -> bytes:
    """`unit` that many times, the decimal digits at its end being one more each time."""
    head = unit.rstrip(b"0123456789")
    size = len(unit) - len(head)
    numbers = range(int(unit[len(head) :]), int(unit[len(head) :]) + count)
    return b"".join(head + b"%0*d" % (size, number) for number in numbers)


def render(vector: Vector) -> str:
    values = {
        "expect": vector.expect,
        "rule": ", ".join(vector.rules),
        "comment": vector.comment,
        "operation": vector.operation if vector.operation != "verify" else None,
        "pin": vector.pin,
        "requires": vector.requires,
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
        for line in _hex_lines(data[begin:end]):
            yield line.ljust(3 * _LINE_BYTES - 1) + comment if comment else line
            comment = ""


_COUNTED_SIZE_MIN = 1 << 16


def _counted_pairs(data: bytes) -> range:
    """Where pairs lie that are too many to be read, and differ by a number; in steps of a pair."""
    for section in tz_kit.directory(data):
        if section.type == tz.METADATA and section.size > _COUNTED_SIZE_MIN:
            size = tz.PAIR.size + sum(tz.PAIR.unpack_from(data, section.offset))
            pairs = range(section.offset, section.offset + section.size, size)
            if data[pairs.start : pairs.stop] == counted(data[pairs.start :][:size], len(pairs)):
                return pairs
    return range(0)


def _hex_lines(data: bytes) -> Iterator[str]:
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


def load(path: Path) -> Vector:
    return parse(f"{path.parent.name}/{path.stem}", path.read_text(encoding="utf-8"))


def load_all() -> list[Vector]:
    return [load(path) for path in sorted(VECTORS.glob("v1/*/*.hex"))]


# What a vector expects ----------------------------------------------------------------------------


def expected_description(vector: Vector) -> dict[str, Any]:
    """What an implementation says about a valid vector's file, as far as that is written down."""
    path = VECTORS / "v1" / f"{vector.name}.json"
    if not path.exists():
        return {"result": "ok"}
    description: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return description


def mismatches(
    vector: Vector, description: Mapping[str, Any], codecs: Collection[str] = ("raw", "tiered")
) -> list[str]:
    """In what `description`, by an implementation with these codecs, differs from the vector."""
    if vector.requires is not None and vector.requires not in codecs:
        expected: dict[str, Any] = {"result": "error", "class": "feature"}
    elif vector.expect == "ok":
        expected = expected_description(vector)
        if vector.file_digest is not None:
            expected["file_digest"] = vector.file_digest
            expected["content_digest"] = vector.content_digest
    else:
        expected = {"result": "error", "class": vector.expect}
        expected["rule"] = vector.rules[0]
        if vector.released is not None:
            expected["released"] = vector.released
        if len(vector.rules) > 1:
            expected["codec_rule"] = vector.rules[1]
    return differences(expected, description)


def differences(expected: Mapping[str, Any], description: Mapping[str, Any]) -> list[str]:
    """The keys of `expected` with another value, or none, in `description`, in words.

    An implementation need not tell the rules that a file breaks, nor what it released.
    """
    return [
        f"{key}: expected {value!r}, got {description.get(key)!r}"
        for key, value in expected.items()
        if description.get(key) != value
        and not (key in ("rule", "codec_rule", "released") and description.get(key) is None)
    ]
