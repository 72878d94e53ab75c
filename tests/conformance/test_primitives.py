"""The reference's CRC-32C, BLAKE3 and packed codes, with vectors from other sources."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import tz_hash
import tz_tiered
import tz_vectors

FOLDER = tz_vectors.VECTORS / "primitives"

# In bytes. The reference takes a second for a few times this size.
FAST_SIZE = 100_000


def cases(name: str) -> list[Any]:
    document = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    tests = document["tests"]
    assert [test["tcId"] for test in tests] == list(range(1, len(tests) + 1))
    assert {flag for test in tests for flag in test["flags"]} <= set(document["notes"])
    return [
        pytest.param(
            test,
            id=f"{test['tcId']}",
            marks=[pytest.mark.slow] if test["input"].get("size", 0) > FAST_SIZE else [],
        )
        for test in tests
    ]


def input_of(test: dict[str, Any]) -> bytes:
    rule: dict[str, Any] = test["input"]
    if "hex" in rule:
        return bytes.fromhex(rule["hex"]) * int(rule.get("count", 1))
    return bytes(i % rule["cycle"] for i in range(rule["size"]))


@pytest.mark.parametrize("test", cases("crc32c.json"))
def test_crc32c(test: dict[str, Any]) -> None:
    data = input_of(test)
    assert f"{tz_hash.crc32c(data):08x}" == test["crc"]
    half = len(data) // 2
    assert tz_hash.crc32c(data[half:], tz_hash.crc32c(data[:half])) == int(test["crc"], 16)


@pytest.mark.parametrize("test", cases("blake3.json"))
def test_blake3(test: dict[str, Any]) -> None:
    data = input_of(test)
    assert tz_hash.blake3(data).hex() == test["digest"]
    assert in_pieces(data, lambda at: 1 + at * 7 % 3001) == test["digest"]


def in_pieces(data: bytes, size_at: Callable[[int], int]) -> str:
    hasher, at = tz_hash.Blake3(), 0
    while at < len(data):
        size = size_at(at)
        hasher.update(data[at : at + size])
        at += size
    return hasher.digest().hex()


@pytest.mark.parametrize("test", cases("packed-codes.json"))
def test_packed_codes(test: dict[str, Any]) -> None:
    bits, count = test["input"]["bits"], test["input"]["count"]
    codes = [(k * k + k // 7) % 2**bits for k in range(count)]
    data = bytes.fromhex(test["packed"])
    assert tz_tiered.pack(codes, bits) == data
    assert tz_tiered.unpack(data, count, bits) == codes
    assert tz_tiered.packed(count, bits) == len(data)
