"""Runs every conformance vector with every implementation."""

from __future__ import annotations

import sys
from pathlib import Path

import make_vectors
import pytest
import tz_vectors
from tests.implementations import IMPLEMENTATIONS, Command, Implementation

PATHS = sorted(tz_vectors.VECTORS.glob("v1/*/*.hex"))
REFERENCE_DIR = tz_vectors.VECTORS.parent / "reference"


def check(path: Path, *implementations: Implementation) -> None:
    vector = tz_vectors.load(path)
    for one in implementations:
        description = one.describe(vector.data, pin=vector.pin, operation=vector.operation)
        problems = tz_vectors.mismatches(vector, description, one.codecs)
        assert not problems, f"{one.name}: {vector.comment}\n" + "\n".join(problems)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_vector(path: Path) -> None:
    check(path, *IMPLEMENTATIONS)


def test_a_wrong_answer_fails() -> None:
    """A reader that accepts everything, or fails for the wrong reason, is detected."""
    for vector in tz_vectors.load_all():
        if vector.expect == "ok":
            continue
        right = {"result": "error", "class": vector.expect, "released": vector.released}
        assert not tz_vectors.mismatches(vector, right)
        assert tz_vectors.mismatches(vector, {"result": "ok"})
        assert tz_vectors.mismatches(vector, {**right, "class": "other"})
        assert tz_vectors.mismatches(vector, {**right, "rule": "TZ1-0"})
        if vector.released is not None:
            assert tz_vectors.mismatches(vector, {**right, "released": "00" * 32})


# A number that takes seconds with a new Python interpreter for each file.
SAMPLE = PATHS[::25]


@pytest.mark.slow
@pytest.mark.parametrize("path", SAMPLE, ids=lambda path: path.stem)
def test_vector_through_a_command(path: Path) -> None:
    """The protocol for other implementations, with the reference reader as one."""
    argv = [sys.executable, str(REFERENCE_DIR / "tz_describe.py")]
    check(path, Command("reference, as a command", argv, IMPLEMENTATIONS[0].codecs))


@pytest.mark.slow
def test_vectors_are_up_to_date() -> None:
    expected = make_vectors.texts()
    assert set((tz_vectors.VECTORS / "v1").glob("*/*")) == set(expected)
    stale = [p.name for p, text in expected.items() if p.read_text(encoding="utf-8") != text]
    assert not stale, "run spec/reference/make_vectors.py"


@pytest.mark.slow
def test_vector_text_round_trips() -> None:
    for vector in tz_vectors.load_all():
        assert tz_vectors.parse(vector.name, tz_vectors.render(vector)) == vector
        assert not vector.unknown_keys


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("", b""),
        ("# nothing", b""),
        ("00", b"\0"),
        ("00 ff  # two", b"\0\xff"),
        ("01 02 * 3", b"\1\2\1\2\1\2"),
        ("01 30 39 ++ 3", b"\x0109\x0110\x0111"),
    ],
)
def test_body_grammar(text: str, data: bytes) -> None:
    head = "expect: ok\nrule: TZ1-1\ncomment: none\n\n"
    assert tz_vectors.parse("x", head + text + "\n").data == data


@pytest.mark.parametrize("text", ["0", "0 0", "FF", "00  01", "00 * 0", "00 *", "* 3", "0x00"])
def test_body_grammar_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="no hex"):
        tz_vectors.parse("x", f"expect: ok\nrule: TZ1-1\ncomment: none\n\n{text}\n")
