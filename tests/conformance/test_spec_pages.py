"""Pages of the specification that say what can be checked: the example, the line for libmagic."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import make_example
import pytest
import tz_vectors

SPEC = tz_vectors.VECTORS.parent


def test_the_example_is_up_to_date() -> None:
    text = make_example.PATH.read_text(encoding="utf-8")
    assert text == make_example.page(), "run spec/reference/make_example.py"


def test_the_example_has_every_byte() -> None:
    vector = tz_vectors.load(tz_vectors.VECTORS / "v1" / f"{make_example.NAME}.hex")
    lines: list[str] = []
    for block in make_example.page().split("```")[3::2]:
        lines += [line[6:53].strip() for line in block.strip("\n").splitlines()]
    head = "expect: ok\nrule: TZ1-1\ncomment: none\n\n"
    assert tz_vectors.parse("page", head + "\n".join(lines) + "\n").data == vector.data


def test_libmagic_knows_the_format(tmp_path: Path) -> None:
    if shutil.which("file") is None:
        pytest.skip("file is not installed")
    vector = tz_vectors.load(tz_vectors.VECTORS / "v1" / f"{make_example.NAME}.hex")
    path = tmp_path / "model"
    path.write_bytes(vector.data)
    magic = SPEC / "registration" / "tz.magic"

    def ask(*options: str) -> str:
        call = ["file", "--brief", *options, "--magic-file", str(magic), str(path)]
        return subprocess.run(call, check=True, capture_output=True, text=True).stdout.strip()

    assert ask() == "tz model weights, version 1.0, 3 tensors"
    assert ask("--mime-type") == "application/vnd.libtz"
    path.write_bytes(vector.data.replace(b"\r\n", b"\n"))
    assert "tz" not in ask()
