"""Builds libtz with the `ziglang` package, and copies the library and the cffi module into the
Python package. The wheel build hook calls it. In a checkout:

    python tools/build_native.py                # after a change in Zig code or tz.h
    python tools/build_native.py install test   # the same, and the Zig unit tests
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "bindings" / "python" / "libtz" / "_native"


class Target(NamedTuple):
    wheel_platform: str  # the platform tag of a wheel
    library: str  # the shared library below Zig's install prefix


# Keys are Zig's names. The library needs no libc, so the tags are the oldest that pip accepts.
TARGETS = {
    "x86_64-linux-gnu.2.17": Target("manylinux_2_17_x86_64", "lib/libtz.so"),
    "aarch64-linux-gnu.2.17": Target("manylinux_2_17_aarch64", "lib/libtz.so"),
    "x86_64-linux-musl": Target("musllinux_1_2_x86_64", "lib/libtz.so"),
    "aarch64-linux-musl": Target("musllinux_1_2_aarch64", "lib/libtz.so"),
    "x86_64-macos.11.0": Target("macosx_11_0_x86_64", "lib/libtz.dylib"),
    "aarch64-macos.11.0": Target("macosx_11_0_arm64", "lib/libtz.dylib"),
    "x86_64-windows-gnu": Target("win_amd64", "bin/tz.dll"),
    "aarch64-windows-gnu": Target("win_arm64", "bin/tz.dll"),
}

ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


def python_version() -> str:
    """The version in build.zig.zon in Python's spelling: 0.1.0.dev0 for 0.1.0-dev.0."""
    manifest = (ROOT / "build.zig.zon").read_text(encoding="utf-8")
    match = re.search(r'\.version = "([^"]+)"', manifest)
    if match is None:
        raise SystemExit("libtz: no .version in build.zig.zon")
    return match[1].replace("-dev.", ".dev")


def host_target() -> str:
    """The key of TARGETS for the running Python."""
    machine = platform.machine().lower()
    try:
        architecture = ARCHITECTURES[machine]
        libc = "gnu.2.17" if platform.libc_ver()[0] == "glibc" else "musl"
        system = {
            "linux": f"linux-{libc}",
            "darwin": "macos.11.0",
            "win32": "windows-gnu",
        }[sys.platform]
    except KeyError:
        raise SystemExit(
            f"libtz: no build target for {sys.platform} on {machine}; "
            f"set TZ_TARGET to one of: {', '.join(TARGETS)}"
        ) from None
    return f"{architecture}-{system}"


def build(target: str, steps: tuple[str, ...] = ("install",)) -> None:
    """Runs Zig's build steps for `target`. "install" also updates the Python package."""
    prefix = ROOT / "zig-out" / target
    command = [
        *(sys.executable, "-m", "ziglang", "build", *steps),
        *(f"-Dtarget={target}", "--prefix", str(prefix)),
    ]
    result = subprocess.run(command, cwd=ROOT, env=_environment(), check=False)
    if result.returncode != 0:
        raise SystemExit(f"libtz: failed with status {result.returncode}: {' '.join(command)}")
    if "install" not in steps:
        return
    _write_cffi_module()
    _place_library(prefix / TARGETS[target].library)


def _environment() -> dict[str, str]:
    """Keeps Zig's global cache, which takes more than a minute to fill, in the checkout.

    pip deletes an unpacked sdist after the build, so there Zig's default is used: the user's cache
    directory.
    """
    environment = dict(os.environ)
    is_sdist = (ROOT / "PKG-INFO").exists()
    if not is_sdist:
        environment.setdefault("ZIG_GLOBAL_CACHE_DIR", str(ROOT / ".zig-cache" / "global"))
    return environment


def _place_library(library: Path) -> None:
    for other in {Path(target.library).name for target in TARGETS.values()} - {library.name}:
        (PACKAGE / other).unlink(missing_ok=True)
    # Renamed into place: writing to the old file would change code that a process may be running.
    copy = shutil.copy2(library, PACKAGE / f"{library.name}.new")
    Path(copy).replace(PACKAGE / library.name)


def _write_cffi_module() -> None:
    # Loaded by path, since importing libtz needs the module that is made here.
    spec = importlib.util.spec_from_file_location("_libtz_cffi_build", PACKAGE / "build.py")
    if spec is None or spec.loader is None:
        raise SystemExit(f"libtz: cannot load {PACKAGE / 'build.py'}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write_cffi_module(ROOT / "libtz" / "include" / "tz.h")


if __name__ == "__main__":
    build(os.environ.get("TZ_TARGET") or host_target(), tuple(sys.argv[1:]) or ("install",))
