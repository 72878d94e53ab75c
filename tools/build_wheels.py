"""Builds wheels for all platforms into dist/, and inspects them. Zig cross-compiles; no other
compiler is needed.

    python tools/build_wheels.py [TARGET ...]   # default: all of build_native.TARGETS
"""

from __future__ import annotations

import os
import subprocess
import sys

import build_native
import check_wheels


def main(targets: list[str]) -> None:
    for target in targets:
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "--target", "wheel"],
            cwd=build_native.ROOT,
            env={**os.environ, "TZ_TARGET": target},
            check=True,
        )
    for wheel in sorted((build_native.ROOT / "dist").glob("*.whl")):
        print(f"{wheel.name}: {check_wheels.check_wheel(wheel)}")
    # The checkout's package now holds the library of the last target; restore its own.
    build_native.build(build_native.host_target())


if __name__ == "__main__":
    main(sys.argv[1:] or list(build_native.TARGETS))
