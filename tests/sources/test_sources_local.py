"""Files, memory, binary file objects, and the choice of a source for a name."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import libtz.numpy
from libtz.errors import OptionError, SourceError
from libtz.locations import resolve_source
from libtz.options import ReadOptions
from libtz.sources import file as file_module
from libtz.sources.base import Source
from libtz.sources.file import FileSource
from libtz.sources.memory import FileObjectSource, MemorySource

DATA = random.Random(10).randbytes(1_000_003)
OPTIONS = ReadOptions()


class PlainFile:
    """A minimal binary file object: no readinto, and short reads."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, size: int) -> bytes:
        return self._file.read(min(size, 1000))

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.bin"
    path.write_bytes(DATA)
    return path


@pytest.fixture(params=["file", "file, no preadv", "bytes", "memoryview", "BytesIO", "plain"])
def source(
    request: pytest.FixtureRequest, path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Source]:
    if request.param == "file, no preadv":
        monkeypatch.setattr(file_module, "_HAS_PREADV", False)
    named: Any = {
        "bytes": DATA,
        "memoryview": memoryview(bytearray(DATA)),
        "BytesIO": io.BytesIO(DATA),
        "plain": PlainFile(DATA),
    }.get(request.param, path)
    source = resolve_source(named, OPTIONS)
    yield source
    source.close()


def read(source: Source, offset: int, size: int) -> bytes:
    data = bytearray(size)

    def buffers() -> Iterator[memoryview]:
        yield memoryview(bytearray())  # empty buffers are skipped
        for begin in range(0, size, 70_001):
            end = min(begin + 70_001, size)
            yield memoryview(data)[begin:end]
            assert data[begin:end] == DATA[offset + begin : offset + end]

    source.read_into(offset, size, buffers())
    return bytes(data)


def test_every_local_source_reads_alike(source: Source) -> None:
    front = memoryview(bytearray(1000))
    assert source.open(front) == 1000
    assert front == DATA[:1000]
    assert (source.size, source.sequential) == (len(DATA), False)
    assert read(source, 0, len(DATA)) == DATA
    assert read(source, 12_345, 1) == DATA[12_345:12_346]
    assert read(source, len(DATA), 0) == b""
    assert source.stats.bytes == 1000 + len(DATA) + 1
    source.check_unchanged()
    with pytest.raises(ValueError, match="not inside"):
        read(source, len(DATA), 1)
    with pytest.raises(ValueError, match="early"):
        source.read_into(0, 10, [memoryview(bytearray(9))])
    wide: Any = memoryview(bytearray(80)).cast("d")
    source.read_into(0, 80, [wide])
    assert bytes(wide) == DATA[:80]


def test_every_local_source_serves_many_threads(source: Source) -> None:
    source.open(memoryview(bytearray(10)))
    results: dict[int, bytes] = {}

    def work(offset: int) -> None:
        results[offset] = read(source, offset, 100_000)

    threads = [threading.Thread(target=work, args=(n * 100_000,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert b"".join(results[n * 100_000] for n in range(8)) == DATA[:800_000]


def test_every_local_source_can_be_closed(source: Source) -> None:
    source.open(memoryview(bytearray(10)))
    source.close()
    source.close()
    with pytest.raises(SourceError, match="closed"):
        source.read_into(0, 10, [memoryview(bytearray(10))])


def test_every_local_source_reads_one_buffer(source: Source) -> None:
    source.open(memoryview(bytearray(10)))
    for offset, size in [(0, 1), (4097, 5000), (0, 0), (len(DATA) - 3, 3), (0, len(DATA))]:
        buffer = memoryview(bytearray(size))
        before = source.stats.bytes, source.stats.requests
        source.read_unchanged(offset, buffer)
        assert buffer == DATA[offset : offset + size]
        assert (source.stats.bytes, source.stats.requests) == (before[0] + size, before[1] + 1)
    with pytest.raises(ValueError, match="not inside"):
        source.read_unchanged(len(DATA) - 1, memoryview(bytearray(2)))
    source.close()
    with pytest.raises(SourceError, match="closed"):
        source.read_unchanged(0, memoryview(bytearray(1)))


def test_a_small_front_takes_everything() -> None:
    for named in (b"", b"abc", io.BytesIO(b"abc")):
        source = resolve_source(named, OPTIONS)
        front = memoryview(bytearray(10))
        count = source.open(front)
        assert count == source.size
        assert front[:count] == (named if isinstance(named, bytes) else named.getvalue())
        source.close()


# Files.


def test_a_file_that_is_written_to_during_the_load_is_noticed(path: Path) -> None:
    source = FileSource(path)
    source.open(memoryview(bytearray(10)))
    assert source.identity is not None
    os.utime(path, ns=(1, 1))
    with pytest.raises(SourceError, match="changed while"):
        source.check_unchanged()
    source.close()


def test_a_file_that_is_cut_during_the_load_is_an_error(path: Path) -> None:
    source = FileSource(path)
    source.open(memoryview(bytearray(10)))
    with path.open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(SourceError, match="ends at byte 5000 of 1000003"):
        read(source, 0, 10_000)
    source.close()


@pytest.mark.parametrize("size", [100, 2 << 20])
def test_one_buffer_of_a_file_that_changes(tmp_path: Path, size: int) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(bytes(3 << 20))
    source = FileSource(path)
    source.open(memoryview(bytearray(10)))
    buffer = memoryview(bytearray(size))
    os.utime(path, ns=(1, 1))
    with pytest.raises(SourceError, match="changed while"):
        source.read_unchanged(0, buffer)
    os.truncate(path, 50)
    with pytest.raises(SourceError, match="ends at byte 50 of 3145728"):
        source.read_unchanged(0, buffer)
    source.close()


def test_one_buffer_of_a_file_whose_reads_are_short(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, parts, at: whole(fd, [parts[0][:7]], at))
    source = FileSource(path)
    source.open(memoryview(bytearray(10)))
    buffer = memoryview(bytearray(100))
    source.read_unchanged(5, buffer)
    assert buffer == DATA[5:105]
    source.close()


def test_a_file_that_is_replaced_stays_readable(path: Path) -> None:
    source = FileSource(path)
    source.open(memoryview(bytearray(10)))
    path.with_suffix(".new").write_bytes(b"x")
    path.with_suffix(".new").replace(path)
    assert read(source, 0, len(DATA)) == DATA
    source.check_unchanged()
    source.close()


def test_closing_lets_reads_in_progress_keep_their_descriptor(path: Path) -> None:
    source = FileSource(path)
    source.open(memoryview(bytearray(10)))
    descriptor = source.fileno()

    def buffers() -> Iterator[memoryview]:
        yield memoryview(bytearray(10))
        source.close()
        os.fstat(descriptor)  # still open, so the number was not reused
        yield memoryview(bytearray(10))

    with pytest.raises(SourceError, match="closed"):
        source.read_into(0, 20, buffers())
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    with pytest.raises(SourceError, match="closed"):
        source.fileno()


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, message in (("", "a directory"), ("pipe", "not a regular file"), ("none", "No such")):
        source = FileSource(tmp_path / name)
        with pytest.raises(SourceError, match=message):
            source.open(memoryview(bytearray(10)))
        source.close()
    with pytest.raises(SourceError, match="null"):
        FileSource("a\0b").open(memoryview(bytearray(10)))


# Memory and file objects.


def test_a_file_object_that_shrinks_is_an_error() -> None:
    file = io.BytesIO(DATA)
    source = FileObjectSource(file)
    source.open(memoryview(bytearray(10)))
    file.truncate(100)
    with pytest.raises(SourceError, match="was truncated"):
        read(source, 0, 1000)
    with pytest.raises(SourceError, match="1000003 bytes became 100"):
        source.check_unchanged()
    source.close()
    assert not file.closed


def test_a_file_object_that_fails_is_a_source_error(path: Path) -> None:
    with path.open("rb") as file:
        source = FileObjectSource(file)
        source.open(memoryview(bytearray(10)))
        assert source.url == str(path)
    with pytest.raises(SourceError, match="closed file"):
        read(source, 0, 10)
    reader, writer = os.pipe()
    os.close(writer)
    with open(reader, "rb") as pipe, pytest.raises(SourceError, match="cannot be read"):  # noqa: PTH123
        FileObjectSource(pipe).open(memoryview(bytearray(10)))


def test_files_in_text_mode_are_refused(path: Path) -> None:
    with path.open(encoding="utf-8") as file, pytest.raises(OptionError, match="text mode"):
        libtz.open(file)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="text mode"):
        libtz.numpy.save_file({}, io.StringIO())  # type: ignore[arg-type]


def test_memory_must_be_contiguous() -> None:
    with pytest.raises(OptionError, match="contiguous"):
        MemorySource(memoryview(bytearray(10))[::2])


# Names.


def test_names_lead_to_sources(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    (path.parent / "ü #1%").write_bytes(DATA)
    for name in (
        str(path),
        path,
        "model.bin",
        path.as_uri(),
        f"FILE://localhost{path}",
        (path.parent / "ü #1%").as_uri(),
    ):
        source = resolve_source(name, OPTIONS)
        source.open(memoryview(bytearray(10)))
        assert source.size == len(DATA)
        source.close()
    for url in ("http://host/x", "HTTPS://host/x", "s3://bucket/key", "S3://bucket/key"):
        source = resolve_source(url, OPTIONS)
        assert source.url.lower() == url.lower()
        source.close()


@pytest.mark.parametrize(
    "name",
    [
        "gs://bucket/key",
        "ftp://user:s3cret@host/x",
        "file://elsewhere/x",
        "file://",
        "file:///x?y",
        "http://",
        "s3://bucket",
        7,
        None,
        [b"x"],
    ],
)
def test_other_names_are_option_errors(name: object) -> None:
    with pytest.raises(OptionError) as caught:
        resolve_source(name, OPTIONS)
    assert "s3cret" not in str(caught.value)


def test_local_files_do_not_import_network_packages(path: Path) -> None:
    program = (
        "import sys\nfrom libtz.options import ReadOptions\n"
        "from libtz.locations import resolve_source\n"
        f"resolve_source({str(path)!r}, ReadOptions())\n"
        "assert not {'requests', 'urllib3', 'botocore', 'torch'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
