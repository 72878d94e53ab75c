"""Builds a C program with the files of `zig build install`, by pkg-config and by CMake."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import build_native
from libtz._native import lib

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
PREFIX = ROOT / "zig-out" / build_native.host_target()
PROGRAM = ROOT / "libtz" / "test" / "smoke.c"  # writes and reads a file in memory


def need(*tools: str) -> None:
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


def run(*command: str | Path, **environment: str) -> str:
    result = subprocess.run(
        command, env=environment or None, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """The installed files in another folder: they must not contain the path of the first one."""
    return shutil.copytree(PREFIX, tmp_path / "prefix", symlinks=True)


def test_pkg_config_finds_the_shared_library(prefix: Path, tmp_path: Path) -> None:
    need("pkg-config", "gcc", "readelf")
    folder = str(prefix / "lib" / "pkgconfig")

    def ask(*question: str) -> list[str]:
        answer = run("pkg-config", *question, "libtz", PKG_CONFIG_PATH=folder, PATH="/usr/bin:/bin")
        return answer.split()

    assert ask("--modversion") == [lib.version()]
    program = tmp_path / "smoke"
    rpath = f"-Wl,-rpath,{prefix / 'lib'}"
    run("gcc", "-std=c99", PROGRAM, *ask("--cflags", "--libs"), rpath, "-o", program)
    run(program)
    # The program needs the ABI version that it was linked with.
    needed = re.findall(r"NEEDED.*\[(.*)\]", run("readelf", "-d", program))
    assert f"libtz.so.{lib.ABI_VERSION}" in needed


PROJECT = """
cmake_minimum_required(VERSION 3.16)
project(smoke C)
find_package(libtz {version} REQUIRED)
add_executable(shared {program})
target_link_libraries(shared libtz::libtz)
add_executable(static {program})
target_link_libraries(static libtz::static)
"""


def configure(folder: Path, prefix: Path, version: str) -> subprocess.CompletedProcess[str]:
    source = folder / f"source-{version}"
    source.mkdir()
    text = PROJECT.format(version=version, program=PROGRAM)
    (source / "CMakeLists.txt").write_text(text, encoding="utf-8")
    build = folder / f"build-{version}"
    command = ["cmake", "-S", str(source), "-B", str(build), f"-DCMAKE_PREFIX_PATH={prefix}"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_cmake_finds_both_libraries(prefix: Path, tmp_path: Path) -> None:
    need("cmake", "gcc", "make")
    major, minor, *_ = lib.version().split(".")
    version = f"{major}.{minor}"
    result = configure(tmp_path, prefix, version)
    assert result.returncode == 0, result.stdout + result.stderr
    build = tmp_path / f"build-{version}"
    run("cmake", "--build", build)
    for program in ("shared", "static"):
        run(build / program)


def test_cmake_refuses_another_version(prefix: Path, tmp_path: Path) -> None:
    need("cmake", "gcc", "make")
    major, minor, *_ = lib.version().split(".")
    for version in (f"{major}.{int(minor) + 1}", f"{int(major) + 1}.0", f"{major}.{minor}.99"):
        result = configure(tmp_path, prefix, version)
        assert result.returncode != 0
        assert "compatible with requested version" in " ".join(result.stderr.split())
