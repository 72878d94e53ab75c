"""The reader of level *load*: what it must find it finds, with the rule that every reader names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import tz_load
import tz_reference
import tz_vectors

# What opening and loading need not look at: padding, structure, metadata, content digests, codecs.
UNCHECKED = {19, 20, *range(45, 59), 67, *range(78, 85)}

SOURCE = Path(tz_load.__file__)
TEXT = (SOURCE.parents[1] / "tz-v1.md").read_text(encoding="utf-8")

VECTORS = [v for v in tz_vectors.load_all() if v.requires is None]


def verdict(vector: tz_vectors.Vector) -> str:
    try:
        reader = tz_load.Reader(vector.data, vector.pin)
        if vector.operation.startswith("load "):
            reader.load_typed(vector.operation.removeprefix("load "))
        elif vector.operation == "verify":
            owners = [(e.order, name) for name, e in reader.entries.items() if e.tie == 0xFFFFFFFF]
            for _, name in sorted(owners):
                reader.load(name)
    except tz_load.BadFileError as error:
        return f"TZ1-{error.rule}"
    return "ok"


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v.name)
def test_vector(vector: tz_vectors.Vector) -> None:
    found = verdict(vector)
    expected = "ok" if vector.expect == "ok" else vector.rules[0]
    if expected == "TZ1-85" and vector.pin is None:
        assert found in ("ok", "TZ1-85")
    elif expected != "ok" and int(expected[4:]) in UNCHECKED:
        # Or another fault: the second of two, or TZ1-20 for a section that it reads.
        assert found in ("ok", "TZ1-20") or vector.name.startswith("invalid/order-")
    else:
        assert found == expected


def test_tensors_are_those_of_the_reference() -> None:
    for vector in VECTORS:
        if vector.expect == "ok":
            reader, file = tz_load.Reader(vector.data), tz_reference.File(vector.data)
            if vector.operation == "verify":
                assert list(reader.entries) == file.names()
                assert all(reader.load(name) == file.load_bytes(name) for name in file.names())


def test_the_codec_is_refused_when_opening() -> None:
    for vector in tz_vectors.load_all():
        if vector.requires is not None and vector.expect == "ok":
            with pytest.raises(tz_load.BadFileError, match=r"TZ1-5$"):
                tz_load.Reader(vector.data)


def code_lines(source: str) -> int:
    """Lines that are neither empty nor comments nor docstrings."""
    skipped: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped |= set(range(node.lineno, (node.end_lineno or 0) + 1))
    lines = enumerate(source.splitlines(), start=1)
    return sum(bool(line.strip()) and number not in skipped for number, line in lines)


def test_its_number_of_lines_is_the_stated_one() -> None:
    source = SOURCE.read_text(encoding="utf-8")
    stated = re.findall(r"in (\d+) lines of\s", source + TEXT)
    assert stated == [str(code_lines(source))] * 2
