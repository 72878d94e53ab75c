"""Keys for encrypted .tensors files."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from enum import IntEnum

from libtz import sodium
from libtz.compat._errors import TypeOptionError, ValueOptionError
from libtz.compat.tensorizer._errors import translated
from libtz.sodium import KEY_SIZE, SALT_SIZE
from libtz.writing.coreweave_sealing import PasswordHash, SealingKey

__all__ = ["DecryptionParams", "EncryptionParams", "sealing_key"]

# Bounds of libsodium's Argon2id.
OPSLIMIT_MAX = (1 << 32) - 1
MEMLIMIT_MAX = 4398046510080


class _OpsLimit(IntEnum):
    """The number of passes over the memory; libsodium's levels."""

    MIN = 1
    INTERACTIVE = 2
    MODERATE = 3
    SENSITIVE = 4


class _MemLimit(IntEnum):
    """The memory in bytes that deriving the key takes; libsodium's levels."""

    MIN = 8 << 10
    INTERACTIVE = 64 << 20
    MODERATE = 256 << 20
    SENSITIVE = 1 << 30


@dataclass(init=False)
class EncryptionParams:
    """A key for a TensorSerializer: 32 bytes, or made by `random()` or `from_string()`. Raises
    TypeError and ValueError for an invalid key."""

    OpsLimit = _OpsLimit
    MemLimit = _MemLimit

    key: bytes = field(repr=False)
    _derivation: PasswordHash | None = field(repr=False)

    def __init__(self, key: bytes) -> None:
        if not isinstance(key, (bytes, bytearray, memoryview)):
            raise TypeOptionError(
                "key must be 32 secret random bytes; for a password, use"
                " EncryptionParams.from_string()"
            )
        self.key = _checked_key(key)
        self._derivation = None

    @classmethod
    def random(cls) -> EncryptionParams:
        """A new random key."""
        return cls(secrets.token_bytes(KEY_SIZE))

    @classmethod
    def from_string(
        cls,
        source: str | bytes,
        opslimit: int | None = None,
        memlimit: int | None = None,
        salt: str | bytes | None = None,
        *,
        encoding: str = "utf-8",
    ) -> EncryptionParams:
        """Derives a key from a password with Argon2id. The cost and the salt are stored in the
        file. The cost defaults to libsodium's MODERATE, and the salt, of 16 bytes, to a random
        one. Raises TypeError and ValueError."""
        password = _password(source, encoding)
        if isinstance(opslimit, _MemLimit) or not isinstance(opslimit, (int, type(None))):
            raise TypeOptionError(f"opslimit must be an OpsLimit or an int, not {opslimit!r}")
        if isinstance(memlimit, _OpsLimit) or not isinstance(memlimit, (int, type(None))):
            raise TypeOptionError(f"memlimit must be a MemLimit or an int, not {memlimit!r}")
        opslimit = _OpsLimit.MODERATE if opslimit is None else opslimit
        memlimit = _MemLimit.MODERATE if memlimit is None else memlimit
        if not _OpsLimit.MIN <= opslimit <= OPSLIMIT_MAX:
            raise ValueOptionError(f"opslimit must be from 1 to {OPSLIMIT_MAX}; got {opslimit}")
        if not _MemLimit.MIN <= memlimit <= MEMLIMIT_MAX:
            raise ValueOptionError(f"memlimit must be from 8192 to {MEMLIMIT_MAX}; got {memlimit}")
        derivation = PasswordHash(int(opslimit), int(memlimit), _salt(salt, encoding))
        with translated():
            params = cls(derivation.key(password))
        params._derivation = derivation
        return params

    @property
    def salt(self) -> bytes:
        """The salt of a key derived from a password. It is stored in the file and is not a secret.
        Raises ValueError for other keys."""
        if self._derivation is None:
            raise ValueOptionError("a key that was not derived from a password has no salt")
        return self._derivation.salt


def sealing_key(encryption: EncryptionParams) -> SealingKey:
    """The key for libtz's writer. Raises OptionError if PyNaCl is not installed."""
    with translated():
        sodium.require()
    return SealingKey(encryption.key, encryption._derivation)


@dataclass(init=False)
class DecryptionParams:
    """A key or password for a TensorDeserializer, made by one of the two class methods."""

    key: bytes | None = field(repr=False)
    source: bytes | None = field(repr=False)

    def __init__(self) -> None:
        self.key = None
        self.source = None

    @classmethod
    def from_string(cls, source: str | bytes, *, encoding: str = "utf-8") -> DecryptionParams:
        """The password that was passed to `EncryptionParams.from_string`. Salt and cost are in the
        file. Raises TypeError and ValueError."""
        params = cls()
        params.source = _password(source, encoding)
        return params

    @classmethod
    def from_key(cls, key: bytes) -> DecryptionParams:
        """The key of an `EncryptionParams`. Raises ValueError if it does not have 32 bytes."""
        params = cls()
        params.key = _checked_key(key)
        return params


def _password(source: str | bytes, encoding: str) -> bytes:
    if not isinstance(source, (str, bytes)):
        raise TypeOptionError(f"source must be str or bytes, not {type(source).__name__}")
    if not source:
        raise ValueOptionError("source is empty")
    return source.encode(encoding) if isinstance(source, str) else source


def _checked_key(key: bytes) -> bytes:
    if len(key) != KEY_SIZE:
        raise ValueOptionError(
            f"a key must have {KEY_SIZE} bytes, not {len(key)}; for a password, use from_string()"
        )
    return bytes(key)


def _salt(salt: str | bytes | None, encoding: str) -> bytes:
    if salt is None:
        return secrets.token_bytes(SALT_SIZE)
    if not isinstance(salt, (str, bytes, bytearray, memoryview)):
        raise TypeOptionError(f"salt must be str or bytes, not {type(salt).__name__}")
    salt = salt.encode(encoding) if isinstance(salt, str) else bytes(salt)
    if len(salt) != SALT_SIZE:
        raise ValueOptionError(f"a salt must have {SALT_SIZE} bytes, not {len(salt)}")
    return salt
