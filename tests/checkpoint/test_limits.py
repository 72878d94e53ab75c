"""Limits on the memory that a small file can claim, for its tensors and for its header."""

from __future__ import annotations

import io
import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import libtz
import libtz.numpy
import libtz.torch
from libtz import machine, memory
from libtz.cli.main import main
from libtz.errors import OptionError
from libtz.options import ReadOptions

MIB = 1 << 20

LIMITED = ReadOptions(decoded_size_max=5 * MIB)


@pytest.fixture(scope="module")
def zeros(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 MiB in three tensors, all zeros: a few KiB."""
    path = tmp_path_factory.mktemp("zeros") / "zeros.tz"
    tensors = {name: np.zeros(4 * MIB, np.uint8) for name in "abc"}
    libtz.numpy.save_file(tensors, path)
    assert path.stat().st_size < 300_000
    return path


def load(path: Path, options: ReadOptions) -> None:
    with libtz.open(path, options=options) as file:
        file.load()


def load_into_module(path: Path, options: ReadOptions) -> None:
    module = torch.nn.Module()
    for name in "abc":
        module.register_buffer(name, torch.ones(4 * MIB, dtype=torch.uint8))
    try:
        libtz.torch.load_model(module, path, options=options)
    finally:
        assert bool(module.get_buffer("a")[0]), "changed before it was refused"


def load_slices(path: Path, options: ReadOptions) -> None:
    with libtz.open(path, options=options) as file:
        file.load_slices([("a", slice(0, 3 * MIB)), ("b", slice(0, 3 * MIB))])


@pytest.mark.parametrize("use", [load, load_into_module, load_slices])
def test_a_load_is_limited_by_what_it_decodes_to(
    zeros: Path, use: Callable[[Path, ReadOptions], None]
) -> None:
    with pytest.raises(OptionError, match="decoded_size_max"):
        use(zeros, LIMITED)


def test_what_fits_is_loaded(zeros: Path) -> None:
    with libtz.open(zeros, options=LIMITED) as file:
        with pytest.raises(OptionError, match="decoded_size_max"):
            file.load()
        assert list(file.load(["b"])) == ["b"], "the file is open after the refusal"
        assert len(list(file.iter_tensors())) == 3, "each tensor is in memory for itself"
        assert len(file.get_slice("a")[:1000]) == 1000
    small = ReadOptions(decoded_size_max=4 * MIB - 1)
    with libtz.open(zeros, options=small) as file, pytest.raises(OptionError, match="decoded"):
        list(file.iter_tensors())


def test_the_machine_is_the_limit_by_default(zeros: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_size", lambda: 10 * MIB)
    monkeypatch.setattr(memory, "SURELY_THERE", 0)
    with libtz.open(zeros) as file:
        with pytest.raises(MemoryError, match=r"12,582,912 bytes: .* has 10,485,760"):
            file.load()
        assert list(file.load(["b"])) == ["b"]


def test_a_set_is_limited_as_a_whole(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        tensors = {f"w{number}": np.zeros(2 * MIB, np.uint8)}
        libtz.numpy.save_file(tensors, tmp_path / f"{number}.tz")
    names = {f"w{number}": f"{number}.tz" for number in (1, 2, 3)}
    index = tmp_path / "model.tz.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    with libtz.open(index, options=LIMITED) as file:
        with pytest.raises(OptionError, match="6291456 bytes"):
            file.load()
        assert list(file.load(["w1", "w3"])) == ["w1", "w3"]
        assert len(list(file.iter_tensors())) == 3


def test_an_open_file_is_not_pickled(zeros: Path) -> None:
    with libtz.open(zeros) as file, pytest.raises(TypeError, match="open the checkpoint again"):
        pickle.dumps(file)


def test_a_mapping_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "random.tz"
    tensors = {"w": np.random.default_rng(1).integers(0, 255, 4 * MIB, np.uint8)}
    libtz.numpy.save_file(tensors, path)
    options = ReadOptions(decoded_size_max=MIB, local="map")
    with libtz.open(path, options=options) as file:
        assert len(file.load()["w"]) == 4 * MIB


def test_the_command_line_has_the_limits(
    zeros: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["load", str(zeros), "--decoded-size-max", "5M"]) == 2
    assert "5242880" in capsys.readouterr().err
    target = str(tmp_path / "x.safetensors")
    assert main(["convert", str(zeros), target, "--decoded-size-max", "3M"]) == 2
    assert main(["inspect", str(zeros), "--open-size-max", "64"]) == 2
    assert "at least 1048576" in capsys.readouterr().err


def test_headers_are_limited() -> None:
    names = {f"{i:04}" + "n" * 1000: np.zeros(1, np.uint8) for i in range(1500)}
    file = io.BytesIO()
    libtz.numpy.save_file(names, file)
    small = ReadOptions(open_size_max=MIB)
    with pytest.raises(OptionError, match=r"needs \d+ bytes.*open_size_max allows .1048576"):
        libtz.open(file.getvalue(), options=small)
    with libtz.open(file.getvalue()) as opened:
        assert len(opened) == 1500


def test_headers_of_other_formats_are_limited() -> None:
    claimed = (90 * MIB).to_bytes(8, "little") + b"{" + bytes(2 * MIB)
    sparse: Any = memoryview(bytearray(100 * MIB))
    sparse[: len(claimed)] = claimed
    with pytest.raises(OptionError, match="open_size_max"):
        libtz.open(sparse, options=ReadOptions(open_size_max=4 * MIB))


@pytest.mark.parametrize(
    ("lines", "files", "expected"),
    [
        ("0::/job/task\n", {"job/task/memory.max": "5000\n"}, 5000),
        (
            "0::/job/task\n",
            {"job/memory.max": "4000\n", "job/task/memory.max": "max\n"},
            4000,
        ),
        ("0::/\n", {"memory.max": "3000\n"}, 3000),
        # The path is the host's; in the container, only the root exists.
        ("0::/host/path\n", {"memory.max": "3000\n"}, 3000),
        (
            "5:cpu:/a\n4:memory:/a\n0::/\n",
            {"memory/a/memory.limit_in_bytes": "2000", "cpu/a/memory.limit_in_bytes": "1"},
            2000,
        ),
        ("0::/job\n", {"job/memory.max": "max\n"}, None),
        ("0::/job\n", {}, None),
    ],
)
def test_limits_of_control_groups(
    lines: str, files: dict[str, str], expected: int | None, tmp_path: Path
) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text(lines)
    groups = tmp_path / "groups"
    for name, text in files.items():
        (groups / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / name).write_text(text)
    found = machine.memory_size(cgroups=groups, membership=membership)
    nothing = machine.memory_size(cgroups=tmp_path / "none", membership=tmp_path / "none")
    assert found == (nothing if expected is None else expected)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/meminfo")
def test_the_memory_of_this_machine() -> None:
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert 0 < machine.memory_size() <= total * 1.01
