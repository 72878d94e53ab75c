"""The registry of schemes, and a package that adds one."""

import subprocess
import sys
from pathlib import Path

import pytest

import libtz
from libtz.errors import OptionError
from libtz.locations import Location
from libtz.options import ReadOptions, WriteOptions
from libtz.sinks.base import Extent

# A package of another project: libtz reads and writes objects in a dict.
PACKAGE = """
from libtz.errors import SourceError
from libtz.schemes import Scheme
from libtz.sources.memory import MemorySource

OBJECTS: dict[str, bytes] = {}


class MemSource(MemorySource):
    def __init__(self, url):
        if url not in OBJECTS:
            raise SourceError(f"{url}: there is no such object", url=url)
        super().__init__(OBJECTS[url])
        self.url = url


class MemSink:
    def __init__(self, url):
        self.url, self.data = url, bytearray()

    def write_at(self, offset, data):
        end = offset + len(data)
        self.data.extend(bytes(max(0, end - len(self.data))))
        self.data[offset:end] = data

    def commit(self, size):
        self.data.extend(bytes(size - len(self.data)))
        OBJECTS[self.url] = bytes(self.data)

    def abort(self):
        pass


class MemScheme(Scheme):
    is_writable = True

    def source(self, location, options):
        return MemSource(location)

    def sink(self, location, options, extent):
        return MemSink(location)


SCHEME = MemScheme()
"""

USE = """
import json
import numpy as np
import libtz.numpy
from memtz import OBJECTS

one, two = np.arange(5, dtype="<f4"), np.ones((300, 7), "<i8")
digest = libtz.numpy.save_file({"one": one}, "mem://models/one.tz")
libtz.numpy.save_file({"two": two}, "MEM://models/two.tz")
assert sorted(OBJECTS) == ["mem://models/one.tz", "mem://models/two.tz"]

with libtz.open("mem://models/one.tz", digest=digest) as file:
    assert (file["one"] == one).all() and file.verified == "pinned"

weights = {"one": "one.tz", "two": "two.tz"}
index = "mem://models/model.tz.index.json"
OBJECTS[index] = json.dumps({"weight_map": weights}).encode()
loaded = libtz.numpy.load_file(index)
assert (loaded["one"] == one).all() and (loaded["two"] == two).all()

try:
    libtz.open("mem://models/nothing.tz")
except libtz.SourceError as error:
    assert error.url == "mem://models/nothing.tz"
else:
    raise AssertionError
try:
    libtz.open("memory://x")
except libtz.OptionError as error:
    assert str(error).endswith("https://, s3://, mem:// and zbroken://"), error
else:
    raise AssertionError
try:
    libtz.numpy.save_file({"one": one}, "http://host/one.tz")
except libtz.OptionError as error:
    assert str(error).endswith("writes to paths, file://, s3:// and mem://"), error
else:
    raise AssertionError
"""


def install(folder: Path, module: str, entry_points: str) -> None:
    """The files that `pip install` writes for a package with one module."""
    (folder / "memtz.py").write_text(module)
    info = folder / "memtz-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: memtz\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)


def run(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    path = f"import sys; sys.path.insert(0, {str(folder)!r})\n"
    return subprocess.run(
        [sys.executable, "-c", path + script], capture_output=True, text=True, timeout=120
    )


@pytest.mark.slow
def test_a_package_brings_a_scheme(tmp_path: Path) -> None:
    points = "[libtz.schemes]\nmem = memtz:SCHEME\nzbroken = memtz.nothing:SCHEME\n"
    install(tmp_path, PACKAGE, points)
    done = run(tmp_path, USE)
    assert done.returncode == 0, done.stderr


def test_a_package_takes_no_scheme_over(tmp_path: Path) -> None:
    points = "[libtz.schemes]\nfile = memtz:SCHEME\ns3 = memtz:SCHEME\n"
    install(tmp_path, "raise AssertionError('imported')", points)
    done = run(
        tmp_path,
        "from libtz.locations import Location\n"
        "from libtz.schemes import FILE\n"
        "assert Location.of('file:///tmp/x').scheme is FILE\n"
        "Location.of('s3://bucket/key')\n",
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_an_entry_point_that_is_no_scheme_is_named(tmp_path: Path) -> None:
    install(tmp_path, "SCHEME = 5", "[libtz.schemes]\nmem = memtz:SCHEME\n")
    done = run(tmp_path, "import libtz\nlibtz.open('mem://x')")
    assert "OptionError: the entry point mem = memtz:SCHEME must be an instance" in done.stderr


SIBLINGS = [
    ("/models/a.tz", "b.tz", "/models/b.tz"),
    ("a.tz", "b.tz", "b.tz"),
    ("file:///mo%20dels/a.tz", "b.tz", "/mo dels/b.tz"),
    ("HTTPS://host/m/a.tz?token=x#y", "b c.tz", "https://host/m/b%20c.tz?token=x"),
    ("http://host", "b.tz", "http://host/b.tz"),
    ("s3://bucket/m/a#1?.tz", "b.tz", "s3://bucket/m/b.tz"),
    ("s3://bucket/a.tz", "b c.tz", "s3://bucket/b c.tz"),
]


@pytest.mark.parametrize(("location", "name", "expected"), SIBLINGS)
def test_siblings(location: str, name: str, expected: str) -> None:
    found = Location.of(location).sibling(name)
    assert found.text == expected
    assert found.is_local == ("://" not in expected)


FOLDERS = [
    ("/models", "/models/config.json"),
    ("/models/", "/models/config.json"),
    ("https://host/models?token=x", "https://host/models/config.json?token=x"),
    ("https://host/models/?token=x", "https://host/models/config.json?token=x"),
    ("https://host", "https://host/config.json"),
    ("s3://bucket", "s3://bucket/config.json"),
    ("s3://bucket/models", "s3://bucket/models/config.json"),
]


@pytest.mark.parametrize(("folder", "expected"), FOLDERS)
def test_files_of_a_folder(folder: str, expected: str) -> None:
    assert Location.of(folder).folder().sibling("config.json").text == expected


NAMES = [
    ("/models/a.tz", "a.tz"),
    ("https://host/m/a.tz?x=/b#c", "a.tz"),
    ("s3://bucket/m/a#1?.tz", "a#1?.tz"),
    ("https://host", ""),
]


@pytest.mark.parametrize(("location", "name"), NAMES)
def test_names(location: str, name: str) -> None:
    assert Location.of(location).name == name


def test_a_location_shows_no_secret() -> None:
    assert str(Location.of("https://user:secret@host/a.tz?token=secret")) == "https://host/a.tz"
    assert str(Location.of("/models/a?b.tz")) == "/models/a?b.tz"


@pytest.mark.parametrize("url", ["s3://", "s3:///models/", "s3://bu cket/m"])
def test_a_wrong_folder_in_s3_is_shown_as_it_was_given(url: str) -> None:
    with pytest.raises(OptionError, match=rf"^{url} is not|^{url}: '") as caught:
        Location.of(url).files(ReadOptions())
    assert "-" not in str(caught.value).replace(url, "")


def test_what_can_only_be_read_is_not_written() -> None:
    with pytest.raises(OptionError, match=r"http:// is read-only.* file:// and s3://"):
        Location.of("http://host/x").sink(WriteOptions(), Extent(0, 0))


@pytest.mark.parametrize("url", ["gopher://host/x", "http://[/x/y.index.json", "file://other/x"])
def test_urls_that_nothing_opens(url: str) -> None:
    with pytest.raises(OptionError):
        libtz.open(url)
