"""Builds a fuzz target for libFuzzer with AddressSanitizer, and runs it.

    python fuzz/libfuzzer.py TARGET [--seconds N] [--coverage] [-- LIBFUZZER OPTION ...]

Needs clang-19 and the run-time parts of libFuzzer and the sanitizers (`apt-get install clang-19
libclang-rt-19-dev`); Zig has its own, newer clang, which instruments. Corpora grow in
zig-out/fuzz/TARGET; start from those of fuzz/corpus. Exits with a status other than 0 when
something was found.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ZIG = [sys.executable, "-m", "ziglang"]
SANITIZE = ["-fsanitize=fuzzer-no-link,address"]
# AddressSanitizer touches the functions that say so.
ATTRIBUTES = re.compile(r"^(attributes #\d+ = \{)", re.MULTILINE)
# Zig's own, which is not linked here.
STACK_PROBE = '"probe-stack"="__zig_probe_stack"'


def build(target: str, folder: Path) -> Path:
    """Zig makes LLVM IR of the target and of the kernels; clang instruments and links it."""
    command = [*ZIG, "build", "fuzz-ir", f"-Dfuzz-target={target}", "--prefix", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True)
    objects = []
    for source in sorted(folder.glob("*.ll")):
        text = ATTRIBUTES.sub(r"\1 sanitize_address", source.read_text())
        source.write_text(text.replace(STACK_PROBE, ""))
        made = source.with_suffix(".o")
        compile_one = [*ZIG, "clang", "-c", "-O2", *SANITIZE, str(source), "-o", str(made)]
        subprocess.run(compile_one, check=True)
        objects.append(str(made))
    program = folder / "fuzzer"
    link = ["clang-19", "-fsanitize=fuzzer,address,undefined", *objects, "-o", str(program)]
    subprocess.run(link, check=True)
    return program


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--coverage", action="store_true", help="what the corpus reaches, no run")
    parser.add_argument("options", nargs="*", help="for libFuzzer")
    arguments = parser.parse_args()
    folder = ROOT / "zig-out" / "fuzz" / arguments.target
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    program = build(arguments.target, folder)
    seeds = ROOT / "fuzz" / "corpus" / arguments.target
    corpora = [str(path) for path in (corpus, seeds) if path.exists()]
    if arguments.coverage:
        run = ["-runs=0", "-print_coverage=1"]
    else:
        run = [f"-max_total_time={arguments.seconds}", "-max_len=300000", "-timeout=20"]
        run += ["-rss_limit_mb=2048", "-print_final_stats=1", f"-artifact_prefix={folder}/"]
    command = [str(program), *run, *arguments.options, *corpora]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
