"""Checks that a wheel, for any platform, holds one library of the right type with exactly the
functions of tz.h.

    python tools/check_wheels.py dist/*.whl

Prints a line for each wheel; ends with an AssertionError at the first faulty one.
"""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import lief

import build_native

lief.logging.disable()  # it reports every oddity, even harmless ones

SIZE_MAX = 2 << 20
FORMATS = {"linux": "ELF", "macos": "MACHO", "windows": "PE"}
ARCHITECTURES = {"x86_64": {"X86_64"}, "aarch64": {"ARM64"}}
# Libraries that every machine of the platform has, by lower-case file name.
SYSTEM = {
    "linux": set[str](),
    "macos": {"libsystem.b.dylib"},
    "windows": {"ntdll.dll", "kernel32.dll"},
}
# Symbols that Zig adds to every library, without the first underscore.
ADDED = {
    "linux": set[str](),
    "macos": {"_mh_dylib_header", "__dso_handle"},
    "windows": {
        *("DllMainCRTStartup", "_xl_a", "_xl_z"),
        *("tls_end", "tls_index", "tls_start", "tls_used"),
    },
}


def declared_functions() -> set[str]:
    text = (build_native.ROOT / "libtz" / "include" / "tz.h").read_text(encoding="utf-8")
    code = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    return set(re.findall(r"^\w[\w ]*[ *](tz_\w+)\(", code, re.MULTILINE))


def target_of(wheel: Path) -> str:
    """Zig's name for the platform in the wheel's tag."""
    tag = wheel.stem.rsplit("-", 1)[1]
    (target,) = (t for t, row in build_native.TARGETS.items() if row.wheel_platform == tag)
    return target


def check_library(name: str, data: bytes, target: str) -> str:
    """A line about the library. Raises AssertionError if it is wrong."""
    assert name == Path(build_native.TARGETS[target].library).name, name
    architecture, system = re.split(r"[-.]", target)[:2]
    binary: Any = lief.parse(data)
    assert binary is not None, f"{name} is not a library"
    assert binary.format.name == FORMATS[system], binary.format
    found = binary.abstract.header.architecture.name
    assert found in ARCHITECTURES[architecture], found
    exported = {function.name.removeprefix("_") for function in binary.exported_functions}
    exported -= ADDED[system]
    assert exported == declared_functions(), exported ^ declared_functions()
    libraries = [getattr(library, "name", library) for library in binary.libraries]
    needed = {Path(library).name.lower() for library in libraries}
    # On macOS, a library lists itself, with the ABI version.
    needed = {one for one in needed if re.sub(r"\.\d+\.dylib$", ".dylib", one) != name}
    assert needed <= SYSTEM[system], needed
    assert len(data) < SIZE_MAX, len(data)
    needs = ", ".join(sorted(needed)) or "nothing"
    return f"{name}, {len(data)} bytes, {len(exported)} functions, needs {needs}"


def check_wheel(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith((".py", ".typed"))]
        (library,) = (name for name in names if ".dist-info/" not in name)
        return check_library(Path(library).name, archive.read(library), target_of(wheel))


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(f"{Path(argument).name}: {check_wheel(Path(argument))}")
