"""`tz convert` to and from .tensors files."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorizer
import torch

import libtz.torch
from libtz.cli.main import main

TENSORS = {
    "weight": torch.rand(300, 70),
    "half": torch.rand(9).to(torch.bfloat16),
    "scalar": torch.tensor(7),
    "empty": torch.empty(0, 3),
}


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().view(-1).view(torch.uint8)


def test_to_tensors_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tz, tensors, again = (str(tmp_path / name) for name in ("a.tz", "b.tensors", "c.tz"))
    digest = libtz.torch.save_file({**TENSORS, "tied": TENSORS["weight"]}, tz)
    assert main(["convert", tz, tensors]) == 0
    pin = capsys.readouterr().out.strip()
    assert pin.startswith("sha256:")
    theirs = tensorizer.TensorDeserializer(tensors, device="cpu", verify_hash=True)
    for name, tensor in {**TENSORS, "tied": TENSORS["weight"]}.items():
        assert torch.equal(bits(theirs[name]), bits(tensor)), name
    assert main(["convert", tensors, again, "--digest", pin]) == 0
    other = "sha256:" + "0" * 64
    for command in (["convert", tensors, again], ["inspect", tensors], ["load", tensors]):
        assert main([*command, "--digest", other]) == 1
    capsys.readouterr()
    assert main(["verify", tensors, "--digest", pin]) == 0
    libtz.torch.save_file(TENSORS, tz)
    assert main(["convert", tz, tensors]) == 0
    assert main(["convert", tensors, again]) == 0
    assert capsys.readouterr().out.strip().endswith(digest_of(tz))
    assert digest != digest_of(tz)


def digest_of(path: str) -> str:
    with libtz.open(path) as file:
        return str(file.digest)


def test_nested(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tz, tensors, again = (str(tmp_path / name) for name in ("a.tz", "b.tensors", "c.tz"))
    nested = {"layers": [{"w": torch.ones(2)}, {"w": torch.zeros(3)}], "odd/~ key": torch.ones(1)}
    libtz.torch.save(nested, tz)
    assert main(["convert", tz, tensors]) == 0
    tree = tensorizer.TensorDeserializer(tensors, device="cpu", verify_hash=True).tree()
    assert torch.equal(tree["layers"][1]["w"], torch.zeros(3))
    assert main(["convert", tensors, again]) == 0
    assert digest_of(again) == digest_of(tz)


@pytest.mark.parametrize(
    "nested", [{"step": 1, "x": torch.ones(1)}, {7: torch.ones(1)}, {"a": {}, "x": torch.ones(1)}]
)
def test_what_tensors_files_cannot_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], nested: object
) -> None:
    libtz.torch.save(nested, tmp_path / "a.tz")
    assert main(["convert", str(tmp_path / "a.tz"), str(tmp_path / "b.tensors")]) == 2
    assert "a .tensors file can only hold" in capsys.readouterr().err
    assert not (tmp_path / "b.tensors").exists()


def test_metadata_are_left_out_aloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    libtz.torch.save_file(TENSORS, tmp_path / "a.tz", metadata={"made-by": "tests"})
    assert main(["convert", str(tmp_path / "a.tz"), str(tmp_path / "b.tensors")]) == 0
    assert "made-by" in capsys.readouterr().err
