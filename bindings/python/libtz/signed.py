"""The digest of a source that is pinned by a signature."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from libtz.bundle import BUNDLE_SIZE_MAX, KEY_SIZE_MAX, signed_files
from libtz.errors import FormatError, IntegrityError, OptionError, SourceError
from libtz.fields import options_or_default
from libtz.locations import Location
from libtz.manifest import MANIFEST_NAME, MANIFEST_SIZE_MAX, MANIFEST_SUFFIX, Manifest
from libtz.options import ReadOptions

__all__ = ["PIN_SUFFIX", "pinned_digest", "signed_digest"]

PIN_SUFFIX = ".pin"
PIN_SIZE_MAX = 16 << 10

_PIN = re.compile(rb"(blake3:[0-9a-f]{64})\n")


def signed_digest(
    source: str | os.PathLike[str],
    *,
    signature: str | os.PathLike[str],
    public_key: str | os.PathLike[str] | bytes,
    options: ReadOptions | None = None,
) -> str:
    """Checks a signature, and returns the signed digest to load `source` with.

    `source` and `signature` are paths or URLs. `signature` is a bundle written by `model_signing
    sign key`; `public_key` is the path of the key in PEM, or its bytes. The bundle must list one
    file by its name:

    - for a folder or the manifest of a set: the manifest, `model.tz-set`;
    - for a .tz file: its pin, `NAME.tz.pin`, which must be next to the file;
    - for any other file: the file itself, whose SHA-256 is then the digest.

    Raises IntegrityError if another key signed the bundle, if it does not list the file, or if the
    manifest or pin was changed; FormatError if one of the three is malformed; OptionError for other
    types of keys and signatures; and SourceError if something cannot be read.
    """
    options = options_or_default(options, ReadOptions)
    return _signed(Location.of(source), Location.of(signature), public_key, options)


def _signed(
    location: Location,
    bundle_at: Location,
    public_key: str | os.PathLike[str] | bytes,
    options: ReadOptions,
) -> str:
    bundle = bundle_at.read(options, size_max=BUNDLE_SIZE_MAX)
    files = signed_files(bundle, _key_bytes(public_key), str(bundle_at))
    if location.is_folder() or location.name.endswith(MANIFEST_SUFFIX):
        if not location.name.endswith(MANIFEST_SUFFIX):
            location = location.folder().sibling(MANIFEST_NAME)
        data = _read_signed(location, files, bundle_at, options, MANIFEST_SIZE_MAX)
        return Manifest.parse(data, str(location)).digest
    if not location.name.endswith(".tz"):
        return f"sha256:{_listed(location.name, files, bundle_at)}"
    location = location.sibling(location.name + PIN_SUFFIX)
    return _parsed_pin(_read_signed(location, files, bundle_at, options, PIN_SIZE_MAX), location)


def pinned_digest(
    source: Any,
    digest: str | None,
    signature: str | os.PathLike[str] | None,
    public_key: str | os.PathLike[str] | bytes | None,
    options: ReadOptions,
) -> str | None:
    """The digest that pins a source: the given one, or the one covered by a signature."""
    if signature is None and public_key is None:
        return digest
    if signature is None or public_key is None:
        raise OptionError("pass both a signature and a public key, or neither")
    if digest is not None:
        raise OptionError("a digest cannot be combined with a signature; pass one of them")
    if not isinstance(source, (str, os.PathLike, Location)):
        raise OptionError("a signature covers files by name, so the source must be a path or URL")
    return _signed(Location.of(source), Location.of(signature), public_key, options)


def _key_bytes(public_key: str | os.PathLike[str] | bytes) -> bytes:
    if isinstance(public_key, bytes):
        return public_key
    if "-----BEGIN" in os.fspath(public_key):  # messages would show it, and it may be private
        raise OptionError("the public key must be a path, or the key itself as bytes")
    try:
        with Path(public_key).open("rb") as file:
            return file.read(KEY_SIZE_MAX)
    except OSError as error:
        raise SourceError(
            f"the public key {os.fspath(public_key)} cannot be read: {error.strerror}",
            url=os.fspath(public_key),
            errno=error.errno,
        ) from None


def _listed(name: str, files: dict[str, str], bundle_at: Location) -> str:
    """The SHA-256 of a signed file."""
    if name not in files:
        advice = (
            f"; before signing, write it with `tz digest --{_FLAGS[Path(name).suffix]}`"
            if Path(name).suffix in _FLAGS
            else ""
        )
        raise IntegrityError(
            f"{bundle_at}: the signature does not cover {name!r}{advice}", code="signature"
        )
    return files[name]


_FLAGS = {MANIFEST_SUFFIX: "set", PIN_SUFFIX: "pin"}


def _read_signed(
    location: Location,
    files: dict[str, str],
    bundle_at: Location,
    options: ReadOptions,
    size_max: int,
) -> bytes:
    """The contents of a small file, compared with the signed SHA-256."""
    expected = _listed(location.name, files, bundle_at)
    data = location.read(options, size_max=size_max)
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise IntegrityError.wrong_pin(str(location), f"sha256:{expected}", f"sha256:{found}")
    return data


def _parsed_pin(data: bytes, location: Location) -> str:
    match = _PIN.fullmatch(data)
    if match is None:
        raise FormatError(
            f"{location}: a pin is one line, the digest of a .tz file", code="bad-signature"
        )
    return match[1].decode("ascii")
