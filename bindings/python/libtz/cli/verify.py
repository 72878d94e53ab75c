"""`tz verify`: reads a whole file and checks everything about it."""

from __future__ import annotations

import argparse
from typing import Any

from libtz import opening
from libtz.cli.digest import sha256_of
from libtz.cli.options import add_command, add_options, make_options
from libtz.errors import IntegrityError, OptionError
from libtz.options import ReadOptions
from libtz.sources.url import shown

__all__ = ["add_to", "verify"]

DESCRIPTION = """\
Read a whole file and check everything: the header, both checksums of every chunk, that each tensor
decodes to what was saved, and that nothing else is in the file. Of a .tensors file, the hashes of
every tensor.

  tz verify model.tz
  tz verify https://host/model.tz --digest blake3:...    is it also the file that I mean?
  tz verify model.tz --content                           fail unless there are content digests

Without a digest, damage is found, but a file that somebody made on purpose looks as good as any.
Formats without checksums can only be compared with the SHA-256 that 'tz digest' prints for them.
"""


def add_to(commands: Any) -> None:
    parser = add_command(commands, "verify", "check every byte of a file", DESCRIPTION, run)
    parser.add_argument("source", metavar="FILE", help="path or URL")
    parser.add_argument("--digest", help="the digest that the file must have")
    parser.add_argument(
        "--content",
        action="store_true",
        help="insist on what a tz file always gets: every tensor is decoded and compared with its"
        " content digest; formats without those are an error",
    )
    add_options(parser, ReadOptions, loads=False)


def run(arguments: argparse.Namespace) -> None:
    options = make_options(ReadOptions, arguments)
    is_whole = verify(arguments.source, arguments.digest, options, content=arguments.content)
    print("ok" if is_whole else "ok as far as it goes: there are no checksums of the data in it")


def verify(source: Any, digest: str | None, options: ReadOptions, *, content: bool = False) -> bool:
    """Raises what is wrong with the file; says whether all of it could be checked. With `content`,
    a format without content digests is an OptionError."""
    pin = digest if digest is None or digest.startswith("blake3:") else None
    with opening.open(source, digest=pin, options=options) as file:
        if file.format == "tz":
            if digest is not pin:
                raise OptionError(f"a tz file is pinned by its own digest, not by {digest!r}")
            file.verify()
            return True
        if content:
            raise OptionError(f"{file.format} files have no content digests to compare with")
        if file.format == "tensors":
            file.verify()
            if digest is None:
                return file.verified == "checksum"
    if digest is None:
        return False
    found = sha256_of(source, options)
    if found != digest:
        raise IntegrityError.wrong_pin(shown(source), digest, found)
    return True
