"""Results as Markdown."""

from __future__ import annotations

from bench import targets
from bench.records import Results, SceneResult

ABOUT = """\
# Loading: libtz, other packages and the floor

Made by `python -m bench.main`.
Machine: {cpu}, {cores} cores, {memory} GiB, Linux {kernel}, a virtual machine.
Client and server share the cores.
Versions: {versions}.

- A round runs every contestant once, each in a new process.
  Before each sample, another process touches and frees memory.
- Numbers are medians.
  *Speed* is relative to the first line of the table: the median of the ratios within each round.
- A *floor* does the least work that any loader must do: it reads the same bytes into fresh memory
  of huge pages, and checks only the CRC, where its name says so.
  See `bench/floors/`.
- *libtz* verifies the CRC-32C of each chunk, *pinned* its BLAKE3.
  Other packages verify nothing unless their line says so.
- CPU time is the client's, including programs that it runs.
- Peak memory is relative to that before the load, and includes pages of mapped files.
- boto3, obstore and s3torchconnector deliver bytes, not tensors.
- *cold*: before each sample, the file's pages were evicted from the page cache, and checked to be
  gone.
  The cache of the virtual machine's host cannot be controlled.
- *links*: a network namespace whose loopback has the kernel's token bucket filter.
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


def document(results: Results, picture: str) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    parts = [ABOUT.format(**results.machine, versions=versions)]
    parts.append(f"![Speed of all contestants]({picture})\n")
    header = ["target", "bound", "measured", "reached"]
    parts.append("## Targets\n\n" + table(header, targets.rows(results)))
    parts += [scene_text(scene) for scene in results.scenes.values()]
    return "\n".join(parts)
