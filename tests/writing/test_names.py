"""Every writer, compat included, refuses the names that readers refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import libtz
import libtz.torch
from libtz.compat.safetensors import SafetensorError
from libtz.compat.safetensors import torch as compat_safetensors
from libtz.errors import OptionError
from libtz.writing.base import TensorSpec
from libtz.writing.coreweave import CoreweaveWriter, TensorRecord
from libtz.writing.safetensors import SafetensorsWriter
from libtz.writing.tz import Writer

REFUSED = ["a\tb", "a\nb", "\0", "\x1b[2J", "\x7f", "\x85", "\x9f", "\ud800", "x" * 65_536]


def to_tz(path: Path, name: str) -> Any:
    Writer(path, [TensorSpec(name, "u8", (1,))])


def to_safetensors(path: Path, name: str) -> Any:
    SafetensorsWriter(path, [TensorSpec(name, "u8", (1,))])


def to_tensors(path: Path, name: str) -> Any:
    CoreweaveWriter(path, [TensorRecord((name,), "u8", (1,))])


def as_safetensors(path: Path, name: str) -> Any:
    compat_safetensors.save_file({name: torch.ones(1)}, path)


@pytest.mark.parametrize("name", REFUSED, ids=lambda name: ascii(name[:8]))
@pytest.mark.parametrize("write", [to_tz, to_safetensors, to_tensors, as_safetensors])
def test_names_that_readers_refuse(tmp_path: Path, write: Any, name: str) -> None:
    with pytest.raises(Exception, match=r"name|Unicode") as caught:
        write(tmp_path / "x", name)
    assert isinstance(caught.value, (OptionError, SafetensorError))
    assert str(caught.value).isprintable()
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["", " ", "a b", "\xa0", "ß/€", "x" * 65_535])
@pytest.mark.parametrize("suffix", ["tz", "safetensors"])
def test_names_that_are_odd_but_good(tmp_path: Path, suffix: str, name: str) -> None:
    path = tmp_path / f"x.{suffix}"
    if suffix == "tz":
        libtz.torch.save_file({name: torch.ones(1)}, path)
    else:
        compat_safetensors.save_file({name: torch.ones(1)}, path)
    assert list(libtz.torch.load_file(path)) == [name]
