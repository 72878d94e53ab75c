"""`tz digest`: prints the digest that pins a file."""

from __future__ import annotations

import argparse
import hashlib
from typing import Any

from libtz import opening
from libtz.cli.options import add_command, add_options, make_options
from libtz.cli.output import print_json
from libtz.locations import resolve_source
from libtz.options import ReadOptions
from libtz.transfer.progress import Progress

__all__ = ["add_to", "sha256_of"]

DESCRIPTION = """\
Print the digest that pins a file. A load with this digest gives exactly these tensors or an error,
whatever server, cache or mirror the file comes from.

  tz digest model.tz
  python -c 'libtz.torch.load_file("https://host/model.tz", digest="blake3:...")'

For a .tz file, only the header is read. It says what the file should hold; 'tz verify' checks that
it does. A file in another format is read completely, and its SHA-256 is printed. '--content' prints
a digest of names, types, shapes and values, which does not depend on compression and chunk size.
"""

BUFFER_SIZE = 4 * 1024 * 1024


def add_to(commands: Any) -> None:
    parser = add_command(commands, "digest", "print the digest that pins a file", DESCRIPTION, run)
    parser.add_argument("source", metavar="FILE", help="path or URL")
    parser.add_argument("--content", action="store_true", help="print the content digest instead")
    parser.add_argument("--json", action="store_true", help="print both, as JSON")
    add_options(parser, ReadOptions, loads=False)


def run(arguments: argparse.Namespace) -> None:
    options = make_options(ReadOptions, arguments)
    with opening.open(arguments.source, options=options) as file:
        digest, content_digest = file.digest, file.content_digest
    if digest is None and not arguments.content:
        digest = sha256_of(arguments.source, options)
    if arguments.json:
        print_json({"digest": digest, "content_digest": content_digest})
    elif arguments.content:
        print(content_digest or "none: only .tz files have one")
    else:
        print(digest)


def sha256_of(source: Any, options: ReadOptions) -> str:
    """The SHA-256 digest of a whole file, in any format."""
    buffer = memoryview(bytearray(BUFFER_SIZE))
    resolved = resolve_source(source, options)
    try:
        filled = resolved.open(buffer)
        state = hashlib.sha256(buffer[:filled])
        progress = Progress(resolved.size, "hash", options.progress)
        try:
            for offset in range(filled, resolved.size, BUFFER_SIZE):
                part = buffer[: min(BUFFER_SIZE, resolved.size - offset)]
                resolved.read_into(offset, len(part), [part])
                state.update(part)
                progress.show(offset + len(part))
        finally:
            progress.close()
        resolved.check_unchanged()
    finally:
        resolved.close()
    return f"sha256:{state.hexdigest()}"
