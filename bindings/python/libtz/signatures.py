"""Digests from signed files.

    digest = libtz.signatures.signed_digest(
        "https://host/llama/", signature="https://host/llama/model.sig", public_key="signer.pub"
    )
    model = load_pretrained(LlamaForCausalLM, "https://host/llama/", digest=digest)

The publisher of a model writes its digest into a small file next to it, and signs that file with
the OpenSSF tool `model_signing`. For a folder, the file is the manifest, written by
`tz digest --set`; for a .tz file, it is a pin, written by `tz digest --pin`. Neither signing nor
checking the signature reads the weights: libtz compares them with the digest while it loads them.
See docs/SIGNING.md.

A signature shows who published the files, but not which version is the newest.
"""

from __future__ import annotations

import os

from libtz.arrays.base import BufferFramework
from libtz.errors import FormatError
from libtz.fields import options_or_default
from libtz.locations import Location
from libtz.opening import open_as
from libtz.options import ReadOptions
from libtz.signed import PIN_SUFFIX, signed_digest

__all__ = ["signed_digest", "write_pin"]


def write_pin(source: str | os.PathLike[str], *, options: ReadOptions | None = None) -> str:
    """Writes the digest of a .tz file into `NAME.tz.pin`, next to the file. Returns the digest.

    `source` is a path or an s3:// URL. Only the header is read; the data is not compared with the
    digest. Raises FormatError if it is not a .tz file, and SourceError if it cannot be read or the
    pin cannot be written.
    """
    options = options_or_default(options, ReadOptions)
    location = Location.of(source)
    with open_as(BufferFramework(), location, options=options) as file:
        digest = file.digest
    if digest is None or location.is_folder():
        raise FormatError(f"{location} is not a .tz file, so it has no digest", code="not-tz")
    location.sibling(location.name + PIN_SUFFIX).write(f"{digest}\n".encode("ascii"), options)
    return digest
