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

__all__ = ["DecryptionParams", "EncryptionParams"]

# Bounds of libsodium's Argon2id.
OPSLIMIT_MAX = (1 << 32) - 1
MEMLIMIT_MAX = 4398046510080


class _OpsLimit(IntEnum):
    """Passes over the memory; libsodium's levels."""

    MIN = 1
    INTERACTIVE = 2
    MODERATE = 3
    SENSITIVE = 4


class _MemLimit(IntEnum):
    """Bytes of memory that making the key takes; libsodium's levels."""

    MIN = 8 << 10
    INTERACTIVE = 64 << 20
    MODERATE = 256 << 20
    SENSITIVE = 1 << 30


@dataclass(init=False)
class EncryptionParams:
    """A key for a TensorSerializer: 32 bytes of the caller's, `random()`, or `from_string()`."""

    OpsLimit = _OpsLimit
    MemLimit = _MemLimit

    key: bytes = field(repr=False)
    _derivation: PasswordHash | None = field(repr=False)

    def __init__(self, key: bytes) -> None:
        if not isinstance(key, (bytes, bytearray, memoryview)):
            raise TypeOptionError(
                "key is 32 secret random bytes; EncryptionParams.from_string() makes some from text"
            )
        self.key = _checked_key(key)
        self._derivation = None

    @classmethod
    def random(cls) -> EncryptionParams:
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
        """A key from a password, by Argon2id; its cost and the salt are stored in the file. They
        default to libsodium's MODERATE, and to a random one. A salt has 16 bytes."""
        password = _password(source, encoding)
        if isinstance(opslimit, _MemLimit) or not isinstance(opslimit, (int, type(None))):
            raise TypeOptionError(f"opslimit is an OpsLimit or an int, not {opslimit!r}")
        if isinstance(memlimit, _OpsLimit) or not isinstance(memlimit, (int, type(None))):
            raise TypeOptionError(f"memlimit is a MemLimit or an int, not {memlimit!r}")
        opslimit = _OpsLimit.MODERATE if opslimit is None else opslimit
        memlimit = _MemLimit.MODERATE if memlimit is None else memlimit
        if not _OpsLimit.MIN <= opslimit <= OPSLIMIT_MAX:
            raise ValueOptionError(f"opslimit is from 1 to {OPSLIMIT_MAX}; got {opslimit}")
        if not _MemLimit.MIN <= memlimit <= MEMLIMIT_MAX:
            raise ValueOptionError(f"memlimit is from 8192 to {MEMLIMIT_MAX}; got {memlimit}")
        derivation = PasswordHash(int(opslimit), int(memlimit), _salt(salt, encoding))
        with translated():
            params = cls(derivation.key(password))
        params._derivation = derivation
        return params

    @property
    def salt(self) -> bytes:
        """Of a key made from a password. It is no secret, and stored in the file."""
        if self._derivation is None:
            raise ValueOptionError("a key that was not made from a password has no salt")
        return self._derivation.salt

    def _sealing_key(self) -> SealingKey:
        with translated():
            sodium.require()
        return SealingKey(self.key, self._derivation)


@dataclass(init=False)
class DecryptionParams:
    """A key or password for a TensorDeserializer; see the two class methods."""

    key: bytes | None = field(repr=False)
    source: bytes | None = field(repr=False)

    def __init__(self) -> None:
        self.key = None
        self.source = None

    @classmethod
    def from_string(cls, source: str | bytes, *, encoding: str = "utf-8") -> DecryptionParams:
        """What was given to `EncryptionParams.from_string`; the file has what else is needed."""
        params = cls()
        params.source = _password(source, encoding)
        return params

    @classmethod
    def from_key(cls, key: bytes) -> DecryptionParams:
        """What `EncryptionParams.key` is."""
        params = cls()
        params.key = _checked_key(key)
        return params


def _password(source: str | bytes, encoding: str) -> bytes:
    if not isinstance(source, (str, bytes)):
        raise TypeOptionError(f"source is str or bytes, not {type(source).__name__}")
    if not source:
        raise ValueOptionError("source is empty")
    return source.encode(encoding) if isinstance(source, str) else source


def _checked_key(key: bytes) -> bytes:
    if len(key) != KEY_SIZE:
        raise ValueOptionError(
            f"a key has {KEY_SIZE} bytes, this has {len(key)}; from_string() takes text"
        )
    return bytes(key)


def _salt(salt: str | bytes | None, encoding: str) -> bytes:
    if salt is None:
        return secrets.token_bytes(SALT_SIZE)
    if not isinstance(salt, (str, bytes, bytearray, memoryview)):
        raise TypeOptionError(f"salt is str or bytes, not {type(salt).__name__}")
    salt = salt.encode(encoding) if isinstance(salt, str) else bytes(salt)
    if len(salt) != SALT_SIZE:
        raise ValueOptionError(f"a salt has {SALT_SIZE} bytes, this has {len(salt)}")
    return salt
