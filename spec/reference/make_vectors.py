"""Write `spec/vectors/v1` from the scenarios, or check that it is up to date.

    python make_vectors.py            # write
    python make_vectors.py --check    # exit 1 if a file is missing, different, or left over

What a vector says comes from its scenario. The reference reader only adds digests and, for valid
files, the description; the conformance tests compare its verdict with that of the scenario.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

import tz_load
import tz_reference as tz
import tz_vectors
from scenarios import SCENARIOS, Scenario
from tz_describe import Description, describe

# What readers say about larger files is compared by their digests alone.
READABLE_SIZE_MAX = 500_000


def vector_of(scenario: Scenario) -> tz_vectors.Vector:
    data = scenario.maker()
    vector = tz_vectors.Vector(
        name=scenario.name,
        data=data,
        expect=scenario.expect,
        rules=list(scenario.rules),
        comment=scenario.comment,
        operation=scenario.operation,
        pin=scenario.pin,
        requires=scenario.requires,
        level=level_of(scenario, data),
    )
    if scenario.operation.startswith("load "):
        pass  # what it prints says nothing of the file
    elif scenario.expect == "ok":
        file = tz.File(data)
        vector.file_digest = file.digest
        vector.content_digest = file.content_digest
    else:
        vector.released = hashlib.sha256(scenario.released).hexdigest()
    return vector


def level_of(scenario: Scenario, data: bytes) -> str:
    """The level from which on a reader must find the fault."""
    if scenario.expect == "ok":
        return "load"
    if scenario.requires is not None:
        return "verify" if scenario.rules[0] in ("TZ1-45", "TZ1-46", "TZ1-47") else "load"
    try:
        reader = tz_load.Reader(data, scenario.pin)
        if scenario.operation.startswith("load "):
            reader.load_typed(scenario.operation.removeprefix("load "))
        elif scenario.operation == "verify":
            for name in reader.entries:
                reader.load(name)
    except tz_load.BadFileError:
        return "load"
    return "verify"


def description_text(description: Description) -> str:
    """JSON for the eye: a line per tensor and node."""
    lines = []
    for key, value in sorted(description.items()):
        text = json.dumps(value, sort_keys=True)
        if key in ("tensors", "structure") and value:
            items = ",\n  ".join(json.dumps(item, sort_keys=True) for item in value)
            text = f"[\n  {items}\n ]"
        lines.append(f' "{key}": {text}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def texts() -> dict[Path, str]:
    """The contents of every file below vectors/v1."""
    result: dict[Path, str] = {}
    for scenario in SCENARIOS.values():
        vector = vector_of(scenario)
        path = tz_vectors.VECTORS / "v1" / f"{scenario.name}.hex"
        result[path] = tz_vectors.render(vector)
        if scenario.expect == "ok" and len(vector.data) < READABLE_SIZE_MAX:
            description = describe(vector.data, pin=vector.pin, operation=vector.operation)
            result[path.with_suffix(".json")] = description_text(description)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    expected = texts()
    present = set((tz_vectors.VECTORS / "v1").glob("*/*"))
    wrong = 0
    for path in sorted(present | set(expected)):
        text = expected.get(path)
        if text is not None and path in present and path.read_text(encoding="utf-8") == text:
            continue
        wrong += 1
        print(f"{path.relative_to(tz_vectors.VECTORS)}: {'left over' if text is None else 'new'}")
        if check:
            continue
        if text is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return 1 if check and wrong else 0


if __name__ == "__main__":
    sys.exit(main())
