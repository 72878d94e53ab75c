"""Runs the codec's benchmark on all data sets, and writes the results as JSON and Markdown.

    python bench/codec/datasets.py WHEELS DATA
    python -m ziglang build bench-codec
    python bench/codec/run.py DATA zig-out/bin/bench-codec

Peers that are not installed are left out: pip install zstandard blosc2 zipnn.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from peers import measure

RESULTS = Path(__file__).resolve().parent.parent / "results"
CHUNK_SIZE = 1 << 20
LEVELS = {
    "baseline": "scalar",
    "v2": "SSE4.1",
    "v3": "AVX2",
    "v3_vaes": "AVX2, VAES",
    "v4": "AVX-512",
}

ABOUT = """\
# The tiered codec: sizes and speeds

Made by `bench/codec/run.py`, in one run.
Speeds are GB/s of decoded bytes in one thread, in thread CPU time.
Source and destination are memory that was touched before.
They are medians of {rounds} rounds, each of which ran everything once.
Chunks have {chunk} KiB and do not span tensors.
Machine: {machine}.

- `copy` is memcpy of the same chunks, in the same rounds.
- *encode* includes the choice of plans.
- Where the ratio is 1, *encode* is the time to decide that a chunk stays raw, and *decode* copies.
- `scalar` is the kernel for CPUs without SSE4.1.
"""

PEERS = """

## Other compressors

Ratio / encode / decode, on the first 64 MiB in chunks of 4 MiB, in CPU time of all threads.
They are called from Python; the times include making the objects that they return.
`zipnn` supports only bf16, f16 and f32.
"""


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    parts = [line.partition(":") for line in lines]
    found = {key.strip(): value.strip() for key, _, value in parts}
    model = f"{found.get('model name', platform.processor())}, family {found.get('cpu family')}"
    return f"{model}, model {found.get('model')}, {os.cpu_count()} cores"


def run(folder: Path, command: Path, rounds: int, with_peers: bool) -> list[dict[str, Any]]:
    results = []
    for path in sorted(folder.glob("*.json")):
        arguments = [command, folder, path.stem, str(CHUNK_SIZE), str(rounds)]
        result = json.loads(subprocess.run(arguments, check=True, capture_output=True).stdout)
        if with_peers:
            result["peers"] = measure(path.with_suffix(".bin"), result["layout"])
        print(json.dumps(result), flush=True)
        results.append(result)
    return results


def ratio(result: dict[str, Any]) -> float:
    return float(result["stored_size"] / result["size"])


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def our_table(results: list[dict[str, Any]]) -> str:
    levels = [level for level in LEVELS if level in results[0]]
    header = ["data", "MB", "ratio", "copy"]
    header += [f"{LEVELS[level]} encode / decode" for level in levels]
    header += [f"{LEVELS[level]} decode : copy" for level in levels if level in ("v3", "v4")]
    rows = []
    for result in results:
        row = [result["name"], f"{result['size'] / 1e6:.0f}", f"{ratio(result):.4f}"]
        row.append(f"{result['copy']:.1f}")
        for level in levels:
            row.append(f"{result[level]['encode']:.1f} / {result[level]['decode']:.1f}")
        for level in levels:
            if level in ("v3", "v4"):
                row.append(f"{result[level]['decode'] / result['copy']:.2f}")
        rows.append(row)
    return table(header, rows)


def peer_table(results: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for result in results for name in result["peers"]))
    rows = []
    for result in results:
        best = result[max(LEVELS.keys() & result.keys())]
        row = [result["name"]]
        row.append(f"**{ratio(result):.3f}** / {best['encode']:.1f} / {best['decode']:.1f}")
        for name in names:
            peer = result["peers"].get(name)
            cell = "{ratio:.3f} / {encode:.1f} / {decode:.1f}".format(**peer) if peer else ""
            row.append(cell)
        rows.append(row)
    return table(["data", "tiered", *names], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("command", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--no-peers", action="store_true")
    arguments = parser.parse_args()
    with_peers = not arguments.no_peers
    results = run(arguments.data, arguments.command, arguments.rounds, with_peers)
    RESULTS.mkdir(exist_ok=True)
    document = {"machine": machine(), "rounds": arguments.rounds, "results": results}
    (RESULTS / "codec.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    about = ABOUT.format(rounds=arguments.rounds, chunk=CHUNK_SIZE >> 10, machine=machine())
    text = f"{about}\n{our_table(results)}"
    if with_peers:
        text += f"{PEERS}\n{peer_table(results)}"
    (RESULTS / "codec.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
