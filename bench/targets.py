"""The targets of libtz's speed, and whether results reach them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from bench.records import Results, SceneResult
from bench.scenes import COPYING_PEERS, PREADV, SOCKETS

FLOOR = next(iter(SOCKETS))


class Target(NamedTuple):
    text: str
    scene: str
    value: Callable[[SceneResult], float]
    bound: float
    is_limit: bool = False  # the value must not exceed the bound

    def met_by(self, value: float) -> bool:
        return value <= self.bound if self.is_limit else value >= self.bound


def speed(name: str, beside: str) -> Callable[[SceneResult], float]:
    return lambda scene: scene.speed(name, beside)


def beside_copying_peers(scene: SceneResult) -> float:
    return min(scene.speed("libtz", peer) for peer in COPYING_PEERS if peer in scene.samples)


def cpu(scene: SceneResult) -> float:
    return scene.cpu_s_per_gib("libtz") / scene.cpu_s_per_gib(FLOOR)


def each(scene: SceneResult) -> float:
    return scene.microseconds_per_tensor("libtz")


TARGETS = [
    Target("HTTP: speed / floor", "http", speed("libtz", FLOOR), 0.90),
    Target("HTTP: speed / tensorizer", "http", speed("libtz", "tensorizer"), 2.75),
    Target("HTTP, pinned: speed / floor", "http", speed("libtz, pinned", FLOOR), 0.70),
    Target("HTTP: CPU time / floor", "http", cpu, 1.4, is_limit=True),
    Target(
        "HTTP: time verified / not verified",
        "http",
        speed("libtz, not verified", "libtz"),
        1.12,
        is_limit=True,
    ),
    Target("HTTPS: speed / floor", "https", speed("libtz", FLOOR), 0.90),
    Target("S3, nginx: speed / floor", "s3", speed("libtz", FLOOR), 0.90),
    Target(
        "S3, nginx: speed / runai-model-streamer", "s3", speed("libtz", "runai-model-streamer"), 3.0
    ),
    Target("S3, nginx: speed / tensorizer", "s3", speed("libtz", "tensorizer"), 2.5),
    Target("S3, SeaweedFS: speed / floor", "seaweed", speed("libtz", FLOOR), 0.90),
    Target("page cache: speed / preadv", "warm", speed("libtz", next(iter(PREADV))), 0.85),
    Target("page cache: speed / best peer that copies", "warm", beside_copying_peers, 2.0),
    Target(
        "mapped: time / safetensors", "mapped", speed("safetensors", "libtz"), 1.1, is_limit=True
    ),
    Target("cold: speed / direct I/O", "cold", speed("libtz", "direct I/O"), 0.95),
    Target("10,000 tensors, local: µs each", "tiny", each, 20, is_limit=True),
    Target(
        "10,000 tensors, one by one: time / safetensors",
        "one-by-one",
        speed("safetensors", "libtz, safe_open"),
        2.0,
        is_limit=True,
    ),
    Target("10,000 tensors, one by one: µs each", "one-by-one", each, 50, is_limit=True),
    Target("10,000 tensors, HTTP: µs each", "tiny-http", each, 20, is_limit=True),
    Target(
        "10 Gbit/s: time verified / not verified",
        "link-10",
        speed("libtz, raw, not verified", "libtz, raw"),
        1.02,
        is_limit=True,
    ),
    Target(
        "10 Gbit/s: speed compressed / raw",
        "link-10",
        speed("libtz, compressed", "libtz, raw"),
        1.40,
    ),
]


def rows(results: Results) -> list[list[str]]:
    """Target, bound, measured, and whether it is reached. Only of scenes that were measured."""
    found = []
    for target in TARGETS:
        if target.scene not in results.scenes:
            continue
        sign = "≤" if target.is_limit else "≥"
        measured = reached = "not measured"
        try:
            value = target.value(results.scenes[target.scene])
        except (KeyError, ValueError):  # a contestant was left out
            pass
        else:
            measured, reached = f"{value:.2f}", "yes" if target.met_by(value) else "**no**"
        found.append([target.text, f"{sign} {target.bound:.2f}", measured, reached])
    return found
