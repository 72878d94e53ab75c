"""`tz digest`: prints the digest that pins a file or a set of files."""

from __future__ import annotations

import argparse
import hashlib
from typing import Any

from libtz import opening, sets, signatures
from libtz.arrays.base import BufferFramework
from libtz.checkpoint.file import File
from libtz.cli.options import add_command, add_options, make_options
from libtz.cli.output import print_json
from libtz.errors import OptionError
from libtz.locations import Location, resolve_source
from libtz.manifest import MANIFEST_NAME
from libtz.options import ReadOptions
from libtz.pinned import is_manifest
from libtz.sources.url import redacted
from libtz.transfer.progress import Progress

__all__ = ["add_to", "sha256_of"]

DESCRIPTION = """\
Print the digest that pins a file, or a model's folder. A load with this digest gives exactly these
tensors or an error, whatever server, cache or mirror they come from.

  tz digest model.tz
  tz digest --pin model.tz      print the digest, and write it to model.tz.pin
  tz digest --set llama/        write llama/model.tz-set, and print the digest of the set
  python -c 'libtz.torch.load_file("https://host/model.tz", digest="blake3:...")'

For a .tz file, only the header is read. It says what the file should hold; 'tz verify' checks that
it does. A file in another format is read completely, and its SHA-256 is printed. '--content' prints
a digest of names, types, shapes and values, which does not depend on compression and chunk size.

A set is a folder with all its files, configuration and tokenizer included; its manifest lists them
with their digests. For a folder, the digest of its manifest is printed; 'tz verify' compares the
files with it. If there is no manifest, it is the digest of the one that '--set' would write.
"""

BUFFER_SIZE = 4 * 1024 * 1024


def add_to(commands: Any) -> None:
    parser = add_command(commands, "digest", "print the digest that pins a file", DESCRIPTION, run)
    parser.add_argument("source", metavar="FILE", help="path or URL, also of a folder")
    parser.add_argument(
        "--set",
        action="store_true",
        help=f"write {MANIFEST_NAME}, the manifest of the folder, into it, even if there is one",
    )
    parser.add_argument(
        "--pin",
        action="store_true",
        help="write the digest of a .tz file to FILE.pin, to be signed",
    )
    parser.add_argument("--content", action="store_true", help="print the content digest instead")
    parser.add_argument("--json", action="store_true", help="print both, as JSON")
    add_options(parser, ReadOptions, loads=False, writes=True)


def run(arguments: argparse.Namespace) -> None:
    options = make_options(ReadOptions, arguments)
    location = Location.of(arguments.source)
    digest: str | None
    content_digest: str | None = None
    if arguments.set and arguments.pin:
        raise OptionError("--set is for a folder, --pin for a file; give one of them")
    if arguments.pin:
        digest = signatures.write_pin(arguments.source, options=options)
    elif arguments.set:
        digest = sets.write_manifest(arguments.source, options=options)
    elif location.is_folder() or is_manifest(location):
        digest = sets.digest(arguments.source, options=options)
    else:
        digest, content_digest = _of_file(arguments, options)
    if arguments.json:
        print_json({"digest": digest, "content_digest": content_digest})
    elif arguments.content:
        print(content_digest or "none: only .tz files have one")
    else:
        print(digest)


def _of_file(arguments: argparse.Namespace, options: ReadOptions) -> tuple[str | None, str | None]:
    with opening.open_as(BufferFramework(), arguments.source, options=options) as file:
        digest, content_digest = file.digest, file.content_digest
        if not isinstance(file, File):
            raise OptionError(
                f"{redacted(arguments.source)} is the index of a set; give its folder instead"
            )
    if digest is None and not arguments.content:
        digest = sha256_of(arguments.source, options)
    return digest, content_digest


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
