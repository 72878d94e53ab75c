"""The conformance vectors of the tz format, and a runner for them. Needs nothing but Python.

    python3 libtz_vectors.py [--level diagnostic] [--codecs raw,tiered] COMMAND [ARGUMENT ...]
    python3 libtz_vectors.py --writer [--codecs raw,tiered] COMMAND [ARGUMENT ...]

README.md beside this file says what the command prints or writes, and what the levels ask of it.
Exit code 0 means that it passes all vectors of its level.

    for vector in libtz_vectors.load_all():           # or use them from a test of your own
        problems = libtz_vectors.mismatches(vector, what_my_reader_says(vector.data))
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
# In the package the vectors lie beside this file, in the repository beside its folder.
VECTORS = next(path for path in (_HERE / "vectors", _HERE.parent / "vectors") if path.is_dir())

LEVELS = ("load", "verify", "diagnostic")
CODECS = ("raw", "tiered")
TIMEOUT_S = 60

# The grammar of vectors ---------------------------------------------------------------------------

KEYS = (
    *("expect", "rule", "comment", "operation", "pin", "requires", "level"),
    *("file-digest", "content-digest", "released-sha256"),
)

_LINE = re.compile(
    r"(?P<bytes>[0-9a-f]{2}(?: [0-9a-f]{2})*)(?: (?P<how>\*|\+\+) (?P<count>[1-9][0-9]*))?"
)


@dataclass
class Vector:
    """A file, and what a reader says about it. `vectors/README.md` explains the fields."""

    name: str
    data: bytes
    expect: str  # "ok" or an error class
    rules: list[str]
    comment: str
    operation: str = "verify"
    pin: str | None = None
    requires: str | None = None
    level: str = "load"
    file_digest: str | None = None
    content_digest: str | None = None
    released: str | None = None
    unknown_keys: list[str] = field(default_factory=list)


def parse(name: str, text: str) -> Vector:
    head, separator, body = text.partition("\n\n")
    if not separator:
        raise ValueError(f"{name}: no empty line after the header")
    values: dict[str, str] = {}
    for line in head.splitlines():
        key, colon, value = line.partition(": ")
        if not colon or key in values:
            raise ValueError(f"{name}: bad header line {line!r}")
        values[key] = value
    return Vector(
        name=name,
        data=b"".join(_parse_body(name, body)),
        expect=values["expect"],
        rules=values["rule"].split(", "),
        comment=values["comment"],
        operation=values.get("operation", "verify"),
        pin=values.get("pin"),
        requires=values.get("requires"),
        level=values.get("level", "load"),
        file_digest=values.get("file-digest"),
        content_digest=values.get("content-digest"),
        released=values.get("released-sha256"),
        unknown_keys=[key for key in values if key not in KEYS],
    )


def _parse_body(name: str, body: str) -> Iterator[bytes]:
    for number, line in enumerate(body.splitlines(), start=1):
        code = line.partition("#")[0].strip()
        if not code:
            continue
        match = _LINE.fullmatch(code)
        if match is None:
            raise ValueError(f"{name}: line {number} of the body is no hex: {line!r}")
        unit, count = bytes.fromhex(match["bytes"]), int(match["count"] or 1)
        yield counted(unit, count) if match["how"] == "++" else unit * count


def counted(unit: bytes, count: int) -> bytes:
    """`unit` that many times, the decimal digits at its end being one more each time."""
    head = unit.rstrip(b"0123456789")
    size = len(unit) - len(head)
    numbers = range(int(unit[len(head) :]), int(unit[len(head) :]) + count)
    return b"".join(head + b"%0*d" % (size, number) for number in numbers)


def load(path: Path) -> Vector:
    return parse(f"{path.parent.name}/{path.stem}", path.read_text(encoding="utf-8"))


def load_all() -> list[Vector]:
    return [load(path) for path in sorted(VECTORS.glob("v1/*/*.hex"))]


# Readers ------------------------------------------------------------------------------------------


def expected_description(vector: Vector) -> dict[str, Any]:
    """What an implementation says about a valid vector's file, as far as that is written down."""
    path = VECTORS / "v1" / f"{vector.name}.json"
    if not path.exists():
        return {"result": "ok"}
    description: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return description


def mismatches(
    vector: Vector,
    description: Mapping[str, Any],
    codecs: Collection[str] = CODECS,
    level: str = "diagnostic",
) -> list[str]:
    """In what `description`, by an implementation with these codecs, differs from the vector."""
    if vector.requires is not None and vector.requires not in codecs:
        expected: dict[str, Any] = {"result": "error", "class": "feature"}
    elif vector.expect == "ok":
        expected = expected_description(vector)
        if vector.file_digest is not None:
            expected["file_digest"] = vector.file_digest
            expected["content_digest"] = vector.content_digest
    else:
        expected = {"result": "error", "class": vector.expect, "rule": vector.rules[0]}
        if vector.released is not None:
            expected["released"] = vector.released
        if len(vector.rules) > 1:
            expected["codec_rule"] = vector.rules[1]
    if level == "load" and vector.expect == "ok" and not vector.operation.startswith("load "):
        expected = {"result": "ok"}
    if level != "diagnostic" and expected["result"] == "error":
        is_free = level == "load" and vector.level != "load"
        expected = {} if is_free else {"result": "error"}
    return differences(expected, description)


def differences(expected: Mapping[str, Any], description: Mapping[str, Any]) -> list[str]:
    """The keys of `expected` with another value, or none, in `description`, in words.

    An implementation need not tell the rules that a file breaks, nor what it released.
    """
    return [
        f"{key}: expected {value!r}, got {description.get(key)!r}"
        for key, value in expected.items()
        if description.get(key) != value
        and not (key in ("rule", "codec_rule", "released") and description.get(key) is None)
    ]


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
    vector: Vector, command: Sequence[str], codecs: Collection[str], level: str
) -> list[str]:
    if vector.unknown_keys:
        return []
    description = run_command(command, vector.data, pin=vector.pin, operation=vector.operation)
    return mismatches(vector, description, codecs, level)


# Writers ------------------------------------------------------------------------------------------


def load_writers() -> list[dict[str, Any]]:
    """Descriptions of files, each with the SHA-256 of the one file that a writer makes of it."""
    path = VECTORS / "writers" / "v1.json"
    tests: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["tests"]
    return tests


def data_of(rule: Mapping[str, Any]) -> bytes:
    """The decoded bytes of a tensor in a description, by the rule that stands there for them."""
    if "hex" in rule:
        return bytes.fromhex(rule["hex"]) * int(rule.get("count", 1))
    if "parts" in rule:
        return b"".join(map(data_of, rule["parts"]))
    columns = [bytes.fromhex(column) for column in rule["columns"]]
    state, out = int(rule["seed"]), bytearray()
    for i in range(rule["size"]):
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        column = columns[i % len(columns)]
        out.append(column[(state >> 33) % len(column)])
    return bytes(out)


def written_problems(test: Mapping[str, Any], command: Sequence[str]) -> list[str]:
    """In what the file that the command writes differs from the vector."""
    with tempfile.TemporaryDirectory() as folder:
        description, target = Path(folder) / "description.json", Path(folder) / "written.tz"
        description.write_text(json.dumps(test["description"]), encoding="utf-8")
        call = [*command, str(description), str(target)]
        done = subprocess.run(call, capture_output=True, timeout=TIMEOUT_S, check=False)
        if done.returncode != 0:
            tail = done.stderr.decode("utf-8", "replace")[-500:]
            raise RuntimeError(f"{call} ended with {done.returncode}: {tail}")
        data = target.read_bytes()
    found = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return differences({key: test[key] for key in found}, found)


# The command --------------------------------------------------------------------------------------


def _run_all(jobs: Mapping[str, Callable[[], list[str]]]) -> int:
    """Runs the jobs, prints their problems, and returns the exit code."""

    def attempt(job: Callable[[], list[str]]) -> list[str]:
        try:
            return job()
        except (RuntimeError, ValueError, KeyError, OSError, subprocess.SubprocessError) as error:
            return [f"{type(error).__name__}: {error}"]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(attempt, jobs.values()))
    for name, problems in zip(jobs, results, strict=True):
        for problem in problems:
            print(f"{name}: {problem}")
    agreeing = sum(not problems for problems in results)
    print(f"{agreeing} of {len(jobs)} vectors agree")
    return 0 if agreeing == len(jobs) else 1


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--codecs", default=",".join(CODECS), help="what the command can decode")
    parser.add_argument("--level", choices=LEVELS, default="diagnostic", help="of a reader")
    parser.add_argument("--writer", action="store_true", help="the command is a writer")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args(given)
    command, codecs, level = arguments.command, arguments.codecs.split(","), arguments.level
    if not command:
        parser.error("the command is missing")
    jobs: dict[str, Callable[[], list[str]]] = {}
    if arguments.writer:
        for test in load_writers():
            if test["description"]["codec"] in codecs:
                jobs[test["name"]] = partial(written_problems, test, command)
    else:
        for vector in load_all():
            name = f"{vector.name} ({', '.join(vector.rules)})"
            jobs[name] = partial(problems_of, vector, command, codecs, level)
    return _run_all(jobs)


def command() -> None:
    sys.exit(main())


if __name__ == "__main__":
    command()
