"""Loads once, and prints time, CPU time and memory as JSON.

    python -m bench.sample SCENE CONTESTANT LOCATION SIZE

Immediately before the load, another process frees more memory than the load needs. Virtual machines
return free pages to their host within seconds; without this, the load would pay to get them back.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.contestants import Load

HOLD = """
import mmap, sys
memory = mmap.mmap(-1, int(sys.argv[1]), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_HUGEPAGE)
for begin in range(0, len(memory), 4096):
    memory[begin] = 1
sys.stdin.read()
"""


def prepare(scene: str, name: str, location: str) -> Load:
    """Imports the modules that a server has imported before it loads a model, for all contestants
    alike."""
    import botocore.session  # noqa: F401
    import torch  # noqa: F401
    from bench.contestants import Location
    from bench.scenes import SCENES

    import libtz.checkpoint.sharded
    import libtz.sources.s3
    import libtz.torch  # noqa: F401

    return SCENES[scene].contestants[name](Location(*json.loads(location)))


def peak_memory() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def cpu_seconds() -> float:
    """Of this process and of the programs that it ran, such as curl."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def main() -> None:
    scene, name, location, size = sys.argv[1:]
    held = str(2 * int(size) + (1 << 30))
    holder = subprocess.Popen([sys.executable, "-c", HOLD, held], stdin=subprocess.PIPE)
    try:
        load = prepare(scene, name, location)
    finally:
        holder.communicate()
    memory, cpu = peak_memory(), cpu_seconds()
    begin = time.perf_counter()
    result = load()
    seconds = time.perf_counter() - begin
    cpu = cpu_seconds() - cpu
    print(json.dumps({"seconds": seconds, "cpu": cpu, "memory": peak_memory() - memory}))
    del result


if __name__ == "__main__":
    main()
