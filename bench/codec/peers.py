"""Measures other lossless compressors on the same data: size, and GB/s of decoded bytes in CPU
time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

CHUNK_SIZE = 4 << 20
SIZE_MAX = 64 << 20
ROUNDS = 3

Function = Callable[[bytes], bytes]


class Peer(NamedTuple):
    name: str
    compress: Function
    decompress: Function


def zstd(level: int) -> Peer:
    import zstandard

    compressor = zstandard.ZstdCompressor(level=level)
    decompressor = zstandard.ZstdDecompressor()
    return Peer(f"zstd -{level}", compressor.compress, decompressor.decompress)


def blosc2(element_size: int) -> Peer:
    import blosc2

    blosc2.set_nthreads(1)

    def compress(data: bytes) -> bytes:
        return bytes(
            blosc2.compress2(
                data,
                codec=blosc2.Codec.ZSTD,
                clevel=1,
                typesize=element_size,
                filters=[blosc2.Filter.SHUFFLE],
                nthreads=1,
            )
        )

    def decompress(data: bytes) -> bytes:
        return bytes(blosc2.decompress2(data, nthreads=1))

    return Peer("blosc2 shuffle zstd", compress, decompress)


def zipnn(layout: str) -> Peer | None:
    dtypes = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}
    if layout not in dtypes:
        return None
    import zipnn

    coder: Any = zipnn.ZipNN(
        input_format="byte", bytearray_dtype=dtypes[layout], threads=1, method="AUTO"
    )

    def compress(data: bytes) -> bytes:
        # It uses its input as working memory.
        return bytes(coder.compress(bytearray(data)))

    return Peer("zipnn", compress, lambda data: bytes(coder.decompress(data)))


def peers(layout: str) -> Iterator[Peer]:
    sizes = {"bf16": 2, "f16": 2, "f32": 4}
    made = (lambda: zstd(1), lambda: zstd(3), lambda: blosc2(sizes.get(layout, 1)))
    for make in (*made, lambda: zipnn(layout)):
        try:
            peer = make()
        except ImportError as missing:
            print(f"left out: {missing}")
            continue
        if peer is not None:
            yield peer


def measure(path: Path, layout: str) -> dict[str, dict[str, float]]:
    """`ratio`, `encode` and `decode` for each peer."""
    with path.open("rb") as file:
        data = file.read(SIZE_MAX)
    chunks = [data[begin : begin + CHUNK_SIZE] for begin in range(0, len(data), CHUNK_SIZE)]
    results = {}
    for peer in peers(layout):
        encode, decode = [], []
        stored: list[bytes] = []
        for _ in range(ROUNDS):
            begin = time.process_time()
            stored = [peer.compress(chunk) for chunk in chunks]
            encode.append(time.process_time() - begin)
            begin = time.process_time()
            decoded = [peer.decompress(chunk) for chunk in stored]
            decode.append(time.process_time() - begin)
            if decoded != chunks:
                raise RuntimeError(f"{peer.name} loses data")
        results[peer.name] = {
            "ratio": sum(map(len, stored)) / len(data),
            "encode": len(data) / statistics.median(encode) / 1e9,
            "decode": len(data) / statistics.median(decode) / 1e9,
        }
    return results
