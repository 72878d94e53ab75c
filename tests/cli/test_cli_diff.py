"""`tz diff`: changes between two files, in any formats."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import libtz.torch
from libtz import WriteOptions
from libtz.checkpoint.file import File
from libtz.cli.main import main
from libtz.compat.tensorizer import EncryptionParams, TensorSerializer

OLD = {
    "same": torch.randn(400, 400).to(torch.bfloat16),
    "scalar": torch.tensor(7),
    "empty": torch.empty(0, 3),
    "values": torch.zeros(5),
    "type": torch.zeros(5),
    "shape": torch.zeros(6),
    "gone": torch.zeros(2, 3),
    "f4": torch.arange(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
}
NEW = {
    "new": torch.tensor(1.0),
    **{name: OLD[name] for name in ("f4", "empty", "scalar", "same")},
    "values": torch.tensor([0, 0, 0, 0, -0.0]),
    "type": torch.zeros(5, dtype=torch.int32),
    "shape": torch.zeros(2, 3),
}
FORMS = ["tz", "plain.tz", "safetensors", "shards"]


def write(form: str, tensors: dict[str, torch.Tensor], folder: Path) -> str:
    folder.mkdir()
    path = folder / f"model.{form}"
    if form == "tz":
        libtz.torch.save_file(tensors, path)
    elif form == "plain.tz":
        options = WriteOptions(compress="off", chunk_size=64 * 1024)
        libtz.torch.save_file(tensors, path, options=options)
    elif form == "safetensors":
        safetensors.torch.save_file(tensors, path, metadata={"a": "b"})
    else:
        for number, (name, tensor) in enumerate(tensors.items(), start=1):
            shard = folder / f"model-{number:05}-of-{len(tensors):05}.safetensors"
            safetensors.torch.save_file({name: tensor}, shard)
        return str(folder)
    return str(path)


def diff(capsys: pytest.CaptureFixture[str], status: int, *arguments: str) -> str:
    assert main(["diff", *arguments]) == status
    return capsys.readouterr().out


@pytest.mark.parametrize("new", FORMS)
@pytest.mark.parametrize("old", FORMS)
def test_what_changed(
    old: str, new: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = write(old, OLD, tmp_path / "a"), write(new, NEW, tmp_path / "b")
    report: dict[str, Any] = json.loads(diff(capsys, 1, a, b, "--json"))
    assert [tensor["name"] for tensor in report["added"]] == ["new"]
    assert [tensor["name"] for tensor in report["removed"]] == ["gone"]
    assert {change["name"]: change["what"] for change in report["changed"]} == {
        "values": ["content"],
        "type": ["dtype"],
        "shape": ["shape"],
    }
    assert report["equal"] == 4
    (values,) = (change for change in report["changed"] if change["name"] == "values")
    assert values["old"]["content_digest"] != values["new"]["content_digest"]
    lines = diff(capsys, 1, a, b).splitlines()
    assert lines[:2] == ["- gone  f32 2x3", "+ new  f32 scalar"]
    assert sorted(lines[2:-1]) == [
        "! shape  f32 6 -> f32 2x3",
        "! type  f32 5 -> i32 5",
        "! values  f32 5, different values",
    ]
    assert lines[-1] == "1 removed, 1 added, 3 changed, 4 equal"


@pytest.mark.parametrize("new", FORMS)
def test_nothing_changed(new: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write("tz", OLD, tmp_path / "a"), write(new, OLD, tmp_path / "b")
    assert diff(capsys, 0, a, b) == "8 equal\n"


def test_headers_are_enough(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("data were read")

    a, b = write("tz", OLD, tmp_path / "a"), write("plain.tz", NEW, tmp_path / "b")
    monkeypatch.setattr(File, "iter_buffers", refuse)
    assert "3 changed" in diff(capsys, 1, a, b)


def test_ties_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensor = torch.randn(3)
    a = write("tz", {"x": tensor, "y": tensor}, tmp_path / "a")
    b = write("safetensors", {"x": tensor, "y": tensor.clone()}, tmp_path / "b")
    assert diff(capsys, 0, a, b) == "2 equal\n"


def test_wrong_usage_and_files_that_are_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = write("tz", OLD, tmp_path / "a")
    with pytest.raises(SystemExit) as caught:
        main(["diff", a])
    assert caught.value.code == 2
    assert diff(capsys, 2, a, "ftp://host/model.tz") == ""
    assert diff(capsys, 1, a, str(tmp_path / "nothing.tz")) == ""


def test_each_file_has_its_own_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = tmp_path / "plain.tz"
    libtz.torch.save_file({"x": torch.arange(5.0)}, plain)
    places = []
    for side in ("a", "b"):
        key = tmp_path / f"{side}.key"
        key.write_bytes(os.urandom(32))
        places += [str(tmp_path / f"{side}.tensors"), str(key)]
        params = EncryptionParams(key.read_bytes())
        with TensorSerializer(places[-2], encryption=params) as serializer:
            serializer.write_state_dict({"x": torch.arange(5.0)})
    a, a_key, b, b_key = places
    a_flag, b_flag = ("--a-decryption-key-file", a_key), ("--b-decryption-key-file", b_key)
    assert diff(capsys, 0, a, b, *a_flag, *b_flag) == "1 equal\n"
    assert diff(capsys, 0, a, str(plain), *a_flag) == "1 equal\n"
    assert diff(capsys, 0, str(plain), b, *b_flag) == "1 equal\n"
    assert diff(capsys, 1, b, a, *a_flag, *b_flag) == ""


def test_a_passphrase_for_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    levels = EncryptionParams
    flags = []
    for side in ("a", "b"):
        (tmp_path / side).write_text(side + "\n")
        flags += [f"--{side}-decryption-passphrase-file", str(tmp_path / side)]
        params = levels.from_string(side, levels.OpsLimit.MIN, levels.MemLimit.MIN)
        with TensorSerializer(tmp_path / f"{side}.tensors", encryption=params) as serializer:
            serializer.write_state_dict({side: torch.ones(1)})
    a, b = str(tmp_path / "a.tensors"), str(tmp_path / "b.tensors")
    assert diff(capsys, 1, a, b, *flags) == "- a  f32 1\n+ b  f32 1\n1 removed, 1 added, 0 equal\n"
