"""Runs the vectors of sets with the reference reader and libtz, and covers every rule."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import make_set_vectors
import pytest
import tz_reference
import tz_set

import libtz
from libtz import sets
from libtz.errors import FormatError, IntegrityError
from libtz.manifest import Manifest

VECTORS = json.loads(make_set_vectors.PATH.read_text(encoding="utf-8"))
TEXT = (make_set_vectors.PATH.parents[2] / "tz-set-v1.md").read_text(encoding="utf-8")
FILES = {name: bytes.fromhex(data) for name, data in VECTORS["files"].items()}

Verdict = tuple[str, str | None]  # the error class and the rule
Parse = Callable[[bytes, str | None], list[str]]


def by_reference(data: bytes, pin: str | None) -> list[str]:
    return list(tz_set.parse(data, pin=pin))


def by_libtz(data: bytes, pin: str | None) -> list[str]:
    return list(Manifest.parse(data, "manifest", pin=pin).files)


PARSERS: list[Parse] = [by_reference, by_libtz]


def verdict(call: Callable[[], object]) -> Verdict:
    try:
        call()
    except tz_set.SetError as error:
        return error.error_class, error.rule
    except (FormatError, IntegrityError) as error:
        return error.code, error.rule
    return "ok", None


@pytest.mark.parametrize("vector", VECTORS["valid"], ids=lambda vector: vector["name"])
def test_valid_manifests(vector: Mapping[str, Any]) -> None:
    data = vector["manifest"].encode("latin-1")
    for parse in PARSERS:
        assert parse(data, vector["digest"]) == vector["names"]
    assert Manifest.parse(data, "manifest").digest == tz_set.digest(data) == vector["digest"]


@pytest.mark.parametrize("vector", VECTORS["invalid"], ids=lambda vector: vector["name"])
def test_invalid_manifests(vector: Mapping[str, Any]) -> None:
    data = vector["manifest"].encode("latin-1")
    for parse in PARSERS:
        found = verdict(partial(parse, data, vector.get("pin")))
        assert found == (vector["expect"], vector["rule"]), parse


@pytest.mark.parametrize("parse", PARSERS)
def test_number_of_files(parse: Parse, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a smaller limit than the specification's, as below."""
    assert tz_set.FILES_MAX == libtz.manifest.FILES_MAX == 65_536
    monkeypatch.setattr("tz_set.FILES_MAX", 9)
    monkeypatch.setattr("libtz.manifest.FILES_MAX", 9)
    for count, expected in ((9, ("ok", None)), (10, ("limit", "TZS1-6"))):
        lines = (f"0 parts: {number}\n" for number in range(count))
        data = f"tz-set 1\n{''.join(lines)}".encode()
        assert verdict(partial(parse, data, None)) == expected


def test_manifests_that_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a smaller limit than the specification's, which takes too long to reach."""
    data = VECTORS["manifest"].encode()
    assert tz_set.MANIFEST_SIZE_MAX == libtz.manifest.MANIFEST_SIZE_MAX == 1 << 28
    for size_max, expected in ((len(data), ("ok", None)), (len(data) - 1, ("limit", "TZS1-1"))):
        monkeypatch.setattr("tz_set.MANIFEST_SIZE_MAX", size_max)
        monkeypatch.setattr("libtz.manifest.MANIFEST_SIZE_MAX", size_max)
        assert verdict(lambda: by_reference(data, None)) == expected
        assert verdict(lambda: by_libtz(data, None)) == expected


@pytest.mark.parametrize("seed", range(3))
def test_both_find_the_same_first_fault(seed: int) -> None:
    chance = random.Random(seed)
    data = VECTORS["manifest"].encode()
    pieces = [b"", b"\n", b" ", b"/", b".", b"0", b"A", b"\xff", b"parts:", b".tz", b"tz-set 1\n"]
    pieces += data.splitlines(keepends=True)
    for _ in range(200):
        begin = chance.randrange(len(data))
        end = begin + chance.choice([0, 0, 1, 1, 2, 64, 200])
        changed = data[:begin] + chance.choice(pieces) + data[end:]
        found = verdict(partial(by_libtz, changed, None))
        assert found == verdict(partial(by_reference, changed, None)), changed


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)


@pytest.mark.parametrize("vector", VECTORS["changed"], ids=lambda vector: vector["name"])
def test_files_that_are_not_those_of_the_manifest(
    vector: Mapping[str, Any], tmp_path: Path
) -> None:
    data = VECTORS["manifest"].encode()
    write(tmp_path, FILES | {"model.tz-set": data})
    sets.verify(tmp_path, digest=VECTORS["digest"])
    tz_set.verify(tz_set.parse(data, pin=VECTORS["digest"]), tmp_path)
    write(tmp_path, {name: bytes.fromhex(data) for name, data in vector["files"].items()})
    expected = (vector["expect"], vector["rule"])
    assert verdict(lambda: tz_set.verify(tz_set.parse(data), tmp_path)) == expected
    assert verdict(lambda: sets.verify(tmp_path, digest=VECTORS["digest"])) == expected


def test_both_write_the_same_manifest(tmp_path: Path) -> None:
    left_out = {".hidden": b"1", "._model.tz": b"2", "old.tz-set": b"3", ".git/config": b"4"}
    larger = {"large.bin": bytes(range(256)) * 9001, "a/b/c": b"5"}
    for name, data in {**FILES, **left_out, **larger}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(data)
    digest = sets.write_manifest(tmp_path)
    data = (tmp_path / "model.tz-set").read_bytes()
    assert data == tz_set.manifest_of(tmp_path)
    assert digest == tz_set.digest(data)
    assert set(tz_set.parse(data)) == {*FILES, *larger}


def test_a_tz_file_that_is_damaged_inside(tmp_path: Path) -> None:
    """The digest in the manifest commits to the header; the header to the data."""
    damaged = FILES["model.tz"][:-1] + bytes([FILES["model.tz"][-1] ^ 1])
    write(tmp_path, {"model.tz": damaged})
    digest = sets.write_manifest(tmp_path)
    with pytest.raises(IntegrityError):
        sets.verify(tmp_path, digest=digest)
    with pytest.raises(tz_reference.TzError):
        tz_set.verify(tz_set.parse((tmp_path / "model.tz-set").read_bytes()), tmp_path)


def rules() -> dict[int, set[str]]:
    found = re.findall(r"^- \[TZS1-(\d+)\] (.*)", TEXT, re.MULTILINE)
    return {int(number): set(re.findall(r"\{(\w+)\}", text)) for number, text in found}


# Covered by tests instead of vectors.
BY_TESTS = {
    (1, "limit"),  # test_manifests_that_are_too_large
    (6, "limit"),  # test_number_of_files
}


def test_every_requirement_is_shown() -> None:
    assert list(rules()) == list(range(1, len(rules()) + 1))
    required = {(number, name) for number, names in rules().items() for name in names}
    vectors = VECTORS["invalid"] + VECTORS["changed"]
    shown = {(int(v["rule"].removeprefix("TZS1-")), v["expect"]) for v in vectors}
    assert shown | BY_TESTS == required


def test_vectors_are_up_to_date() -> None:
    expected = make_set_vectors.text()
    assert make_set_vectors.PATH.read_text(encoding="utf-8") == expected, "run make_set_vectors.py"


def test_the_example_of_the_text() -> None:
    assert f"```\n{VECTORS['manifest']}```" in TEXT
