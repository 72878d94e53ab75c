"""Digests that a signature vouches for.

    digest = libtz.signatures.signed_digest(
        "https://host/llama/", signature="https://host/llama/model.sig", public_key="signer.pub"
    )
    model = load_pretrained(LlamaForCausalLM, "https://host/llama/", digest=digest)

Whoever publishes a model writes its digest into a small file beside it, and signs that with the
OpenSSF tool `model_signing`: a folder's manifest, which `tz digest --set` writes, or a file's pin,
which `tz digest --pin` writes. The weights need not be read for that, neither to sign nor to check:
libtz compares them with the digest while it loads them. See docs/SIGNING.md.

A signature says who published the files, not which version of them is the newest.
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
    """Writes `NAME.tz.pin`, which holds the digest of a .tz file, beside it; returns the digest.

    `source` is a path or an s3:// URL. Only the header is read: the digest says what the file
    should hold. Raises FormatError if it is not a .tz file, and SourceError if it cannot be read or
    the pin cannot be written.
    """
    options = options_or_default(options, ReadOptions)
    location = Location.of(source)
    with open_as(BufferFramework(), location, options=options) as file:
        digest = file.digest
    if digest is None or location.is_folder():
        raise FormatError(f"{location} is not a .tz file, which has a digest", code="not-tz")
    location.sibling(location.name + PIN_SUFFIX).write(f"{digest}\n".encode("ascii"), options)
    return digest
