"""Builds the wheels of all platforms into dist/. Zig cross-compiles; no other tool is needed.

python tools/build_wheels.py [TARGET ...]   # default: all of build_native.TARGETS
"""

from __future__ import annotations

import os
import subprocess
import sys

import build_native


def main(targets: list[str]) -> None:
    for target in targets:
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "--target", "wheel"],
            cwd=build_native.ROOT,
            env={**os.environ, "TZ_TARGET": target},
            check=True,
        )
    # The package of the checkout now holds the library of the last target; give it back its own.
    build_native.build(build_native.host_target())


if __name__ == "__main__":
    main(sys.argv[1:] or list(build_native.TARGETS))
