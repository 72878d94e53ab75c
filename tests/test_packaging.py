"""The wheel and the sdist: their contents, and their use in a new environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.tags import sys_tags
from packaging.utils import parse_wheel_filename
from packaging.version import Version
from tests.files import sample

import build_native
import check_wheels
from libtz._native import lib

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # with empty caches, Zig compiles libtz and a whole C library
]

ROOT = Path(__file__).resolve().parent.parent

FOREIGN = "aarch64-linux-musl"

MAKE_USE_OF_IT = """
import libtz
from libtz._native import clib, ffi
print(libtz.__file__)
print(libtz.__version__)
print(ffi.string(clib.tz_version()).decode())
print(hex(clib.tz_crc32c(0, b"123456789", 9)))
"""


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    environment = {
        **os.environ,
        "PIP_NO_INDEX": "1",  # nothing may come from the network
        "ZIG_GLOBAL_CACHE_DIR": os.environ.get(
            "ZIG_GLOBAL_CACHE_DIR", str(ROOT / ".zig-cache" / "global")
        ),
    }
    result = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def build_wheel(source: Path, directory: Path) -> Path:
    run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"),
        *("--wheel-dir", directory, source),
    )
    (wheel,) = directory.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(ROOT, tmp_path_factory.mktemp("wheel"))


def test_the_wheel_serves_every_python_of_this_platform_and_no_other(wheel: Path) -> None:
    name, _, _, tags = parse_wheel_filename(wheel.name)
    assert name == "libtz"
    assert {(tag.interpreter, tag.abi) for tag in tags} == {("py3", "none")}
    assert tags & set(sys_tags())
    assert all(tag.platform != "any" for tag in tags)


def test_the_version_stands_in_one_place(wheel: Path) -> None:
    manifest = (ROOT / "build.zig.zon").read_text()
    (stated,) = re.findall(r'\.version = "(.+)"', manifest)
    assert parse_wheel_filename(wheel.name)[1] == Version(stated)


def test_the_wheel_holds_the_package_and_one_library(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    package = {name for name in names if ".dist-info/" not in name}
    libraries = {name for name in package if Path(name).suffix in {".so", ".dylib", ".dll"}}
    assert len(libraries) == 1
    assert {"libtz/__init__.py", "libtz/py.typed", "libtz/_native/_cffi.py"} <= package
    assert "libtz/_native/build.py" not in package  # works only in a checkout
    others = {name for name in package if Path(name).suffix not in {".py", ".typed"}}
    assert others == libraries
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_library_is_of_this_platform_and_exports_what_the_header_declares(wheel: Path) -> None:
    assert "functions" in check_wheels.check_wheel(wheel)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel for another machine, as an example of those that `make wheels` builds and checks."""
    prefix = tmp_path_factory.mktemp("foreign")
    command = [sys.executable, "-m", "ziglang", "build", f"-Dtarget={FOREIGN}", "--prefix"]
    run(*command, prefix)
    return prefix


def test_a_library_for_another_machine(foreign: Path) -> None:
    library = foreign / build_native.TARGETS[FOREIGN].library
    assert "functions" in check_wheels.check_library(library.name, library.read_bytes(), FOREIGN)
    with pytest.raises(AssertionError, match="ELF"):
        check_wheels.check_library("libtz.dylib", library.read_bytes(), "aarch64-macos.11.0")


@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="qemu-user is not installed")
def test_another_machine_decodes_the_same(foreign: Path, tmp_path: Path) -> None:
    """With NEON, where this machine has AVX."""
    file = sample(compress=True)
    (tmp_path / "sample.tz").write_bytes(file.data)
    compile_c = [sys.executable, "-m", "ziglang", "cc", "-target", FOREIGN, "-static", "-O1"]
    source: list[str | Path] = [ROOT / "bindings" / "c" / "tz_show.c", f"-I{foreign / 'include'}"]
    run(*compile_c, *source, foreign / "lib" / "libtz.a", "-o", tmp_path / "tz_show")
    for name in ("a.weight", "big"):
        output = run("qemu-aarch64", tmp_path / "tz_show", tmp_path / "sample.tz", name)
        digest = lib.blake3(file.tensors[name].data).hex()
        assert output.splitlines()[-1] == f"blake3:{digest}"


@pytest.mark.skipif(sys.platform != "linux", reason="reads an ELF library")
def test_the_library_asks_nothing_of_the_c_library(wheel: Path) -> None:
    # This allows the tag manylinux_2_17 without a repair tool.
    with zipfile.ZipFile(wheel) as archive:
        library = archive.read("libtz/_native/libtz.so")
    assert library.startswith(b"\x7fELF")
    assert b"GLIBC_" not in library
    assert b"libc.so" not in library


def test_a_fresh_environment_imports_the_wheel(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False, symlinks=os.name != "nt")
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", wheel)
    # Dependencies come from the running Python, after the wheel in the search path.
    (site_packages,) = environment.glob("**/site-packages")
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))

    output = run(python, "-I", "-c", MAKE_USE_OF_IT, cwd=tmp_path).split()
    package_file, package_version, library_version, crc = output
    assert Path(package_file).is_relative_to(environment)
    assert Version(package_version) == Version(library_version)
    assert crc == "0xe3069283"


def test_the_sdist_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", tmp_path)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = tmp_path / sdist.name.removesuffix(".tar.gz")
    (unpacked / ".zig-cache").symlink_to(ROOT / ".zig-cache")  # saves compiling
    rebuilt = build_wheel(unpacked, tmp_path / "wheel")
    assert rebuilt.name == wheel.name
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(rebuilt) as second:
        assert first.namelist() == second.namelist()
