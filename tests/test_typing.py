"""What type checkers say of a user's script: tensors are tensors, and mistakes are found."""

import dataclasses
import inspect
import os
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import libtz
import libtz.numpy
import libtz.torch

PACKAGE = Path(libtz.__file__).parent.parent

SCRIPT = """\
from typing import Any

import torch
from numpy.typing import NDArray
from typing_extensions import assert_type

import libtz
import libtz.numpy
import libtz.torch


def load(source: libtz.SourceLike, names: libtz.Names = None) -> dict[str, torch.Tensor]:
    with libtz.torch.open(source, options=libtz.ReadOptions(verify=False)) as f:
        assert_type(f, libtz.Checkpoint[torch.Tensor])
        assert_type(f["w"], torch.Tensor)
        assert_type(f.get("w"), torch.Tensor | None)
        assert_type(f.load(names, device="cuda"), dict[str, torch.Tensor])
        for name, tensor in f.iter_tensors(libtz.prefix("a.")):
            assert_type(name, str)
            assert_type(tensor, torch.Tensor)
        part: libtz.TensorSlice[torch.Tensor] = f.get_slice("w")
        assert_type(part[:, 1:2], torch.Tensor)
        assert_type(f.load_slices([("w", 0)]), list[torch.Tensor])
        stats: libtz.TransferStats = f.stats
        assert_type(stats.seconds, float)
        nodes: list[libtz.Node] = f.structure()
        info: libtz.TensorInfo = f.info("w")
        print(info.shape, nodes, f.verified == "pinned", f.format == "tz")
    with libtz.numpy.open(source) as g:
        assert_type(g["w"], NDArray[Any])
    return libtz.torch.load_file(source)


def wrong(source: libtz.SourceLike) -> None:
    with libtz.torch.open(source) as f:
        f["w"].no_such_method()  # type: ignore[attr-defined]
        f.load(names=7)  # type: ignore[arg-type]
        f.format == "zip"  # type: ignore[comparison-overlap]
"""


@pytest.mark.slow
def test_a_script_in_strict_mode(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    (tmp_path / "mypy.ini").write_text("[mypy]\n")
    # Shared with `make check`, which has read torch for this version of Python.
    cache = PACKAGE.parent.parent / ".mypy_cache"
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache)]
    command += ["--python-version", "3.10", script.name]
    result = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": str(PACKAGE)},
        capture_output=True,
        text=True,
    )
    mine = [line for line in result.stdout.splitlines() if line.startswith("script.py")]
    assert not mine, "\n".join(mine)
    assert result.returncode == 0, result.stdout + result.stderr


PUBLIC = [libtz, libtz.numpy, libtz.torch]


def functions() -> list[typing.Any]:
    found = [getattr(module, name) for module in PUBLIC for name in module.__all__]
    plain = [each for each in found if inspect.isfunction(each)]
    classes = [each for each in found if inspect.isclass(each)]
    return plain + [
        member
        for cls in classes
        for name, member in vars(cls).items()
        if inspect.isfunction(member) and (not name.startswith("_") or name == "__init__")
    ]


@pytest.mark.parametrize("function", functions(), ids=lambda f: f.__qualname__)
def test_defaults_of_options_are_none(function: typing.Any) -> None:
    for parameter in inspect.signature(function).parameters.values():
        default = parameter.default
        assert not dataclasses.is_dataclass(default), f"{function}: {parameter}"
