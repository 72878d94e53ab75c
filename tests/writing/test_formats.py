"""Behaviour that the writers of all formats share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import libtz
from libtz.errors import OptionError
from libtz.structure import flatten
from libtz.writing.base import TensorSpec
from libtz.writing.formats import WRITERS, writer_class_of
from libtz.writing.safetensors import SafetensorsWriter
from libtz.writing.tz import Writer

SPECS = [TensorSpec("a", "u8", (4,)), TensorSpec("b", "f32", (2,)), TensorSpec("c", "u8", (3,))]
DATA = {"a": b"abcd", "b": bytes(range(8)), "c": b"xyz"}

every_format = pytest.mark.parametrize("suffix", WRITERS)


def read(path: Path) -> dict[str, bytes]:
    with libtz.open(path) as file:
        return {name: bytes(data) for name, data in file.iter_buffers()}


@every_format
def test_buffers_and_pieces_now_and_later(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    changing = bytearray(DATA["a"])
    with writer_class_of(str(path))(path, SPECS) as writer:
        assert writer.pending == ("a", "b", "c")
        writer.write("a", changing)
        changing[:] = bytes(4)
        writer.write_later("b", iter([DATA["b"][:3], b"", DATA["b"][3:]]))
        writer.write_later("c", DATA["c"])
        assert not writer.pending
        writer.drain()
    assert read(path) == DATA
    assert writer.digest.partition(":")[0] in ("blake3", "sha256")


@every_format
def test_states_are_the_same(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    writer = writer_class_of(str(path))(path, SPECS[:1])
    with pytest.raises(OptionError, match="no digest before the file is complete"):
        _ = writer.digest
    with pytest.raises(OptionError, match="'b' was declared"):
        writer.write("b", DATA["b"])
    writer.write("a", DATA["a"])
    with pytest.raises(OptionError, match="'a' was already written; all tensors have been written"):
        writer.write("a", DATA["a"])
    assert not path.exists()
    writer.close()
    writer.close()
    writer.abort()
    assert read(path) == {"a": DATA["a"]}
    with pytest.raises(OptionError, match="the writer is closed"):
        writer.write("a", DATA["a"])
    with pytest.raises(OptionError, match="create another one"), writer:
        pass


@every_format
def test_a_missing_tensor_leaves_the_old_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(b"old")
    writer = writer_class_of(str(path))(path, SPECS)
    writer.write("a", DATA["a"])
    with pytest.raises(OptionError, match="'b' was declared but not written, and 1 more"):
        writer.close()
    with pytest.raises(OptionError, match="the writer is failed"):
        writer.write("b", DATA["b"])
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@every_format
@pytest.mark.parametrize("data", [b"abc", b"abcde", [b"abc"], [b"abc", b"de"]])
def test_wrong_sizes_are_refused(tmp_path: Path, suffix: str, data: object) -> None:
    writer_class = writer_class_of(f"x.{suffix}")

    def attempt() -> None:
        with writer_class(tmp_path / "x", SPECS) as writer:
            writer.write("a", data)

    with pytest.raises(OptionError, match="tensor 'a' takes 4 bytes"):
        attempt()
    assert not list(tmp_path.iterdir())


def test_ties_are_kept_or_stored_for_each_name() -> None:
    specs = [
        TensorSpec("z", "u8", (1,), "m"),
        TensorSpec("f", "f32", ()),
        TensorSpec("m", "u8", (1,)),
    ]
    assert writer_class_of("x.tz").arranged(specs) == specs
    stored = [TensorSpec("f", "f32", ()), TensorSpec("z", "u8", (1,)), TensorSpec("m", "u8", (1,))]
    for suffix in ("safetensors", "tensors"):
        assert writer_class_of(f"x.{suffix}").arranged(specs) == stored


def test_larger_units_come_first_in_safetensors() -> None:
    names = [spec.name for spec in writer_class_of("x.safetensors").arranged(SPECS)]
    assert names == ["b", "a", "c"]


@pytest.mark.parametrize("suffix", ["safetensors", "tensors"])
def test_nested_objects_that_a_format_cannot_hold(tmp_path: Path, suffix: str) -> None:
    flat = flatten({"step": 1}, lambda value: False)
    with pytest.raises(OptionError, match=rf"a \.{suffix} file can"):
        writer_class_of(f"x.{suffix}")(tmp_path / "x", SPECS[:1], structure=flat.nodes)


def test_metadata_that_a_format_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"a \.tensors file cannot hold metadata: made-by"):
        writer_class_of("x.tensors")(tmp_path / "x", SPECS, metadata={"made-by": "me"})


def test_a_structure_names_declared_tensors(tmp_path: Path) -> None:
    flat = flatten({"other": np.zeros(4)}, lambda value: isinstance(value, np.ndarray))
    with pytest.raises(OptionError, match="'other', which is not declared"):
        libtz.Writer(tmp_path / "x", SPECS, structure=flat.nodes)


# ---- What single formats refuse ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("specs", "reason"),
    [
        ([TensorSpec("a", "u8", (1,)), TensorSpec("a", "u8", (1,))], "declared twice"),
        ([TensorSpec("__metadata__", "u8", (1,))], "reserved"),
        ([TensorSpec("a", "c128", (1,))], "cannot hold dtype c128"),
        ([TensorSpec("a", "f4_e2m1fn_x2", ())], "cannot hold a scalar"),
    ],
)
def test_what_a_safetensors_file_cannot_hold(
    tmp_path: Path, specs: list[TensorSpec], reason: str
) -> None:
    with pytest.raises(OptionError, match=reason):
        SafetensorsWriter(tmp_path / "x.safetensors", specs)
    assert not list(tmp_path.iterdir())


def test_packed_elements_count_one_by_one_in_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with SafetensorsWriter(path, [TensorSpec("a", "f4_e2m1fn_x2", (3, 2))]) as writer:
        writer.write("a", b"abcdef")
    header = path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")]
    assert json.loads(header)["a"] == {"dtype": "F4", "shape": [3, 4], "data_offsets": [0, 6]}


@pytest.mark.parametrize("target", ["x.bin", "s3://bucket/x", ""])
def test_suffixes_that_no_writer_has(target: str) -> None:
    with pytest.raises(OptionError, match="must end with"):
        writer_class_of(target)


def test_there_is_no_content_digest_before_the_end(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "x.tz", [TensorSpec("a", "u8", (1,))])
    with pytest.raises(OptionError, match="before the file is complete"):
        _ = writer.content_digest
    writer.write("a", b"x")
    writer.close()
    assert writer.content_digest.startswith("blake3:")


@pytest.mark.parametrize("suffix", ["tz", "safetensors"])
def test_names_are_text(tmp_path: Path, suffix: str) -> None:
    name: Any = 3
    path = tmp_path / f"x.{suffix}"
    with pytest.raises(OptionError):
        writer_class_of(str(path))(path, [TensorSpec(name, "u8", (1,))])


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (torch.ones(2, 3).t(), "contiguous"),
        (torch.ones(6, dtype=torch.complex64).conj(), "contiguous"),
        (torch.ones(6, device="meta"), "on meta"),
        (torch.eye(3).to_sparse(), "the tensor"),
    ],
    ids=["transposed", "conjugated", "without memory", "sparse"],
)
def test_tensors_that_have_no_plain_bytes(
    tmp_path: Path, tensor: torch.Tensor, reason: str
) -> None:
    size = tensor.numel() * tensor.element_size()
    with (
        pytest.raises(OptionError, match=reason),
        Writer(tmp_path / "x.tz", [TensorSpec("a", "u8", (size,))]) as writer,
    ):
        writer.write("a", tensor)
    assert not list(tmp_path.iterdir())


def test_a_tensor_without_elements(tmp_path: Path) -> None:
    path = tmp_path / "x.tz"
    with Writer(path, [TensorSpec("a", "f32", (0, 3))]) as writer:
        writer.write("a", torch.ones(0, 3))
    assert read(path) == {"a": b""}
