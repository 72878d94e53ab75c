"""Results as Markdown."""

from __future__ import annotations

from bench import targets
from bench.records import Results, SceneResult

ABOUT = """\
# Loading: libtz beside others and beside the floor

Made by `python -m bench.main`. Machine: {cpu}, {cores} cores, {memory} GiB, Linux {kernel}, a
virtual machine. Client and server share the cores. Versions: {versions}.

- Each round runs every contestant once, each in a new process, after another process has touched
  and freed memory. Numbers are medians; *speed* is the median of the ratios within a round, beside
  the first line of the table.
- A *floor* does the least that any loader must: it brings the same bytes into fresh memory of huge
  pages, and checks nothing but the CRC where it says so. `bench/floors/` has them.
- *libtz* verifies each chunk's CRC-32C, *pinned* its BLAKE3. Peers verify nothing unless it is
  said.
- CPU is that of the client, with programs that it runs. Peak memory is beyond what the process had
  before, and counts pages of mapped files. boto3, obstore and s3torchconnector bring bytes, not
  tensors.
- *cold*: the file's pages were dropped and seen to be gone before each sample. What the host of the
  virtual machine has in its cache cannot be told.
- *links* are a network namespace whose loopback has the kernel's token bucket.
"""


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def scene_text(scene: SceneResult) -> str:
    reference = next(iter(scene.samples))
    has_many = scene.tensors >= 1000
    header = ["", "seconds", "GB/s", "speed", "CPU s/GiB", "peak memory / size"]
    rows = []
    for name, samples in scene.samples.items():
        row = [
            f"**{name}**" if samples.kind == "ours" else name,
            f"{scene.seconds(name):.3f}",
            f"{scene.gb_per_s(name):.2f}",
            f"{scene.speed(name, reference):.2f}",
            f"{scene.cpu_s_per_gib(name):.3f}",
            f"{scene.memory_of_size(name):.2f}",
        ]
        rows.append(row + [f"{scene.microseconds_per_tensor(name):.1f}"] * has_many)
    rounds = len(scene.samples[reference].seconds)
    about = f"{scene.size / 1e9:.2f} GB in {scene.tensors} tensors, {rounds} rounds"
    text = f"## {scene.title}\n\n{about}, {scene.date}, commit {scene.commit}.\n\n"
    text += table(header + ["µs per tensor"] * has_many, rows)
    for name, reason in scene.left_out.items():
        text += f"\nLeft out: {name}: {reason}\n"
    return text


def document(results: Results) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    parts = [ABOUT.format(**results.machine, versions=versions)]
    parts.append("![Speed of all contestants](loading.png)\n")
    header = ["target", "bound", "measured", "reached"]
    parts.append("## Targets\n\n" + table(header, targets.rows(results)))
    parts += [scene_text(scene) for scene in results.scenes.values()]
    return "\n".join(parts)
