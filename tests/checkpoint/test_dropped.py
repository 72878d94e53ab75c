"""Checkpoints that were not closed release their resources when they are collected."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import libtz
import libtz.torch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")


def descriptors() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        libtz.torch.save_file({name: torch.ones(1000)}, tmp_path / f"{name}.tz")
    index = '{"weight_map": {"a": "a.tz", "b": "b.tz"}}'
    (tmp_path / "model.tz.index.json").write_text(index)
    return tmp_path


USES: dict[str, Callable[[Path], Any]] = {
    "nothing": lambda folder: libtz.open(folder / "a.tz"),
    "a lookup": lambda folder: libtz.open(folder / "a.tz")["a"],
    "a mapping": lambda folder: libtz.open(folder / "a.tz", options=libtz.ReadOptions(local="map"))[
        "a"
    ],
    "an iteration given up": lambda folder: next(libtz.open(folder / "a.tz").iter_tensors()),
    "a slice": lambda folder: libtz.open(folder / "a.tz").get_slice("a")[:1],
    "a set": lambda folder: libtz.open(folder).load(),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_dropped_files_are_closed_with_a_warning(folder: Path, use: Callable[[Path], Any]) -> None:
    def drop(count: int) -> int:
        for _ in range(count):
            use(folder)
        return descriptors()

    with pytest.warns(ResourceWarning, match="was not closed"):
        before = drop(1)
    with pytest.warns(ResourceWarning, match="was not closed"):
        assert drop(3) == before


def test_a_file_that_is_in_use_stays_open(folder: Path) -> None:
    parts = [libtz.open(folder / "a.tz").get_slice("a")]
    gc.collect()
    assert parts[0][0] == 1
    with pytest.warns(ResourceWarning):
        parts.clear()


@pytest.mark.filterwarnings("error::ResourceWarning")
def test_closed_files_and_bytes_give_no_warning(folder: Path) -> None:
    with libtz.open(folder / "a.tz") as f:
        f.load()
    del f
    assert libtz.open((folder / "a.tz").read_bytes())["a"].sum() == 1000
    gc.collect()
