"""A small tensor that is asked for alone takes a short way, and gets the same checks."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import libtz
import libtz.torch
from libtz.checkpoint import loader

TENSORS = {
    "matrix": torch.randn(16, 16),
    "odd": torch.arange(7, dtype=torch.int16),
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "empty": torch.empty(0, 3),
    "large": torch.randn(300, 300),
}


@pytest.fixture
def no_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a small tensor was planned")

    monkeypatch.setattr(loader.Loader, "_load", refuse)


def saved(folder: Path, suffix: str) -> Path:
    path = folder / f"model{suffix}"
    if suffix == ".tz":
        options = libtz.WriteOptions(compress="off")
        libtz.torch.save_file(TENSORS, path, options=options)
    else:
        safetensors.torch.save_file(TENSORS, path)
    return path


@pytest.mark.parametrize("local", ["copy", "map"])
@pytest.mark.parametrize("suffix", [".tz", ".safetensors"])
@pytest.mark.parametrize("name", ["matrix", "odd", "scalar"])
def test_small_tensors(tmp_path: Path, suffix: str, local: Any, name: str, no_plans: None) -> None:
    options = libtz.ReadOptions(local=local)
    with libtz.open(saved(tmp_path, suffix), options=options) as file:
        found = file[name]
        assert torch.equal(found, TENSORS[name])
        assert found.untyped_storage().nbytes() == found.nbytes
        assert file.stats.bytes_wanted == found.nbytes
        assert next(iter(file.iter_tensors([name])))[0] == name


@pytest.mark.parametrize("suffix", [".tz", ".safetensors"])
def test_others_are_planned(tmp_path: Path, suffix: str) -> None:
    with libtz.open(saved(tmp_path, suffix)) as file:
        for name in ("empty", "large"):
            assert torch.equal(file[name], TENSORS[name])


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("local", ["copy", "map"])
def test_a_damaged_one_is_refused(tmp_path: Path, local: Any, pinned: bool) -> None:
    path = saved(tmp_path, ".tz")
    digest = None
    with libtz.open(path) as file:
        if pinned:
            digest = file.digest
    if pinned and local == "map":
        return  # the two exclude each other
    data = bytearray(path.read_bytes())
    data[data.index(TENSORS["matrix"].numpy().tobytes())] ^= 1
    path.write_bytes(data)
    options = libtz.ReadOptions(local=local)
    with libtz.open(path, digest=digest, options=options) as file:
        with pytest.raises(libtz.IntegrityError) as caught:
            file["matrix"]
        assert caught.value.tensor == "matrix"


def test_a_tie_and_a_closed_file() -> None:
    target = io.BytesIO()
    shared = torch.randn(4)
    libtz.torch.save_file({"a": shared, "b": shared}, target)
    file = libtz.open(target.getvalue())
    assert torch.equal(file["b"], shared)
    file.close()
    with pytest.raises(libtz.OptionError, match="closed"):
        file["b"]
