"""The cryptography of encrypted .tensors files: XSalsa20-Poly1305 over pieces of a tensor, and
Argon2id to derive keys from passphrases. Both come from PyNaCl, imported when a key is used.
"""

from __future__ import annotations

from typing import Any

from libtz.errors import OptionError

__all__ = [
    "KEY_SIZE",
    "NONCE_SIZE",
    "SALT_SIZE",
    "TAG_SIZE",
    "WrongKeyError",
    "derive_key",
    "open_piece",
    "require",
    "seal_piece",
]

KEY_SIZE = 32
NONCE_SIZE = 24
SALT_SIZE = 16
TAG_SIZE = 16


class WrongKeyError(Exception):
    """A piece was not encrypted with this key and nonce, or it was changed."""


def require() -> tuple[Any, Any]:
    """PyNaCl's functions and its exceptions. Raises OptionError if it is not installed."""
    try:
        import nacl.bindings
        import nacl.exceptions
    except ImportError:
        raise OptionError(
            "encrypted .tensors files need PyNaCl, which is not installed; run: pip install"
            " 'libtz[encryption]'"
        ) from None
    return nacl.bindings, nacl.exceptions


def seal_piece(plain: bytes, nonce: bytes, number: int, key: bytes) -> bytes:
    """Encrypts a piece. Returns the tag followed by the ciphertext, which is as long as `plain`.
    `nonce` is that of the tensor's first piece."""
    bindings, _ = require()
    sealed: bytes = bindings.crypto_secretbox_easy(plain, _nonce(nonce, number), key)
    return sealed


def open_piece(tag: bytes, sealed: memoryview, nonce: bytes, number: int, key: bytes) -> bytes:
    """Decrypts a piece. Raises WrongKeyError, before anything is decrypted, if the tag is wrong."""
    bindings, exceptions = require()
    try:
        plain: bytes = bindings.crypto_secretbox_open(
            b"".join((tag, sealed)), _nonce(nonce, number), key
        )
    except exceptions.CryptoError:
        raise WrongKeyError from None
    return plain


def derive_key(passphrase: bytes, salt: bytes, opslimit: int, memlimit: int) -> bytes:
    """Derives a key with Argon2id: `opslimit` passes over `memlimit` bytes of memory. Raises
    OptionError if that is not possible."""
    bindings, exceptions = require()
    algorithm = bindings.crypto_pwhash_ALG_ARGON2ID13
    try:
        key: bytes = bindings.crypto_pwhash_alg(
            KEY_SIZE, passphrase, salt, opslimit, memlimit, algorithm
        )
    except (exceptions.CryptoError, ValueError) as error:
        raise OptionError(
            f"a key cannot be derived with {opslimit} passes over {memlimit} bytes of memory:"
            f" {error}"
        ) from None
    return key


def _nonce(first: bytes, number: int) -> bytes:
    value = int.from_bytes(first, "little") + number
    return (value % (1 << 8 * NONCE_SIZE)).to_bytes(NONCE_SIZE, "little")
