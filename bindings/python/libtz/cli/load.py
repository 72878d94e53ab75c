"""`tz load`: loads a file as a program would, and prints how long it took."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import time
from typing import Any

from libtz import opening
from libtz.cli.options import add_command, add_digest, add_options, make_options
from libtz.cli.output import print_json, print_table, size_text
from libtz.options import ReadOptions

__all__ = ["add_to"]

DESCRIPTION = """\
Load all tensors of a file, discard them, and print how long it took.

  tz load model.tz
  tz load https://host/model.tz --device cuda:0 --connections-max 64
  tz load s3://bucket/model.tz --digest blake3:... --json
"""


def add_to(commands: Any) -> None:
    parser = add_command(commands, "load", "load a file and time it", DESCRIPTION, run)
    parser.add_argument("source", metavar="FILE", help="path or URL")
    parser.add_argument("--device", default="cpu", help="device to load to (default: cpu)")
    add_digest(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_options(parser, ReadOptions)


def run(arguments: argparse.Namespace) -> None:
    options = make_options(ReadOptions, arguments)
    if importlib.util.find_spec("torch") is not None:
        importlib.import_module("torch")  # takes seconds that are not part of the load
    begin = time.perf_counter()
    with opening.open(arguments.source, digest=arguments.digest, options=options) as file:
        open_s = time.perf_counter() - begin
        count = len(file.load(device=arguments.device))
        total_s = time.perf_counter() - begin
        stats, verified = file.stats, file.verified
    if arguments.json:
        report = {"tensors": count, "verified": verified, "open_s": open_s, "total_s": total_s}
        print_json(report | {"stats": dataclasses.asdict(stats)})
        return
    rate = size_text(stats.bytes_wanted / total_s)
    rows = [
        ("tensors", f"{count}, {size_text(stats.bytes_wanted)}"),
        ("time", f"{total_s:.3f} s, of which {open_s:.3f} s to open: {rate}/s"),
        ("read", f"{size_text(stats.bytes_read)} in {stats.requests} requests"),
        ("checked", {"none": "not at all", "pinned": "pinned digest"}.get(verified, verified)),
        ("path", stats.path),
        (
            "threads",
            f"{stats.threads}, {stats.connections} connections, {stats.retries} retries,"
            f" {stats.restarts} restarts",
        ),
        ("host memory", f"{size_text(stats.host_memory)} on top of the tensors"),
    ]
    print_table(rows)
