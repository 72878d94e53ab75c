"""Files and binary file objects as targets."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from tests.raising import raises

from libtz.errors import OptionError, SourceError, SourceNotFoundError
from libtz.locations import resolve_sink
from libtz.options import WriteOptions
from libtz.sinks import file as file_module
from libtz.sinks.base import Sink
from libtz.sinks.file import FileSink
from libtz.sinks.stream import FileObjectSink

HEADER = 4096


class PlainFile(io.RawIOBase):
    """An unbuffered file that takes a thousand bytes at a time, and cannot grow by seeking."""

    def __init__(self) -> None:
        self.data = bytearray(b"from before")
        self._position = 0

    def write(self, data: Any) -> int:
        assert self._position <= len(self.data)
        data = bytes(data[:1000])
        self.data[self._position : self._position + len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset
        return offset

    def truncate(self, size: int | None = None) -> int:
        del self.data[size:]
        return len(self.data)


def sink_for(target: Any) -> Sink:
    return resolve_sink(target, WriteOptions(), header_size=HEADER, file_size_max=1 << 20)


def write_model(sink: Sink) -> bytes:
    """Writes like a writer: data with gaps, the header last, zeros at the end."""
    buffer = bytearray(b"a" * 5000)
    sink.write_at(8192, memoryview(buffer))
    buffer[:] = b"b" * 5000  # the sink must not have kept it
    sink.write_at(16_384, memoryview(buffer))
    sink.write_at(0, memoryview(b"h" * HEADER))
    sink.commit(30_000)
    expected = bytearray(30_000)
    expected[:HEADER] = b"h" * HEADER
    expected[8192:13_192] = b"a" * 5000
    expected[16_384:21_384] = b"b" * 5000
    return bytes(expected)


@pytest.mark.parametrize("has_pwrite", [True, False])
def test_a_file_appears_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_pwrite: bool
) -> None:
    monkeypatch.setattr(file_module, "_HAS_PWRITE", has_pwrite)
    for number, target in enumerate(
        [tmp_path / "0", str(tmp_path / "1"), (tmp_path / "2").as_uri()]
    ):
        expected = write_model(sink_for(target))
        assert (tmp_path / str(number)).read_bytes() == expected
    assert len(list(tmp_path.iterdir())) == 3


def test_nothing_is_seen_before_the_commit(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"old")
    sink = FileSink(path)
    assert list(tmp_path.iterdir()) == [path]  # making one does no I/O
    sink.write_at(100, memoryview(b"data"))
    assert path.read_bytes() == b"old"
    sink.abort()
    sink.abort()
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match="aborted"):
        sink.write_at(0, memoryview(b"x"))
    with pytest.raises(ValueError, match="aborted"):
        sink.commit(0)
    sink = FileSink(path)
    sink.write_at(0, memoryview(b"new"))
    sink.commit(3)
    sink.abort()
    assert path.read_bytes() == b"new"


def test_the_umask_decides_on_permissions(tmp_path: Path) -> None:
    for mask, mode in ((0o022, 0o644), (0o077, 0o600)):
        (tmp_path / "model").unlink(missing_ok=True)
        before = os.umask(mask)
        try:
            write_model(FileSink(tmp_path / "model"))
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == mode


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"shared")
    (tmp_path / "model").symlink_to(tmp_path / "blob")
    expected = write_model(FileSink(tmp_path / "model"))
    assert (tmp_path / "blob").read_bytes() == b"shared"
    assert (tmp_path / "model").read_bytes() == expected
    assert not (tmp_path / "model").is_symlink()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("function", ["pwrite", "fsync", "ftruncate"])
def test_a_full_disk_is_a_typed_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, code: int
) -> None:
    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, function, fail)
    sink = FileSink(tmp_path / "model")
    with raises(SourceError, errno=code, url=str(tmp_path / "model")) as caught:
        write_model(sink)
    assert ("free some" in str(caught.value)) == (code == errno.ENOSPC)
    assert list(tmp_path.iterdir()) == []
    sink.abort()


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:999], offset))
    expected = write_model(FileSink(tmp_path / "model"))
    assert (tmp_path / "model").read_bytes() == expected


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with raises(SourceNotFoundError, errno=errno.ENOENT):
        write_model(FileSink(tmp_path / "none" / "model"))
    with pytest.raises(OptionError, match="not a regular file"):
        write_model(FileSink(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OptionError, match="not a regular file"):
        write_model(FileSink(tmp_path / "pipe"))
    for name in ("", ".", "/", "a\0b"):
        with pytest.raises(OptionError, match="not the name of a file"):
            FileSink(name)


def test_a_file_object_is_filled_from_its_start(tmp_path: Path) -> None:
    memory = io.BytesIO(b"x" * 100_000)
    memory.seek(50)
    assert write_model(sink_for(memory)) == memory.getvalue()
    plain = PlainFile()
    assert write_model(sink_for(plain)) == plain.data
    with (tmp_path / "model").open("w+b") as file:
        expected = write_model(sink_for(file))
        assert not file.closed
        assert (tmp_path / "model").read_bytes() == expected


def test_an_aborted_file_object_is_empty() -> None:
    memory = io.BytesIO(b"old")
    sink = FileObjectSink(memory)
    sink.abort()
    assert memory.getvalue() == b"old"  # nothing was written yet
    sink = FileObjectSink(memory)
    sink.write_at(10, memoryview(b"data"))
    sink.abort()
    sink.abort()
    assert memory.getvalue() == b""
    expected = write_model(sink := FileObjectSink(memory))
    sink.abort()
    assert memory.getvalue() == expected


def test_a_file_object_that_fails_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "model").touch()
    with (tmp_path / "model").open("rb") as file, pytest.raises(SourceError, match="written"):
        write_model(FileObjectSink(file))
    memory = io.BytesIO()
    memory.close()
    with pytest.raises(SourceError, match="closed"):
        write_model(FileObjectSink(memory))


@pytest.mark.parametrize(
    "target", ["http://u:s3cret@h/x", "gs://b/k", "file://other/x", b"bytes", 7, None, bytearray(9)]
)
def test_other_targets_are_option_errors(target: object) -> None:
    with pytest.raises(OptionError) as caught:
        sink_for(target)
    assert "s3cret" not in str(caught.value)


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o604, 0o400])
def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "model.tz"
    path.write_bytes(b"before")
    path.chmod(mode)
    sink = FileSink(path)
    sink.write_at(0, memoryview(b"after"))
    (temporary,) = tmp_path.glob(".libtz-*")
    assert stat.S_IMODE(temporary.stat().st_mode) == mode
    sink.commit(5)
    assert path.read_bytes() == b"after"
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="gives files to others")
def test_a_file_that_is_replaced_keeps_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "model.tz"
    path.write_bytes(b"before")
    os.chown(path, 1234, 4321)
    path.chmod(0o640)
    sink = FileSink(path)
    sink.write_at(0, memoryview(b"after"))
    sink.commit(5)
    after = path.stat()
    assert (after.st_uid, after.st_gid, stat.S_IMODE(after.st_mode)) == (1234, 4321, 0o640)
