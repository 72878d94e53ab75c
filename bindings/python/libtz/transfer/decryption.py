"""Decrypts tensors of .tensors files, in place: XSalsa20-Poly1305 in pieces, as NaCl's secretbox.

Needs the library PyNaCl (the extra `encryption`), imported where a key is used. A piece is
authenticated before its plain bytes are put where the encrypted ones were.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from libtz._native.records import TAG_SIZE, Cipher, Derivation, Record
from libtz.errors import IntegrityError, OptionError
from libtz.options import KEY_SIZE, DecryptionOptions

__all__ = ["Decryption"]


class Decryption:
    """The key of one file. `decrypt` may be called by many threads at once."""

    def __init__(self, options: DecryptionOptions, label: str) -> None:
        """`label` is the file's, for messages."""
        self._options = options
        self._label = label
        self._sodium = _bindings()
        self._lock = threading.Lock()
        self._derivation: Derivation | None = None
        self._key: bytes | None = options.key
        if options.key_file is not None:
            self._key = _read(options.key_file)
            if len(self._key) != KEY_SIZE:
                raise OptionError(f"{options.key_file} must hold a key: {KEY_SIZE} bytes")

    def decrypt(self, record: Record, data: memoryview, name: str) -> None:
        """Replaces the tensor's bytes by the plain ones."""
        cipher = record.cipher
        if cipher is None:
            return  # tensors without data; parse_record() refuses others
        key = self._key_for(record.derivation, name)
        nonce = int.from_bytes(cipher.nonce, "little")
        for number in range(len(cipher.tags) // TAG_SIZE):
            begin = number * cipher.chunk_size
            piece = data[begin : begin + cipher.chunk_size]
            place = ((nonce + number) % (1 << 192)).to_bytes(24, "little")
            piece[:] = self._open(cipher, number, piece, place, key, name)

    def _open(
        self,
        cipher: Cipher,
        number: int,
        piece: memoryview,
        nonce: bytes,
        key: bytes,
        name: str,
    ) -> bytes:
        tag = cipher.tags[number * TAG_SIZE : (number + 1) * TAG_SIZE]
        try:
            plain: bytes = self._sodium.crypto_secretbox_open(b"".join((tag, piece)), nonce, key)
        except self._sodium.CryptoError:
            raise IntegrityError(
                f"{self._label}, tensor {name!r}, piece {number}: it cannot be decrypted: the key"
                " is another one, or the file was changed",
                tensor=name,
                chunk=number,
            ) from None
        return plain

    def _key_for(self, derivation: Derivation | None, name: str) -> bytes:
        """The key itself, or, once for a file, what the passphrase gives."""
        if self._options.key is not None or self._options.key_file is not None:
            if self._key is None:
                raise RuntimeError("the key was not read")
            return self._key
        if derivation is None:
            raise OptionError(
                f"{self._label}: the key of this file is no passphrase; give it as"
                " DecryptionOptions.key or key_file"
            )
        with self._lock:
            if self._key is None:
                self._key = self._derive(derivation)
                self._derivation = derivation
        if derivation != self._derivation:
            # Else a file could ask for the whole cost once for each tensor.
            raise IntegrityError(
                f"{self._label}, tensor {name!r}: its key is derived in another way than that of"
                " the tensors before",
                tensor=name,
            )
        return self._key

    def _derive(self, derivation: Derivation) -> bytes:
        options = self._options
        if derivation.opslimit > options.operations_max or derivation.memlimit > options.memory_max:
            raise OptionError(
                f"{self._label}: deriving its key takes {derivation.opslimit} passes over"
                f" {derivation.memlimit} bytes of memory, more than DecryptionOptions allows"
                f" (operations_max {options.operations_max}, memory_max {options.memory_max})"
            )
        passphrase = options.passphrase
        if options.passphrase_file is not None:
            passphrase = _read(options.passphrase_file).removesuffix(b"\n").removesuffix(b"\r")
        secret = passphrase.encode() if isinstance(passphrase, str) else passphrase
        try:
            key: bytes = self._sodium.crypto_pwhash_alg(
                KEY_SIZE,
                secret,
                derivation.salt,
                derivation.opslimit,
                derivation.memlimit,
                self._sodium.crypto_pwhash_ALG_ARGON2ID13,
            )
        except (self._sodium.CryptoError, ValueError) as error:
            raise OptionError(
                f"{self._label}: no key can be derived as the file asks for"
                f" ({derivation.opslimit} passes, {derivation.memlimit} bytes): {error}"
            ) from None
        return key


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise OptionError(f"{path} cannot be read: {error.strerror}") from None


class _Sodium:
    """What is used of PyNaCl."""

    def __init__(self) -> None:
        import nacl.bindings
        import nacl.exceptions

        self.crypto_secretbox_open: Any = nacl.bindings.crypto_secretbox_open
        self.crypto_pwhash_alg: Any = nacl.bindings.crypto_pwhash_alg
        self.crypto_pwhash_ALG_ARGON2ID13 = nacl.bindings.crypto_pwhash_ALG_ARGON2ID13
        self.CryptoError = nacl.exceptions.CryptoError


def _bindings() -> _Sodium:
    try:
        return _Sodium()
    except ImportError as error:
        raise OptionError("encrypted files need PyNaCl: pip install 'libtz[encryption]'") from error
