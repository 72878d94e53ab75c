"""Stored results: every sample of every scene, and the values computed from them."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

GIB = 1 << 30


@dataclass
class Samples:
    """The samples of one contestant, one for each round."""

    kind: str  # "ours", "floor", "peer"
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)  # seconds
    memory: list[int] = field(default_factory=list)  # peak, above that before the load


@dataclass
class SceneResult:
    title: str
    date: str
    commit: str
    size: int  # bytes of all tensors
    tensors: int
    samples: dict[str, Samples] = field(default_factory=dict)  # the reference first
    left_out: dict[str, str] = field(default_factory=dict)  # contestant to reason

    def seconds(self, name: str) -> float:
        return statistics.median(self.samples[name].seconds)

    def gb_per_s(self, name: str) -> float:
        return self.size / self.seconds(name) / 1e9

    def speed(self, name: str, beside: str) -> float:
        """How many times as fast as `beside`: the median of the ratios within each round."""
        pairs = zip(self.samples[name].seconds, self.samples[beside].seconds, strict=True)
        return statistics.median(theirs / own for own, theirs in pairs)

    def cpu_s_per_gib(self, name: str) -> float:
        return statistics.median(self.samples[name].cpu) / (self.size / GIB)

    def memory_of_size(self, name: str) -> float:
        return statistics.median(self.samples[name].memory) / self.size

    def microseconds_per_tensor(self, name: str) -> float:
        return self.seconds(name) / self.tensors * 1e6


@dataclass
class Results:
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    scenes: dict[str, SceneResult] = field(default_factory=dict)


def load(path: Path) -> Results:
    if not path.exists():
        return Results()
    stored = json.loads(path.read_text())
    scenes = {}
    for name, scene in stored["scenes"].items():
        samples = {who: Samples(**taken) for who, taken in scene.pop("samples").items()}
        scenes[name] = SceneResult(**scene, samples=samples)
    return Results(stored["machine"], stored["versions"], scenes)


def save(results: Results, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(results), indent=1) + "\n")
