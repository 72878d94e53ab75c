"""`tz verify`: reads a whole file and checks every part of it."""

from __future__ import annotations

import argparse
from typing import Any

from libtz import opening, sets
from libtz.arrays.base import BufferFramework
from libtz.checkpoint.base import Checkpoint
from libtz.cli.options import add_command, add_digest, add_options, make_options
from libtz.errors import (
    OptionError,
    SourceNotFoundError,
    SourcePermissionError,
)
from libtz.locations import Location
from libtz.options import ReadOptions
from libtz.pinned import is_manifest, open_manifest
from libtz.signed import pinned_digest

__all__ = ["add_to", "verify"]

DESCRIPTION = """\
Read a whole file and check everything: the header, both checksums of every chunk, that each tensor
decodes to what was saved, and that the file holds nothing else. In a .tensors file, the hashes of
every tensor are checked.

  tz verify model.tz
  tz verify https://host/model.tz --digest blake3:...    is it also the right file?
  tz verify model.tz --signature model.sig --public-key signer.pub
  tz verify model.tz --content                           fail unless there are content digests
  tz verify llama/ --digest blake3:...                   every file that the manifest lists

Without --digest, damage is found, but not a deliberately forged file. A file in a format without
checksums can only be compared with the SHA-256 that 'tz digest' prints.
"""


def add_to(commands: Any) -> None:
    parser = add_command(commands, "verify", "check every byte of a file", DESCRIPTION, run)
    parser.add_argument("source", metavar="FILE", help="path or URL")
    add_digest(parser)
    parser.add_argument(
        "--signature",
        metavar="FILE",
        help="bundle by model_signing that covers the file; needs --public-key",
    )
    parser.add_argument("--public-key", metavar="FILE", help="the signer's public key, in PEM")
    parser.add_argument(
        "--content",
        action="store_true",
        help="require that every tensor is decoded and compared with its content digest, which is"
        " always done for tz files; formats without content digests are an error",
    )
    add_options(parser, ReadOptions, loads=False)


def run(arguments: argparse.Namespace) -> None:
    options = make_options(ReadOptions, arguments)
    digest = _pin(arguments, options)
    is_whole = verify(arguments.source, digest, options, content=arguments.content)
    print("ok" if is_whole else "ok (structure only: the file stores no checksums of its data)")


def _pin(arguments: argparse.Namespace, options: ReadOptions) -> str | None:
    """The digest that was given, or that the signature covers."""
    signature, public_key = arguments.signature, arguments.public_key
    if (signature is None) != (public_key is None):
        raise OptionError("pass both --signature and --public-key, or neither")
    if signature is not None and arguments.digest is not None:
        raise OptionError("--digest cannot be combined with --signature; pass one of them")
    return pinned_digest(arguments.source, arguments.digest, signature, public_key, options)


def verify(source: Any, digest: str | None, options: ReadOptions, *, content: bool = False) -> bool:
    """Raises an error if the file is wrong. Returns whether all of its data could be checked. With
    `content`, a format without content digests is an OptionError."""
    if _is_set(source, digest, options):
        if content:
            with opening.open_as(BufferFramework(), source, digest=digest, options=options) as file:
                _require_content(file)
        sets.verify(source, digest=digest, options=options)
        return True
    with opening.open_as(BufferFramework(), source, digest=digest, options=options) as file:
        if content:
            _require_content(file)
        if file.format == "safetensors" and digest is None:
            return False
        file.verify()
        return file.format == "tz" or file.verified != "none"


def _require_content(file: Checkpoint[Any]) -> None:
    if file.format != "tz":
        raise OptionError(f"{file.format} files have no content digests to compare with")


def _is_set(source: Any, digest: str | None, options: ReadOptions) -> bool:
    """Whether it is a manifest, or a folder with one, which must have the digest."""
    location = Location.of(source)
    if is_manifest(location):
        return True
    if not location.is_folder() or (digest is not None and not digest.startswith("blake3:")):
        return False
    try:
        open_manifest(location, options, digest=digest)
    except (SourceNotFoundError, SourcePermissionError):
        return False
    return True
