"""The cryptography of encrypted .tensors files: XSalsa20-Poly1305 over pieces of a tensor, and
Argon2id for keys made from passphrases. Both are PyNaCl's, which is imported when a key is used.
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
    """A piece was not sealed with this key and nonce, or it was changed."""


def require() -> tuple[Any, Any]:
    """PyNaCl's functions and its exceptions; an OptionError where it is not installed."""
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
    """The tag, then as many bytes as `plain` has. `nonce` is that of the tensor's first piece."""
    bindings, _ = require()
    sealed: bytes = bindings.crypto_secretbox_easy(plain, _nonce(nonce, number), key)
    return sealed


def open_piece(tag: bytes, sealed: memoryview, nonce: bytes, number: int, key: bytes) -> bytes:
    """Raises WrongKeyError. Nothing is decrypted before the tag is found right."""
    bindings, exceptions = require()
    try:
        plain: bytes = bindings.crypto_secretbox_open(
            b"".join((tag, sealed)), _nonce(nonce, number), key
        )
    except exceptions.CryptoError:
        raise WrongKeyError from None
    return plain


def derive_key(passphrase: bytes, salt: bytes, opslimit: int, memlimit: int) -> bytes:
    """By Argon2id: `opslimit` passes over `memlimit` bytes of memory."""
    bindings, exceptions = require()
    algorithm = bindings.crypto_pwhash_ALG_ARGON2ID13
    try:
        key: bytes = bindings.crypto_pwhash_alg(
            KEY_SIZE, passphrase, salt, opslimit, memlimit, algorithm
        )
    except (exceptions.CryptoError, ValueError) as error:
        raise OptionError(
            f"no key can be derived by {opslimit} passes over {memlimit} bytes of memory: {error}"
        ) from None
    return key


def _nonce(first: bytes, number: int) -> bytes:
    value = int.from_bytes(first, "little") + number
    return (value % (1 << 8 * NONCE_SIZE)).to_bytes(NONCE_SIZE, "little")
