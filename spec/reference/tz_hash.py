"""CRC-32C and BLAKE3-256 in plain Python: the two checks that the tz format is built on.

BLAKE3 hashes pieces of 1024 bytes independently and joins them in a binary tree. Here the pieces
of one call are computed together: an integer holds one 32-bit word of each piece in a lane of 64
bits, so that one addition of Python integers adds a word of every piece. With a single piece the
integers are ordinary 32-bit words and the code reads like the BLAKE3 paper.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

# CRC-32C ------------------------------------------------------------------------------------------


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC_TABLE = _crc_table()


def crc32c(data: bytes, crc: int = 0) -> int:
    """The CRC-32C of `data`; give the CRC of what came before to go on from there."""
    table = _CRC_TABLE
    value = crc ^ 0xFFFFFFFF
    for byte in data:
        value = (value >> 8) ^ table[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


# BLAKE3 -------------------------------------------------------------------------------------------

_PIECE_SIZE = 1024  # BLAKE3 calls it a chunk; here that word is taken
_BLOCK_SIZE = 64
_PIECES_AT_ONCE = 256  # wider integers gain nothing and cost memory

_INITIAL = (
    *(0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A),
    *(0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19),
)
_PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)

_PIECE_START = 1
_PIECE_END = 2
_PARENT = 4
_ROOT = 8

Words = tuple[int, ...]  # each an integer with one lane per piece


def _lanes(values: Sequence[int]) -> int:
    return int.from_bytes(struct.pack(f"<{len(values)}Q", *values), "little")


def _values(lanes: int, count: int) -> tuple[int, ...]:
    return struct.unpack(f"<{count}Q", lanes.to_bytes(8 * count, "little"))


def _compress(
    chaining: Words, block: Sequence[int], counter: Words, size_and_flags: Words, ones: int
) -> Words:
    """The compression function for all lanes at once; `ones` has a 1 in each lane."""
    mask = ones * 0xFFFFFFFF
    v = [*chaining, *(word * ones for word in _INITIAL[:4]), *counter, *size_and_flags]

    def mix(a: int, b: int, c: int, d: int, x: int, y: int) -> None:
        va = (v[a] + v[b] + x) & mask
        vd = v[d] ^ va
        vd = (vd >> 16 | vd << 16) & mask
        vc = (v[c] + vd) & mask
        vb = v[b] ^ vc
        vb = (vb >> 12 | vb << 20) & mask
        va = (va + vb + y) & mask
        vd ^= va
        vd = (vd >> 8 | vd << 24) & mask
        vc = (vc + vd) & mask
        vb ^= vc
        v[a], v[b], v[c], v[d] = va, (vb >> 7 | vb << 25) & mask, vc, vd

    m = list(block)
    for _ in range(7):
        mix(0, 4, 8, 12, m[0], m[1])
        mix(1, 5, 9, 13, m[2], m[3])
        mix(2, 6, 10, 14, m[4], m[5])
        mix(3, 7, 11, 15, m[6], m[7])
        mix(0, 5, 10, 15, m[8], m[9])
        mix(1, 6, 11, 12, m[10], m[11])
        mix(2, 7, 8, 13, m[12], m[13])
        mix(3, 4, 9, 14, m[14], m[15])
        m = [m[i] for i in _PERMUTATION]
    return tuple(v[i] ^ v[i + 8] for i in range(8))


def _hash_pieces(data: bytes, first: int, count: int, root: int) -> list[Words]:
    """Chaining values of `count` pieces of `data`; piece `first` is the first.

    All pieces are full, unless there is only one.
    """
    ones = _lanes([1] * count)
    indexes = range(first, first + count)
    counter = (_lanes([i & 0xFFFFFFFF for i in indexes]), _lanes([i >> 32 for i in indexes]))
    chaining: Words = tuple(word * ones for word in _INITIAL)
    piece_size = len(data) // count
    block_count = max(1, -(-piece_size // _BLOCK_SIZE))
    padded = data.ljust(_BLOCK_SIZE * block_count * count, b"\0")
    words = struct.unpack(f"<{len(padded) // 4}I", padded)
    for block in range(block_count):
        flags = _PIECE_START if block == 0 else 0
        if block == block_count - 1:
            flags |= _PIECE_END | root
        size = min(_BLOCK_SIZE, piece_size - _BLOCK_SIZE * block)
        message = [_lanes(words[16 * block + i :: 16 * block_count]) for i in range(16)]
        chaining = _compress(chaining, message, counter, (size * ones, flags * ones), ones)
    return list(zip(*(_values(word, count) for word in chaining), strict=True))


def _join_pairs(nodes: list[Words], root: int) -> list[Words]:
    """One level up in the tree: neighbours are joined, an odd last one goes up as it is."""
    count = len(nodes) // 2
    ones = _lanes([1] * count)
    pairs = [left + right for left, right in zip(nodes[0::2], nodes[1::2], strict=False)]
    message = [_lanes([pair[i] for pair in pairs]) for i in range(16)]
    initial = tuple(word * ones for word in _INITIAL)
    flags = (_PARENT | root) * ones
    joined = _compress(initial, message, (0, 0), (_BLOCK_SIZE * ones, flags), ones)
    return [
        *zip(*(_values(word, count) for word in joined), strict=True),
        *nodes[2 * count :],
    ]


class Blake3:
    """BLAKE3-256, incrementally. It keeps 8 words for each 1024 bytes, which is enough here."""

    def __init__(self, data: bytes = b"") -> None:
        self._nodes: list[Words] = []
        self._rest = b""
        self.update(data)

    def update(self, data: bytes) -> None:
        rest = self._rest + data
        begin = 0
        # The last piece, even if it is full, waits for digest(): it may be the root.
        while (count := min(_PIECES_AT_ONCE, (len(rest) - begin - 1) // _PIECE_SIZE)) > 0:
            end = begin + count * _PIECE_SIZE
            self._nodes += _hash_pieces(rest[begin:end], len(self._nodes), count, 0)
            begin = end
        self._rest = rest[begin:]

    def digest(self) -> bytes:
        root = 0 if self._nodes else _ROOT
        nodes = self._nodes + _hash_pieces(self._rest, len(self._nodes), 1, root)
        while len(nodes) > 1:
            nodes = _join_pairs(nodes, _ROOT if len(nodes) == 2 else 0)
        return struct.pack("<8I", *nodes[0])


def blake3(data: bytes) -> bytes:
    """The 32 bytes of BLAKE3-256 of `data`."""
    return Blake3(data).digest()
