"""`tz convert` onto its source, next to it, and onto other files: notices and results."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

import libtz.torch
from libtz.cli.main import main
from libtz.cli.replacing import replacing_text
from libtz.locations import Location
from libtz.sinks import file as file_sink

TENSORS = {"a": torch.arange(5000.0), "b": torch.arange(7, dtype=torch.int16)}
DAMAGED_OFFSET = 8192


def damaged_write(fd: int, data: memoryview, offset: int) -> int:
    """Flips a bit of the data, as a disk may."""
    changed = bytearray(data)
    if offset <= DAMAGED_OFFSET < offset + len(changed):
        changed[DAMAGED_OFFSET - offset] ^= 1
    return os.pwrite(fd, changed, offset)


def convert(
    capsys: pytest.CaptureFixture[str], source: Path | str, target: Path | str, status: int = 0
) -> str:
    """Runs `tz convert`; returns its notices."""
    assert main(["convert", str(source), str(target), "--compress", "off"]) == status
    return capsys.readouterr().err


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(TENSORS, path, {"key": "value"})
    return path


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    folder.mkdir()
    for number, (name, tensor) in enumerate(TENSORS.items(), 1):
        part = folder / f"model-{number:05}-of-00002.safetensors"
        safetensors.torch.save_file({name: tensor}, part)
    return folder


def assert_complete(path: Path) -> None:
    found = libtz.torch.load_file(path)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize("way", ["same", "other path", "folder link", "URL"])
def test_a_file_onto_itself(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, source: Path, way: str
) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    targets: dict[str, Path | str] = {
        "same": source,
        "other path": tmp_path / "link" / ".." / tmp_path.name / source.name,
        "folder link": tmp_path / "link" / source.name,
        "URL": source.as_uri(),
    }
    target = targets[way]
    old = source.stat().st_ino
    said = convert(capsys, source, target)
    assert "is the source" in said
    assert "replaces it" in said
    assert source.stat().st_ino != old
    assert_complete(source)


def test_links_to_the_source(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, source: Path
) -> None:
    symbolic, hard = tmp_path / "s.safetensors", tmp_path / "h.safetensors"
    symbolic.symlink_to(source)
    hard.hardlink_to(source)
    before = source.stat().st_ino
    said = convert(capsys, source, symbolic)
    assert "is the source" in said
    assert "replaces the link, not the file" in said
    assert not symbolic.is_symlink()
    said = convert(capsys, source, hard)
    assert "is the source" in said
    assert "other hard links keep the old file" in said
    assert source.stat().st_ino == before != hard.stat().st_ino
    for path in (source, symbolic, hard):
        assert_complete(path)


def test_a_shard_of_the_source(capsys: pytest.CaptureFixture[str], shards: Path) -> None:
    part = shards / "model-00001-of-00002.safetensors"
    said = convert(capsys, shards, part)
    assert "is in the folder of the source" in said
    assert "replaces it" in said
    assert_complete(part)


def test_a_new_file_in_the_folder_of_the_source(
    capsys: pytest.CaptureFixture[str], shards: Path
) -> None:
    assert "which will hold both" in convert(capsys, shards, shards / "model.tz")
    assert_complete(shards / "model.tz")


def test_other_files_are_replaced_without_a_word(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, source: Path
) -> None:
    target = tmp_path / "old.safetensors"
    target.write_bytes(b"old")
    target.chmod(0o600)
    assert convert(capsys, source, target).count("\n") == 1  # the times
    assert target.stat().st_mode & 0o777 == 0o600
    assert_complete(target)


@pytest.mark.parametrize("name", ["model.safetensors", "other.tz", "other.tensors"])
def test_when_comparing_fails_everything_is_as_it_was(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    source: Path,
    name: str,
) -> None:
    target = tmp_path / name
    if target != source:
        target.write_bytes(b"old")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(file_sink, "_write", damaged_write)
    said = convert(capsys, source, target, status=1)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert f"the conversion failed, {target} was left as it was" in said
    if name.endswith(".safetensors"):  # the others have checksums
        assert "'a' has different values than in the source" in said


def test_a_source_that_was_opened_stays_readable(tmp_path: Path, source: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    shutil.copy(source, copy)
    with libtz.torch.open(copy) as file:
        assert main(["convert", str(copy), str(copy)]) == 0
        assert torch.equal(file["a"], TENSORS["a"])


@pytest.mark.parametrize(
    ("source", "target", "is_same"),
    [
        ("s3://bucket/a.tz", "s3://bucket/a.tz", True),
        ("s3://bucket/a.tz?versionId=1", "S3://bucket/a.tz", True),
        ("s3://bucket/a.tz", "s3://bucket/b.tz", False),
        ("s3://bucket/a.tz", "s3://other/a.tz", False),
        ("https://bucket/a.tz", "s3://bucket/a.tz", False),
        ("a.tz", "s3://bucket/a.tz", False),
    ],
)
def test_objects_onto_themselves(source: str, target: str, is_same: bool) -> None:
    text = replacing_text(Location.of(source), Location.of(target))
    assert (text is not None) == is_same
    assert text is None or "versioning" in text
