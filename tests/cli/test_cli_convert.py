"""`tz convert` from files of torch.save and sharded sets, and its bounded memory."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import tz_kit
import tz_reference

import libtz
import libtz.torch
from libtz.cli.main import main

MIB = 1 << 20


def convert(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    assert main(["convert", *map(str, arguments)]) == 0
    return capsys.readouterr().out.strip()


def refuse(capsys: pytest.CaptureFixture[str], status: int, *arguments: Any) -> str:
    assert main(["convert", *map(str, arguments)]) == status
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found[name], tensor), name


def module() -> torch.nn.Sequential:
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Embedding(50, 16), torch.nn.Linear(16, 50, bias=False))
    net[1].weight = net[0].weight
    net.register_buffer("columns", torch.arange(12.0).view(3, 4).t())  # not contiguous
    net.register_buffer("narrow", torch.randn(7).to(torch.bfloat16))
    return net


# ---- Files of torch.save -------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["pt", "bin", "pth", "ckpt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_state_dicts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, suffix: str, zipped: bool
) -> None:
    state = module().state_dict()
    source = tmp_path / f"model.{suffix}"
    torch.save(state, source, _use_new_zipfile_serialization=zipped)
    digest = convert(capsys, source, tmp_path / "x.tz")
    with libtz.open(tmp_path / "x.tz", digest=digest) as file:
        assert list(file) == list(state)
        assert file.info("1.weight").tied_to == "0.weight"
        assert_equal(file.load(), dict(state))
    assert libtz.torch.load_model(module(), tmp_path / "x.tz") == ([], [])
    assert convert(capsys, source, tmp_path / "x.safetensors").startswith("sha256:")
    assert_equal(safetensors.torch.load_file(tmp_path / "x.safetensors"), dict(state))
    convert(capsys, source, tmp_path / "x.tensors")
    assert_equal(libtz.torch.load_file(tmp_path / "x.tensors"), dict(state))


def test_checkpoints_keep_their_structure(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    net = module()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    net[1](net[0](torch.arange(3))).sum().backward()
    optimizer.step()
    checkpoint = {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    torch.save(checkpoint, tmp_path / "last.ckpt")
    convert(capsys, tmp_path / "last.ckpt", tmp_path / "last.tz")
    loaded = libtz.torch.load(tmp_path / "last.tz")
    assert loaded["epoch"] == 3
    assert_equal(loaded["model"], dict(net.state_dict()))
    ours, theirs = loaded["optimizer"], optimizer.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    for key, state in theirs["state"].items():
        assert_equal(ours["state"][key], state)
    assert "nested object" in refuse(
        capsys, 2, tmp_path / "last.ckpt", tmp_path / "last.safetensors"
    )


@pytest.mark.parametrize("tied", [False, True])
def test_tensors_of_unknown_dtypes_are_copied(
    tied: bool, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Their bytes go from one .tz file to another. Other formats have other dtypes."""
    tensor = tz_reference.Tensor("u8", (2, 3), b"abcdef")
    names = ["a", "b"] if tied else ["a"]
    data = tz_reference.encode(dict.fromkeys(names, tensor), ties=[names])
    changes: dict[str, int | bytes] = {f"tensor[{i}].dtype": 0x01FF for i in range(len(names))}
    changes["dimension[0].units"] = 77
    if tied:
        changes["dimension[2].units"] = 77
    data = tz_kit.broken(data, changes)
    source, target = tmp_path / "old.tz", tmp_path / "new.tz"
    source.write_bytes(data)
    convert(capsys, source, target, "--chunk-size", "1M")
    assert target.read_bytes() == data
    text = refuse(capsys, 2, source, tmp_path / "new.safetensors")
    assert "cannot hold dtype 0x01ff" in text


def test_views_that_overlap_are_stored_apart(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    base = torch.arange(10.0)
    views = {"a": base[:6], "b": base[4:], "c": base[:6]}
    torch.save(views, tmp_path / "x.pt")
    convert(capsys, tmp_path / "x.pt", tmp_path / "x.tz")
    assert_equal(libtz.torch.load_file(tmp_path / "x.tz"), views)


def shards(folder: Path) -> dict[str, torch.Tensor]:
    """Sets of .bin files, as transformers wrote them before safetensors."""
    tensors = {f"layer.{number}": torch.randn(40, 30) for number in range(6)}
    weight_map: dict[str, str] = {}
    for number in range(3):
        name = f"pytorch_model-0000{number + 1}-of-00003.bin"
        part = OrderedDict(list(tensors.items())[number::3])
        torch.save(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": 28_800}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return tensors


def test_shards_of_torch_save_become_one_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    tensors = shards(tmp_path)
    convert(capsys, tmp_path / "pytorch_model.bin.index.json", tmp_path / "x.tz")
    assert_equal(libtz.torch.load_file(tmp_path / "x.tz"), tensors)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda weights: weights.update(more=weights["layer.0"]), "tensor 'more' is missing"),
        (lambda weights: weights.update(more="../x.bin"), "not the name of a .bin file"),
        (lambda weights: weights.update(more="/etc/x.bin"), "not the name of a .bin file"),
        (lambda weights: weights.update(more="x.safetensors"), "not the name of a .bin file"),
        (lambda weights: weights.update(more="x.bin"), "there is no such file"),
    ],
)
def test_indexes_of_torch_save_that_lie(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, change: Any, reason: str
) -> None:
    shards(tmp_path)
    path = tmp_path / "pytorch_model.bin.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))
    assert reason in refuse(capsys, 1, path, tmp_path / "x.tz")
    assert not (tmp_path / "x.tz").exists()


def test_shards_of_torch_save_that_hold_more_than_the_index_says(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A tensor that is in two files is read from the one in the index."""
    tensors = shards(tmp_path)
    last = tmp_path / "pytorch_model-00003-of-00003.bin"
    torch.save(torch.load(last) | {"layer.0": torch.zeros(1), "stale": torch.ones(1)}, last)
    convert(capsys, tmp_path / "pytorch_model.bin.index.json", tmp_path / "x.tz")
    assert_equal(libtz.torch.load_file(tmp_path / "x.tz"), tensors)


def test_a_class_that_is_not_loaded_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    value = {"state_dict": {"w": torch.ones(1)}, "hyper_parameters": argparse.Namespace(lr=0.1)}
    torch.save(value, tmp_path / "l.ckpt")
    message = refuse(capsys, 1, tmp_path / "l.ckpt", tmp_path / "l.tz")
    assert "it needs argparse.Namespace" in message
    assert "save its state dict" in message
    assert "\x1b" not in message
    assert "two options" not in message


def test_small_pickles_do_not_become_large(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    source, target = tmp_path / "x.pt", tmp_path / "x.tz"
    shared: Any = [1]
    for _ in range(9):
        shared = [shared] * 10
    text = ["x" * 50_000] * 30
    for value in (shared, [text]):
        torch.save({"a": value, "t": torch.ones(1)}, source)
        message = refuse(capsys, 2, source, target)
        assert "occur so often" in message or "counting shared containers" in message
    torch.save({"a": torch.ones(1).expand(1 << 40)}, source)
    assert "stores only 4 bytes" in refuse(capsys, 1, source, target)
    torch.save({"a": torch.ones(1).expand(1000)}, source)
    convert(capsys, source, target)
    assert_equal(libtz.torch.load_file(target), {"a": torch.ones(1000)})


def test_compressed_members_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Any zip program makes such files, and a few kilobytes can fill all memory."""
    source = tmp_path / "x.pt"
    torch.save({"a": torch.zeros(1 << 20)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for member in plain.infolist():
            packed.writestr(member.filename, plain.read(member))
    assert source.stat().st_size < 10_000
    assert "compressed or overlap" in refuse(capsys, 1, source, tmp_path / "x.tz")


class Evil:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("touched"),)


def test_pickles_run_no_code(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "x.pt"
    for value in ({"a": torch.ones(1), "b": Evil()}, module()):
        torch.save(value, source)
        assert "cannot load it safely" in refuse(capsys, 1, source, tmp_path / "x.tz")
    for data in (b"", b"PK\x03\x04", b"\x80\x02garbage", bytes(1000)):
        source.write_bytes(data)
        assert "cannot load it safely" in refuse(capsys, 1, source, tmp_path / "x.tz")
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


def test_what_is_no_file_of_tensors(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source, target = tmp_path / "x.pt", tmp_path / "x.tz"
    assert "there is no such file" in refuse(capsys, 1, source, target)
    torch.save({"a": {"b": {1, 2}}}, source)
    assert "$.a.b: cannot save an object of type builtins.set" in refuse(capsys, 2, source, target)
    torch.save({"a": torch.ones(2, 2).to_sparse()}, source)
    assert "'a' is not dense" in refuse(capsys, 2, source, target)
    assert "no digest" in refuse(capsys, 2, source, target, "--digest", "sha256:" + "0" * 64)
    assert "only local files" in refuse(capsys, 2, "https://host/x.bin", target)


# ---- Sets and sizes ------------------------------------------------------------------------------


def test_shards_of_safetensors_become_one_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    tensors = {f"layer.{number}": torch.randn(40, 30) for number in range(6)}
    weight_map: dict[str, str] = {}
    for number in range(2):
        part = dict(list(tensors.items())[number::2])
        name = f"model-{number}.safetensors"
        safetensors.torch.save_file(part, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    for source, target in ((folder, "a.tz"), (index, "b.tz"), (folder, "c.safetensors")):
        digest = convert(capsys, source, tmp_path / target)
        with libtz.open(tmp_path / target, digest=digest) as file:
            assert file.metadata == {"format": "pt"}
            assert_equal(file.load(), tensors)
    assert main(["diff", str(folder), str(tmp_path / "a.tz")]) == 0
    assert main(["diff", str(tmp_path / "a.tz"), str(tmp_path / "c.safetensors")]) == 0


# Of this process's own memory: ru_maxrss begins with what the parent had.
PEAK = """
import re, sys
from pathlib import Path
from libtz.cli.main import main
status = main(sys.argv[1:])
print(status, re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("target", ["x.tz", "x.safetensors"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, target: str) -> None:
    """Converts 640 MiB with 64 MiB of memory for libtz; Python itself takes about 50 MiB."""
    tensors = {f"{n}": torch.zeros(64 * MIB, dtype=torch.uint8) for n in range(10)}
    source = tmp_path / "source.tz"
    libtz.torch.save_file(tensors, source)
    del tensors
    arguments = [str(source), str(tmp_path / target), "--host-memory-max", "64M"]
    done = subprocess.run(
        [sys.executable, "-c", PEAK, "convert", *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    status, peak = map(int, done.stdout.split()[-2:])
    assert status == 0
    assert peak * 1024 < 400 * MIB


def test_a_saved_state_dict_becomes_a_flat_file(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(2), "b.c": torch.zeros(3)}
    libtz.torch.save(tensors, tmp_path / "a.tz")
    assert main(["convert", str(tmp_path / "a.tz"), str(tmp_path / "b.safetensors")]) == 0
    loaded = safetensors.torch.load_file(tmp_path / "b.safetensors")
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
