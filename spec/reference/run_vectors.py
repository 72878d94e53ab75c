"""Run every conformance vector through a command, and say where the command differs.

    python run_vectors.py [--codecs raw] COMMAND [ARGUMENT ...]

The command is called as `COMMAND ARGUMENT ... [--open | --load NAME] [--digest blake3:...] FILE`,
and prints one line of JSON: `spec/README.md` says what. Exit code 0 means that all vectors agree.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import tz_vectors

TIMEOUT_S = 60


def run_command(
    command: Sequence[str], data: bytes, *, pin: str | None = None, operation: str = "verify"
) -> dict[str, Any]:
    """What the command prints about a file with these bytes."""
    options = ["--open"] if operation == "open" else []
    if operation.startswith("load "):
        options = ["--load", operation.removeprefix("load ")]
    if pin is not None:
        options += ["--digest", pin]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vector.tz"
        path.write_bytes(data)
        call = [*command, *options, str(path)]
        done = subprocess.run(call, capture_output=True, timeout=TIMEOUT_S, check=False)
    if done.returncode not in (0, 1):
        tail = done.stderr.decode("utf-8", "replace")[-500:]
        raise RuntimeError(f"{call} ended with {done.returncode}: {tail}")
    description: dict[str, Any] = json.loads(done.stdout)
    if done.returncode != (0 if description["result"] == "ok" else 1):
        raise RuntimeError(f"{call} ended with {done.returncode}, but said {description}")
    return description


def problems_of(
    vector: tz_vectors.Vector, command: Sequence[str], codecs: Sequence[str]
) -> list[str]:
    if vector.unknown_keys:
        return []
    try:
        description = run_command(command, vector.data, pin=vector.pin, operation=vector.operation)
        return tz_vectors.mismatches(vector, description, codecs)
    except (RuntimeError, ValueError, KeyError, OSError, subprocess.TimeoutExpired) as error:
        return [f"{type(error).__name__}: {error}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--codecs", default="raw,tiered", help="what the command can decode")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    vectors, codecs = tz_vectors.load_all(), arguments.codecs.split(",")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(lambda v: problems_of(v, arguments.command, codecs), vectors))
    for vector, problems in zip(vectors, results, strict=True):
        for problem in problems:
            print(f"{vector.name} ({', '.join(vector.rules)}): {problem}")
    agreeing = sum(not problems for problems in results)
    print(f"{agreeing} of {len(vectors)} vectors agree")
    return 0 if agreeing == len(vectors) else 1


if __name__ == "__main__":
    sys.exit(main())
