"""Loading, ours beside the peers and the floor, in one alternating run.

    python -m bench.main [--gib 2] [--rounds 5] [--scene local] [--scene http] [--out FILE.json]

Each round runs every contestant once, each in a process of its own, after another process has
touched and freed memory: virtual machines hand back free pages, and whoever touches them first
would pay. Compare medians, and ratios to the floor of the same round; never numbers of two runs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from bench.contestants import SCENES, Place
from bench.server import nginx_server
from safetensors.torch import save_file as save_safetensors

import libtz.torch

ROOT = Path(__file__).resolve().parent.parent
GIB = 1 << 30
Samples = dict[str, list[dict[str, float]]]

TOUCH = """
import mmap, sys
memory = mmap.mmap(-1, int(sys.argv[1]), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_HUGEPAGE)
for begin in range(0, len(memory), 4096):
    memory[begin] = 1
"""


def make_model(size: int) -> dict[str, torch.Tensor]:
    """Layers of a transformer in bf16, about `size` bytes."""
    width, inner = 2048, 5632
    layer = {
        "attention.q": (width, width),
        "attention.k": (width // 4, width),
        "attention.v": (width // 4, width),
        "attention.o": (width, width),
        "mlp.gate": (inner, width),
        "mlp.up": (inner, width),
        "mlp.down": (width, inner),
        "norm.1": (width,),
        "norm.2": (width,),
    }
    tensors: dict[str, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(1)
    total = 0
    while total < size:
        for name, shape in layer.items():
            tensor = torch.empty(shape).normal_(0, 0.02, generator=generator).bfloat16()
            tensors[f"layers.{len(tensors) // len(layer)}.{name}"] = tensor
            total += tensor.nbytes
    return tensors


def write(tensors: dict[str, torch.Tensor], folder: Path) -> str:
    options = libtz.WriteOptions(compress="off")  # everyone moves the same bytes
    digest = libtz.torch.save_file(tensors, folder / "model.tz", options=options)
    save_safetensors(tensors, folder / "model.safetensors")
    torch.save(tensors, folder / "model.pt")
    return digest


@contextmanager
def places(folder: Path, digest: str, scenes: list[str]) -> Iterator[dict[str, Place]]:
    def at(base: str) -> Place:
        names = [f"{base}/model.{ending}" for ending in ("tz", "safetensors", "pt")]
        return Place(names[0], digest, *names[1:])

    with ExitStack() as stack:
        found = {"local": at(str(folder))}
        if "http" in scenes:
            found["http"] = at(stack.enter_context(nginx_server(folder)))
        yield {scene: found[scene] for scene in scenes}


def sample(scene: str, name: str, place: Place, touch: int) -> dict[str, float]:
    subprocess.run([sys.executable, "-c", TOUCH, str(touch)], check=True)
    command = [sys.executable, "-m", "bench.sample", scene, name, json.dumps(place)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def report(scene: str, samples: Samples, size: int) -> list[dict[str, Any]]:
    floor = next(iter(samples))
    rows = []
    print(f"\n{scene}: {size / GIB:.2f} GiB, medians of {len(samples[floor])}")
    print(f"{'':20}{'GB/s':>8}{'of floor':>10}{'CPU s/GiB':>11}{'peak/size':>11}")
    for name, taken in samples.items():
        seconds = statistics.median(s["seconds"] for s in taken)
        pairs = zip(samples[floor], taken, strict=True)
        row = {
            "scene": scene,
            "contestant": name,
            "gb_per_s": size / seconds / 1e9,
            "of_floor": statistics.median(a["seconds"] / b["seconds"] for a, b in pairs),
            "cpu_s_per_gib": statistics.median(s["cpu"] for s in taken) / (size / GIB),
            "peak_of_size": statistics.median(s["memory"] for s in taken) / size,
            "seconds": [s["seconds"] for s in taken],
        }
        rows.append(row)
        print(
            f"{name:20}{row['gb_per_s']:8.2f}{row['of_floor']:10.2f}"
            f"{row['cpu_s_per_gib']:11.3f}{row['peak_of_size']:11.2f}"
        )
    return rows


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), ""
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "load": os.getloadavg(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gib", type=float, default=2.0, help="size of the model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scene", action="append", choices=list(SCENES))
    parser.add_argument("--out", type=Path, help="where to write the results as JSON")
    arguments = parser.parse_args()
    scenes = arguments.scene or list(SCENES)
    rows = []
    with tempfile.TemporaryDirectory(prefix="libtz-bench-") as name:
        folder = Path(name)
        tensors = make_model(int(arguments.gib * GIB))
        size = sum(tensor.nbytes for tensor in tensors.values())
        digest = write(tensors, folder)
        del tensors
        with places(folder, digest, scenes) as found:
            for scene, place in found.items():
                samples: Samples = defaultdict(list)
                for _ in range(arguments.rounds):
                    for contestant in SCENES[scene]:
                        taken = sample(scene, contestant.__name__, place, 2 * size + GIB)
                        samples[contestant.__name__].append(taken)
                rows += report(scene, samples, size)
    if arguments.out:
        arguments.out.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
