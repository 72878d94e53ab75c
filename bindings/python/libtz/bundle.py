"""Checks signature bundles that the OpenSSF tool `model_signing` writes with a key.

A bundle is JSON: a Sigstore bundle v0.3 with a DSSE envelope around an in-toto statement. The
predicate of the statement lists files with their SHA-256. Signatures are ECDSA on the curves P-256,
P-384 and P-521, each with the SHA-2 hash of its size.
https://github.com/sigstore/protobuf-specs, https://github.com/secure-systems-lab/dsse,
https://github.com/sigstore/model-transparency
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import Any

from libtz.errors import FormatError, IntegrityError, OptionError
from libtz.strict_json import parse_json

__all__ = ["BUNDLE_SIZE_MAX", "KEY_SIZE_MAX", "signed_files"]

BUNDLE_SIZE_MAX = 16 << 20
BUNDLE_ITEMS_MAX = 1 << 18
KEY_SIZE_MAX = 16 << 10

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"

# The name in the list if a single file was signed instead of a folder.
ITSELF = "."

_SHA256 = re.compile(r"[0-9a-f]{64}")

# The hash for each curve, by their names in `cryptography`.
_HASHES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}


def signed_files(bundle: bytes, public_key: bytes, where: str) -> dict[str, str]:
    """The SHA-256 of every signed file, in hexadecimal, by its name: a relative path with "/".

    `public_key` is in PEM. `where` names the bundle in messages. The payload is not parsed before
    its signature was verified. Raises IntegrityError if the key did not sign it, FormatError if it
    is malformed, and OptionError for other types of keys and bundles.
    """
    envelope = _Envelope(bundle, where)
    _check_signature(envelope, _load_key(public_key), where)
    statement = parse_json(envelope.payload, _broken(where), items_max=BUNDLE_ITEMS_MAX)
    return _files_of(statement, where)


class _Envelope:
    """A DSSE envelope with one signature."""

    def __init__(self, bundle: bytes, where: str) -> None:
        value = parse_json(bundle, _broken(where), items_max=BUNDLE_ITEMS_MAX)
        if (found := _at(value, where, str, "mediaType")) != BUNDLE_TYPE:
            raise _broken(where)(f"its mediaType is {found!r}, not {BUNDLE_TYPE}")
        if "publicKey" not in _at(value, where, dict, "verificationMaterial"):
            raise OptionError(
                f"{where} was signed with a certificate instead of a key, which libtz does not"
                " support; verify it with model_signing, and pass the signed digest"
            )
        if (found := _at(value, where, str, "dsseEnvelope", "payloadType")) != PAYLOAD_TYPE:
            raise _broken(where)(f"its payloadType is {found!r}, not {PAYLOAD_TYPE}")
        signatures = _at(value, where, list, "dsseEnvelope", "signatures")
        if len(signatures) != 1:
            raise _broken(where)(f"it has {len(signatures)} signatures instead of one")
        self.payload = _decoded(_at(value, where, str, "dsseEnvelope", "payload"), where)
        self.signature = _decoded(_at(signatures[0], where, str, "sig"), where)

    def signed_bytes(self) -> bytes:
        """The bytes that were signed: the pre-authentication encoding of DSSE 1.0."""
        sizes = f"DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} {len(self.payload)} "
        return sizes.encode("ascii") + self.payload


def _files_of(statement: Any, where: str) -> dict[str, str]:
    for key, expected in (("_type", STATEMENT_TYPE), ("predicateType", PREDICATE_TYPE)):
        if (found := _at(statement, where, str, key)) != expected:
            raise _broken(where)(f"its {key} is {found!r}, not {expected}")
    subjects = _at(statement, where, list, "subject")
    if len(subjects) != 1:
        raise _broken(where)(f"it has {len(subjects)} subjects instead of one")
    files: dict[str, str] = {}
    for resource in _at(statement, where, list, "predicate", "resources"):
        name, digest = _at(resource, where, str, "name"), _at(resource, where, str, "digest")
        if (algorithm := _at(resource, where, str, "algorithm")) != "sha256":
            raise OptionError(
                f"{where} lists {name!r} with a {algorithm} hash; sign whole files, with hash type"
                " sha256"
            )
        if not _SHA256.fullmatch(digest):
            raise _broken(where)(f"the digest of {name!r} is not a SHA-256")
        if name in files:
            raise _broken(where)(f"it lists {name!r} twice")
        files[name] = digest
    all_digests = hashlib.sha256(bytes.fromhex("".join(files.values()))).hexdigest()
    if _at(subjects[0], where, str, "digest", "sha256") != all_digests:
        raise _broken(where)("the digest of its subject does not match the listed files")
    if list(files) == [ITSELF]:
        return {_at(subjects[0], where, str, "name"): files[ITSELF]}
    return files


# ---- Keys ----------------------------------------------------------------------------------------


def _load_key(pem: bytes) -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError:
        raise OptionError(
            "signatures need another package: pip install libtz[signatures]"
        ) from None
    try:
        key = load_pem_public_key(pem)
    except Exception:  # the message could contain the key, which might be private
        raise OptionError("the public key is not one in PEM") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _HASHES:
        raise OptionError("the public key is not an elliptic-curve key on P-256, P-384 or P-521")
    return key


def _check_signature(envelope: _Envelope, key: Any, where: str) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    algorithm = ec.ECDSA(getattr(hashes, _HASHES[key.curve.name])())
    try:
        key.verify(envelope.signature, envelope.signed_bytes(), algorithm)
    except InvalidSignature:
        raise IntegrityError(
            f"{where}: the signature is not by this public key, or the signed data was changed",
            code="signature",
        ) from None


# ---- JSON ----------------------------------------------------------------------------------------


def _broken(where: str) -> Any:
    def error(reason: str) -> FormatError:
        return FormatError(f"{where}: not a signature bundle: {reason}", code="bad-signature")

    return error


def _at(value: Any, where: str, expected: type, *path: str) -> Any:
    """The member of nested objects at a path, which must be of this type."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, expected):
        raise _broken(where)(f"{'.'.join(path)} is missing, or has the wrong type")
    return value


def _decoded(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _broken(where)("it contains malformed Base64") from None
