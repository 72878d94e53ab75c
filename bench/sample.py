"""Loads once and prints what it took, as JSON.

    python -m bench.sample SCENE CONTESTANT PLACE SIZE

Immediately before the load, another process touches and frees more memory than it will need:
virtual machines hand free pages back to their host, within seconds, and whoever touches them first
would pay.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

# Before the clock starts: a server has these loaded. libtz imports what a URL needs at its first
# use; the peers' imports bring theirs along.
import botocore.session  # noqa: F401
import torch  # noqa: F401
from bench.contestants import Place
from bench.scenes import SCENES

import libtz.fileset
import libtz.sources.s3
import libtz.torch  # noqa: F401

TOUCH = """
import mmap, sys
memory = mmap.mmap(-1, int(sys.argv[1]), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_HUGEPAGE)
for begin in range(0, len(memory), 4096):
    memory[begin] = 1
"""


def peak_memory() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def cpu_seconds() -> float:
    """Of this process and of the programs that it ran, such as curl."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def main() -> None:
    scene, name, place, size = sys.argv[1:]
    load = SCENES[scene].contestants[name](Place(*json.loads(place)))
    touched = str(2 * int(size) + (1 << 30))
    subprocess.run([sys.executable, "-c", TOUCH, touched], check=True)
    memory, cpu = peak_memory(), cpu_seconds()
    begin = time.perf_counter()
    result = load()
    seconds = time.perf_counter() - begin
    cpu = cpu_seconds() - cpu
    print(json.dumps({"seconds": seconds, "cpu": cpu, "memory": peak_memory() - memory}))
    del result


if __name__ == "__main__":
    main()
