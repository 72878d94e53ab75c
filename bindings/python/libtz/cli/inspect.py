"""`tz inspect`: lists what is in a file. Reads only the header."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from libtz import opening
from libtz.arrays.base import BufferFramework
from libtz.checkpoint.base import Checkpoint
from libtz.cli.options import add_command, add_digest, add_options, make_options
from libtz.cli.output import print_json, print_line, print_table, size_text
from libtz.options import ReadOptions

__all__ = ["add_to"]

DESCRIPTION = """\
List a file's tensors and metadata. Only the header is read, even over the network.

  tz inspect model.tz
  tz inspect s3://bucket/model.tz --s3-endpoint http://127.0.0.1:8333
  tz inspect model.tz --json | jq '.tensors[] | select(.dtype == "bf16") | .name'
"""


def add_to(commands: Any) -> None:
    parser = add_command(commands, "inspect", "list tensors and metadata", DESCRIPTION, run)
    parser.add_argument("source", metavar="FILE", help="path or URL")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_digest(parser)
    add_options(parser, ReadOptions, loads=False)


def run(arguments: argparse.Namespace) -> None:
    options = make_options(ReadOptions, arguments)
    with opening.open_as(
        BufferFramework(), arguments.source, digest=arguments.digest, options=options
    ) as file:
        if arguments.json:
            print_json(_description(file))
        else:
            _print(file)


def _description(file: Checkpoint[Any]) -> dict[str, Any]:
    return {
        "format": file.format,
        "digest": file.digest,
        "content_digest": file.content_digest,
        "metadata": dict(file.metadata),
        "is_nested": bool(file.structure()),
        "tensors": [dataclasses.asdict(file.info(name)) for name in file],
    }


def _print(file: Checkpoint[Any]) -> None:
    infos = [file.info(name) for name in file]
    rows = [("NAME", "DTYPE", "SHAPE", "SIZE", "STORED")]
    for info in infos:
        stored = size_text(info.stored_nbytes)
        if info.tied_to is not None:
            stored = f"tied to {info.tied_to}"
        shape = "x".join(map(str, info.shape)) or "scalar"
        rows.append((info.name, info.dtype, shape, size_text(info.nbytes), stored))
    if infos:
        print_table(rows, right=frozenset({3}))
        print()
    for key, value in file.metadata.items():
        print_line(f"metadata        {key} = {value}")
    total = sum(info.nbytes for info in infos if info.tied_to is None)
    nested = ", in a nested object" if file.structure() else ""
    print_line(f"format          {file.format}, {len(infos)} tensors{nested}, {size_text(total)}")
    if file.digest is not None:
        print_line(f"digest          {file.digest}")
        print_line(f"content digest  {file.content_digest}")
