"""Plots results: bars for each scene, and curves for the scan of connections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.records import Results, SceneResult

COLORS = {"ours": "tab:blue", "floor": "tab:gray", "peer": "tab:orange"}
COLUMNS = 3
SCAN = "connections"


def draw(results: Results, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = -(-len(results.scenes) // COLUMNS)
    figure, grid = plt.subplots(rows, COLUMNS, figsize=(18, 3.2 * rows), squeeze=False)
    for axes in grid.flat[len(results.scenes) :]:
        axes.axis("off")
    for axes, (name, scene) in zip(grid.flat, results.scenes.items(), strict=False):
        (_curves if name == SCAN else _bars)(axes, scene)
        axes.set_title(scene.title, fontsize=9)
        axes.tick_params(labelsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=60)


def _bars(axes: Any, scene: SceneResult) -> None:
    names = list(scene.samples)[::-1]
    speeds = [scene.gb_per_s(name) for name in names]
    bars = axes.barh(names, speeds, color=[COLORS[scene.samples[name].kind] for name in names])
    axes.bar_label(bars, fmt="%.2f", fontsize=8, padding=2)
    axes.margins(x=0.12)
    axes.set_xlabel("GB/s", fontsize=8)


def _curves(axes: Any, scene: SceneResult) -> None:
    curves: dict[str, list[tuple[int, float]]] = {}
    for name, samples in scene.samples.items():
        if samples.kind == "ours":
            count, way = name.split(", ")
            curves.setdefault(way, []).append((int(count), scene.gb_per_s(name)))
        else:
            axes.axhline(scene.gb_per_s(name), color=COLORS[samples.kind], label=name)
    for way, points in curves.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=way)
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("GB/s", fontsize=8)
    axes.legend(fontsize=8)
