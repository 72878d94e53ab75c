"""Encryption of .tensors files: XSalsa20-Poly1305 over pieces of 2 MiB, each with its own nonce and
tag. The tags come before the data in the file, so a tensor is encrypted twice: first for the tags,
then for the bytes. Only the data are encrypted; names, shapes and the SHA-256 of the plain bytes
stay readable."""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from libtz import sodium
from libtz.sodium import NONCE_SIZE, TAG_SIZE

__all__ = ["PasswordHash", "SealingKey", "TensorSeal"]

PIECE_SIZE = 2 << 20

ARGON2ID13 = 2

# Types of entries in a tensor's encryption block.
KEY_DERIVATION = 1
PIECES = 2
PASSWORD_HASH = 1  # a method of key derivation


@dataclass(frozen=True)
class PasswordHash:
    """The parameters that derive a key from a password: Argon2id. `memlimit` is in bytes."""

    opslimit: int
    memlimit: int
    salt: bytes = field(repr=False)

    def key(self, password: bytes) -> bytes:
        return sodium.derive_key(password, self.salt, self.opslimit, self.memlimit)


@dataclass(frozen=True)
class SealingKey:
    """The key of a file. `derivation` tells readers how to derive it from a password."""

    key: bytes = field(repr=False)
    derivation: PasswordHash | None = None

    def block_size(self, size: int) -> int:
        """The size of a tensor's encryption block, including its length field. `size`: the bytes
        of the tensor."""
        if not size:
            return 8 + 2
        count = -(-size // PIECE_SIZE)
        return 8 + 2 + len(self._derivation_entry()) + 8 + 2 + 8 + NONCE_SIZE + 8 + count * TAG_SIZE

    def _derivation_entry(self) -> bytes:
        if self.derivation is None:
            return b""
        hashed = self.derivation
        body = struct.pack("<HQQi", PASSWORD_HASH, hashed.opslimit, hashed.memlimit, ARGON2ID13)
        return _entry(KEY_DERIVATION, body + struct.pack("<H", len(hashed.salt)) + hashed.salt)

    def block(self, nonce: bytes, tags: list[bytes]) -> bytes:
        """The encryption block of a tensor, including its length field. An empty tensor has no
        tags."""
        if not tags:
            return struct.pack("<QH", 2, 0)
        derivation = self._derivation_entry()
        body = struct.pack(f"<Q{NONCE_SIZE}sQ", PIECE_SIZE, nonce, len(tags)) + b"".join(tags)
        entries = derivation + _entry(PIECES, body)
        block = struct.pack("<H", 1 + bool(derivation)) + entries
        return struct.pack("<Q", len(block)) + block


def _entry(entry_type: int, body: bytes) -> bytes:
    return struct.pack("<QH", 2 + len(body), entry_type) + body


class TensorSeal:
    """Encrypts one tensor. Encrypting the same bytes again gives the same result."""

    def __init__(self, key: SealingKey) -> None:
        self._key = key
        self._nonce = secrets.token_bytes(NONCE_SIZE)

    def block(self, blocks: Iterable[memoryview]) -> bytes:
        tags = [sealed[:TAG_SIZE].tobytes() for sealed in self._sealed(blocks)]
        return self._key.block(self._nonce, tags)

    def encrypted(self, blocks: Iterable[memoryview]) -> Iterator[memoryview]:
        for sealed in self._sealed(blocks):
            yield sealed[TAG_SIZE:]

    def _sealed(self, blocks: Iterable[memoryview]) -> Iterator[memoryview]:
        """The tag and the ciphertext of each piece."""
        for number, piece in enumerate(_pieces(blocks)):
            yield memoryview(sodium.seal_piece(piece, self._nonce, number, self._key.key))


def _pieces(blocks: Iterable[memoryview]) -> Iterator[bytes]:
    """The same bytes in pieces of PIECE_SIZE, the last one shorter."""
    rest = b""
    for block in blocks:
        begin = 0
        while len(rest) + len(block) - begin >= PIECE_SIZE:
            end = begin + PIECE_SIZE - len(rest)
            yield rest + bytes(block[begin:end])
            rest, begin = b"", end
        rest += bytes(block[begin:])
    if rest:
        yield rest
