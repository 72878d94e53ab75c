"""Computes the compression of each choice of plans, for the table in the rationale of the codec's
specification.

    python bench/codec/plans.py DATA        # DATA as datasets.py makes it

Numbers are encoded size / decoded size, from exact histograms of chunks of 1 MiB, without headers
and padding.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNK_SIZE = 1 << 20
DATA_SETS = {
    "minilm_bf16": "MiniLM bf16",
    "llm_bf16": "LLM-like bf16",
    "whisper_f16": "Whisper f16",
    "minilm_e4m3": "MiniLM e4m3",
    "minilm_f32": "MiniLM f32",
    "minilm_f32_of_f16": "f16 weights in f32",
    "kokoro_i8": "Kokoro int8",
}

Plan = tuple[int, ...]
ALL = tuple(p for n in (1, 2, 3) for p in itertools.product((1, 2, 3, 4), repeat=n))
CHOICES: dict[str, tuple[Plan, ...]] = {
    "4": ((4,),),
    "3-3": ((3, 3),),
    "2-2-2": ((2, 2, 2),),
    "2-2-3": ((2, 2, 3),),
    "2-2-3, 4-4": ((2, 2, 3), (4, 4)),
    "2-2-3, 3-3, 4-4": ((2, 2, 3), (3, 3), (4, 4)),
    "all of 1 to 3 tiers of 1 to 4 bits": ALL,
    "2-2-2-3": ((2, 2, 2, 3),),
}


def planes(layout: str, data: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Each plane's width and symbols, as in section 3 of the specification."""
    if layout == "byte":
        yield 8, data
    elif layout == "fp8_e4m3":
        yield 4, data >> 3 & 15
        yield 4, data >> 7 << 3 | data & 7
    elif layout == "f16":
        e = data.view("<u2")
        yield 5, e >> 10 & 31
        yield 3, e >> 15 << 2 | e >> 8 & 3
        yield 8, e & 255
    else:
        size = {"bf16": 2, "f32": 4}[layout]
        e = data.view(f"<u{size}")
        high = (e >> 8 * (size - 2)).astype(np.uint16)
        yield 8, high >> 7 & 255
        yield 8, (high & 127) << 1 | high >> 15
        for shift in range(8 * (size - 3), -1, -8):
            yield 8, e >> shift & 255


def bits(plan: Plan, counts: Sequence[int]) -> int:
    """The size of a plane in bits. `counts` are those of all symbols, in descending order."""
    left, first, result = sum(counts), 0, 0
    for b in plan:
        result += left * b
        left -= sum(counts[first : first + 2**b - 1])
        first += 2**b - 1
    return result + 8 * left


def plane_bits(width: int, counts: Sequence[int], plans: Sequence[Plan]) -> int:
    if counts[0] == sum(counts):
        return 0
    raw = [sum(counts) * width] if width != 5 else [sum(counts) * 8]
    fit = [plan for plan in plans if sum(2**b - 1 for b in plan) <= 2**width]
    return min(raw + [bits(plan, counts) for plan in fit])


def ratios(folder: Path, name: str) -> list[float]:
    about = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    data = np.fromfile(folder / f"{name}.bin", np.uint8)
    totals = dict.fromkeys(CHOICES, 0)
    begin = 0
    for size in about["sizes"]:
        for offset in range(begin, begin + size, CHUNK_SIZE):
            chunk = data[offset : min(offset + CHUNK_SIZE, begin + size)]
            for width, symbols in planes(about["layout"], chunk):
                counts = np.bincount(symbols, minlength=2**width)
                ranked = sorted(counts.tolist(), reverse=True)
                for choice, plans in CHOICES.items():
                    totals[choice] += plane_bits(width, ranked, plans)
        begin += size
    return [total / 8 / len(data) for total in totals.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    folder = parser.parse_args().data
    columns = [ratios(folder, name) for name in DATA_SETS]
    print(f"| plans | {' | '.join(DATA_SETS.values())} |")
    print("|---" * (len(columns) + 1) + "|")
    for choice, row in zip(CHOICES, zip(*columns, strict=True), strict=True):
        print(f"| {choice} | {' | '.join(f'{ratio:.4f}' for ratio in row)} |")


if __name__ == "__main__":
    main()
