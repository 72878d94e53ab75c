"""Runs the same tests of the interface on every kind of checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import libtz
import libtz.torch
from libtz import OptionError
from libtz.cli.main import main
from libtz.memory import allocate
from libtz.torch.pickled import Pickled

TENSORS = {
    "b": torch.arange(12.0).view(3, 4),
    "a": torch.arange(300, dtype=torch.int16).view(10, 30),
    "half": torch.linspace(0, 1, 64).to(torch.bfloat16),
    "scalar": torch.tensor(7),
    "empty": torch.empty(0, 3),
}
Checkpoint = libtz.Checkpoint[torch.Tensor]


def tz(folder: Path) -> Checkpoint:
    libtz.torch.save_file(TENSORS, folder / "m.tz")
    return libtz.torch.open(folder / "m.tz")


def foreign(folder: Path) -> Checkpoint:
    safetensors.torch.save_file(TENSORS, folder / "m.safetensors")
    return libtz.torch.open(folder / "m.safetensors")


def coreweave(folder: Path) -> Checkpoint:
    libtz.torch.save_file(TENSORS, folder / "m.tz")
    assert main(["convert", str(folder / "m.tz"), str(folder / "m.tensors")]) == 0
    return libtz.torch.open(folder / "m.tensors")


def sharded(folder: Path) -> Checkpoint:
    names = list(TENSORS)
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        path = folder / f"model-{number:05}-of-00002.safetensors"
        safetensors.torch.save_file({name: TENSORS[name] for name in part}, path)
    return libtz.torch.open(folder)


def pickled(folder: Path) -> Checkpoint:
    torch.save(TENSORS, folder / "m.pt")
    return Pickled(str(folder / "m.pt"), libtz.ReadOptions())


@pytest.fixture(params=[tz, foreign, coreweave, sharded, pickled], ids=lambda kind: kind.__name__)
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Checkpoint]:
    make: Callable[[Path], Checkpoint] = request.param
    with make(tmp_path) as made:
        yield made


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)


def test_the_mapping(checkpoint: Checkpoint) -> None:
    assert isinstance(checkpoint, libtz.Checkpoint)
    assert set(checkpoint) == set(TENSORS)
    assert len(checkpoint) == len(TENSORS)
    assert "a" in checkpoint
    assert "none" not in checkpoint
    nothing: Any = 7
    assert nothing not in checkpoint
    assert all(same(checkpoint[name], tensor) for name, tensor in TENSORS.items())
    for use in (checkpoint.__getitem__, checkpoint.info, checkpoint.get_slice):
        with pytest.raises(KeyError):
            use("none")
    assert repr(checkpoint).startswith(f"<libtz.Checkpoint {checkpoint.url}: ")
    assert hash(checkpoint) == hash(checkpoint)
    assert checkpoint != {}


def test_what_it_says_of_itself(checkpoint: Checkpoint) -> None:
    assert checkpoint.url
    assert checkpoint.format in ("tz", "safetensors", "tensors", "pickle")
    assert dict(checkpoint.metadata) == {}
    assert checkpoint.verified in ("pinned", "checksum", "none")
    assert (checkpoint.digest is None) == (checkpoint.format != "tz")
    assert (checkpoint.content_digest is None) == (checkpoint.format != "tz")
    assert checkpoint.structure() == []
    for name, tensor in TENSORS.items():
        info = checkpoint.info(name)
        assert info.name == name
        assert (info.shape, info.nbytes) == (tuple(tensor.shape), tensor.nbytes)
        assert info.tied_to is None


def test_loads(checkpoint: Checkpoint) -> None:
    everything = checkpoint.load()
    assert list(everything) == list(checkpoint)
    assert all(same(everything[name], tensor) for name, tensor in TENSORS.items())
    assert checkpoint.stats.bytes_wanted >= sum(tensor.nbytes for tensor in TENSORS.values())
    assert list(checkpoint.load(["half", "b", "half"])) == ["half", "b"]
    assert set(checkpoint.load(lambda name: len(name) == 1)) == {"a", "b"}
    assert checkpoint.load([]) == {}
    everything["a"].fill_(1)  # memory of its own
    assert same(checkpoint["a"], TENSORS["a"])
    moved = checkpoint.load(["a", "empty"], device="meta")
    assert all(tensor.is_meta for tensor in moved.values())
    with pytest.raises(OptionError, match="not a device"):
        checkpoint.load(device="nonsense")


def test_iterations(checkpoint: Checkpoint) -> None:
    found = dict(checkpoint.iter_tensors())
    assert set(found) == set(TENSORS)
    assert all(same(found[name], tensor) for name, tensor in TENSORS.items())
    for name, data in checkpoint.iter_buffers(["b", "empty"]):
        assert bytes(data) == TENSORS[name].numpy().tobytes()
    for _ in checkpoint.iter_tensors():
        break
    assert same(checkpoint["b"], TENSORS["b"])
    assert all(tensor.is_meta for _, tensor in checkpoint.iter_tensors(device="meta"))


def test_slices(checkpoint: Checkpoint) -> None:
    part = checkpoint.get_slice("a")
    assert part.shape == (10, 30)
    for index in (
        (slice(2, 5), slice(None, None, 7)),
        (3, 4),
        (..., -1),
        (slice(4, 4),),
        slice(1, 9, 3),
    ):
        assert same(part[index], TENSORS["a"][index])
    assert same(checkpoint.get_slice("scalar")[()], TENSORS["scalar"])
    assert same(checkpoint.get_slice("empty")[:], TENSORS["empty"])
    wanted: list[tuple[str, Any]] = [("b", 1), ("a", (2, 3)), ("b", (..., 0)), ("b", 1)]
    parts = checkpoint.load_slices(wanted)
    assert all(same(found, TENSORS[n][i]) for found, (n, i) in zip(parts, wanted, strict=True))
    assert all(found.is_meta for found in checkpoint.load_slices(wanted, device="meta"))
    with pytest.raises(IndexError):
        part[11]


def test_memory_of_the_callers(checkpoint: Checkpoint) -> None:
    buffers = {name: allocate(TENSORS[name].nbytes) for name in ("a", "b", "scalar")}
    checkpoint.load_into(buffers)
    for name, buffer in buffers.items():
        assert bytes(buffer.view()) == TENSORS[name].numpy().tobytes()
    with pytest.raises(OptionError, match="buffer of 600 bytes"):
        checkpoint.load_into({"a": allocate(599)})
    with pytest.raises(KeyError):
        checkpoint.load_into({"none": allocate(1)})


def test_verifying(checkpoint: Checkpoint) -> None:
    if checkpoint.format in ("tz", "tensors"):
        checkpoint.verify()
    else:
        with pytest.raises(OptionError, match="no checksums"):
            checkpoint.verify()


def test_closing(checkpoint: Checkpoint) -> None:
    kept = checkpoint["a"]
    assert not checkpoint.closed
    checkpoint.close()
    checkpoint.close()
    assert checkpoint.closed
    for use in (
        checkpoint.load,
        lambda: list(checkpoint.iter_tensors()),
        lambda: checkpoint["a"],
        lambda: checkpoint.load_into({"scalar": allocate(8)}),
    ):
        with pytest.raises(OptionError, match="closed"):
            use()
    assert same(kept, TENSORS["a"])


def test_arguments_of_wrong_types_are_refused(checkpoint: Checkpoint) -> None:
    wrong: Any = 7
    nothing: Any = object()
    for use in (
        lambda: checkpoint.load(wrong),
        lambda: checkpoint.load_slices(wrong),
        lambda: checkpoint.load_slices(["a"]),  # type: ignore[list-item]
        lambda: checkpoint.load_into({"a": bytearray(24)}),  # type: ignore[dict-item]
        lambda: checkpoint.load_into(wrong),
        lambda: checkpoint.get_slice("a")[{}],
        lambda: checkpoint.load(device=nothing),
    ):
        with pytest.raises((OptionError, IndexError)):
            use()
