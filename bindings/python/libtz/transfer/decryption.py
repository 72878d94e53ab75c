"""Decrypts tensors of .tensors files in place: XSalsa20-Poly1305 in pieces, as NaCl's secretbox.

A piece is authenticated before its plaintext replaces the ciphertext.
"""

from __future__ import annotations

import threading
from pathlib import Path

from libtz import sodium
from libtz._native.records import Cipher, Derivation, Record
from libtz.errors import DecryptionError, DecryptionOptionError, OptionError
from libtz.options import DecryptionOptions
from libtz.sodium import KEY_SIZE, TAG_SIZE, WrongKeyError

__all__ = ["Decryption"]


class Decryption:
    """The key of one file. `decrypt` is thread-safe."""

    def __init__(self, options: DecryptionOptions, label: str) -> None:
        """`label` names the file in messages."""
        self._options = options
        self._label = label
        sodium.require()
        self._lock = threading.Lock()
        self._derivation: Derivation | None = None
        self._key: bytes | None = options.key
        if options.key_file is not None:
            self._key = _read(options.key_file)
            if len(self._key) != KEY_SIZE:
                raise OptionError(f"{options.key_file} must hold a key of {KEY_SIZE} bytes")

    def decrypt(self, record: Record, data: memoryview, name: str) -> None:
        """Replaces the tensor's bytes by the plaintext."""
        cipher = record.cipher
        if cipher is None:
            return  # the tensor has no data; parse_record() refuses others
        key = self._key_for(record.derivation, name)
        for number in range(len(cipher.tags) // TAG_SIZE):
            begin = number * cipher.chunk_size
            piece = data[begin : begin + cipher.chunk_size]
            piece[:] = self._open(cipher, number, piece, key, name)

    def _open(self, cipher: Cipher, number: int, piece: memoryview, key: bytes, name: str) -> bytes:
        tag = cipher.tags[number * TAG_SIZE : (number + 1) * TAG_SIZE]
        try:
            return sodium.open_piece(tag, piece, cipher.nonce, number, key)
        except WrongKeyError:
            raise DecryptionError(
                f"{self._label}, tensor {name!r}, piece {number}: it cannot be decrypted: the key"
                " is wrong, or the file was changed",
                code="decryption",
                tensor=name,
                chunk=number,
            ) from None

    def _key_for(self, derivation: Derivation | None, name: str) -> bytes:
        """The key that was given, or derived from the passphrase once per file."""
        if self._options.key is not None or self._options.key_file is not None:
            if self._key is None:
                raise RuntimeError("the key was not read")
            return self._key
        if derivation is None:
            raise DecryptionOptionError(
                f"{self._label}: the key of this file does not come from a passphrase; give the key"
                " itself, for instance with ReadOptions.decryption.key_file"
            )
        # For every tensor, so that the error does not depend on which one a thread reaches first.
        self._check_cost(derivation)
        with self._lock:
            if self._key is None:
                self._key = self._derive(derivation)
                self._derivation = derivation
        if derivation != self._derivation:
            # Otherwise a file could demand the full cost of a derivation for every tensor.
            raise DecryptionError(
                f"{self._label}, tensor {name!r}: its key is derived differently from that of"
                " the tensors before it",
                code="decryption",
                tensor=name,
            )
        return self._key

    def _check_cost(self, derivation: Derivation) -> None:
        options = self._options
        if derivation.opslimit > options.operations_max or derivation.memlimit > options.memory_max:
            raise DecryptionOptionError(
                f"{self._label}: deriving its key takes {derivation.opslimit} passes over"
                f" {derivation.memlimit} bytes of memory; the limits are"
                f" {options.operations_max} (DecryptionOptions.operations_max) and"
                f" {options.memory_max} (DecryptionOptions.memory_max)"
            )

    def _derive(self, derivation: Derivation) -> bytes:
        passphrase = self._passphrase()
        try:
            return sodium.derive_key(
                passphrase, derivation.salt, derivation.opslimit, derivation.memlimit
            )
        except OptionError as error:
            raise DecryptionOptionError(f"{self._label}: {error.message}") from None

    def _passphrase(self) -> bytes:
        options = self._options
        if options.passphrase_file is not None:
            return _read(options.passphrase_file).removesuffix(b"\n").removesuffix(b"\r")
        passphrase = options.passphrase or b""
        return passphrase.encode() if isinstance(passphrase, str) else passphrase


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise OptionError(f"{path} cannot be read: {error.strerror}") from None
