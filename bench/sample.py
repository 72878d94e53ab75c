"""`python -m bench.sample SCENE CONTESTANT PLACE` loads once and prints what it took, as JSON."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import torch  # noqa: F401  before the clock starts: a server has it loaded
from bench.contestants import SCENES, Place

import libtz.torch  # noqa: F401


def peak_memory() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    scene, name, place = sys.argv[1:]
    contestant = next(c for c in SCENES[scene] if c.__name__ == name)
    before = peak_memory()
    used = resource.getrusage(resource.RUSAGE_SELF)
    begin = time.perf_counter()
    result = contestant(Place(*json.loads(place)))
    seconds = time.perf_counter() - begin
    now = resource.getrusage(resource.RUSAGE_SELF)
    cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    print(json.dumps({"seconds": seconds, "cpu": cpu, "memory": peak_memory() - before}))
    del result


if __name__ == "__main__":
    main()
