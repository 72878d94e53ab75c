"""The codec `tiered`: the reference matches the specification, and libtz the reference."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tz_tiered
from tests.libtz_implementation import CInterface
from tz_tiered import Plane, TieredError

from libtz._native import lib

TEXT = Path(__file__).parents[2] / "spec" / "tz-v1-codec-tiered.md"
DTYPES = list(tz_tiered.LAYOUT_OF_DTYPE)
# One dtype of each layout.
BY_LAYOUT = {tz_tiered.LAYOUT_OF_DTYPE[dtype]: dtype for dtype in reversed(DTYPES)}


# The specification --------------------------------------------------------------------------------


def example_elements() -> bytes:
    exponents = [0x7E] * 256
    for k in range(1, 15):
        exponents[17 * k] = 0x70 - k
    return struct.pack("<256H", *(exponent << 7 for exponent in exponents))


def example_of_the_text() -> bytes:
    """The bytes in section 10: a row's second cell, or the indented lines."""
    section = TEXT.read_text(encoding="utf-8").split("## 10. ")[1].split("\n## ")[0]
    indented = "".join(re.findall(r"^    (.*)$", section, re.MULTILINE))
    data = b""
    for offset, cell in re.findall(r"^\| (\d+) \| ([^|]*) \|", section, re.MULTILINE):
        assert len(data) == int(offset)
        if cell == "64 bytes below":
            data += bytes.fromhex(indented)
            continue
        for part in cell.split(", "):
            found = re.fullmatch(r"`([0-9a-f ]+)`(?: (\d+) times)?", part)
            assert found, part
            data += bytes.fromhex(found[1]) * int(found[2] or 1)
    return data


def test_the_example_of_the_text() -> None:
    stored, elements = example_of_the_text(), example_elements()
    assert tz_tiered.encode(elements, "bf16") == stored
    assert tz_tiered.decode(stored, "bf16", len(elements)) == elements
    assert libtz_encode(elements, "bf16") == stored


def test_layouts_keep_every_bit() -> None:
    generator = random.Random(1)
    for layout in tz_tiered.LAYOUTS.values():
        bits = 8 * layout.element_size
        for element in {0, 2**bits - 1, *(generator.getrandbits(bits) for _ in range(1000))}:
            symbols = layout.split(element)
            assert all(s < 2**width for s, width in zip(symbols, layout.widths, strict=True))
            assert layout.merge(*symbols) == element
        assert sum(layout.widths) == bits


@pytest.mark.slow
def test_packed_codes_have_the_size_of_the_formula() -> None:
    for b, rows in tz_tiered.ROWS.items():
        slots = tz_tiered.SLOTS[b]
        for n in range(3 * 64 * slots):
            lanes = 64 * (n // (64 * slots)) + tz_tiered.align(-(-(n % (64 * slots)) // slots), 16)
            codes = [k * 7 % 2**b for k in range(n)]
            data = tz_tiered.pack(codes, b)
            assert len(data) == rows * lanes == tz_tiered.packed(n, b)
            assert tz_tiered.unpack(data, n, b) == codes


# Requirements ------------------------------------------------------------------------------------


def test_decoded_sizes_are_whole_elements() -> None:
    """TZ1T-1, which no file can break, since shapes determine the sizes of chunks."""
    stored = bytearray(example_of_the_text())
    for size in (0, 511, 2**26 + 2):
        stored[4:8] = struct.pack("<I", size)
        with pytest.raises(TieredError, match="TZ1T-1]"):
            tz_tiered.decode(bytes(stored), "bf16", size)


def test_nothing_is_handed_out_before_all_rules_hold() -> None:
    """TZ1T-16: an error in the last sub-block, found by the last check."""
    elements = weights("bf16", 4 * tz_tiered.SUB_BLOCK + 333)
    stored = bytearray(libtz_encode(elements, "bf16") or b"")
    assert describe("bf16", bytes(stored), elements)["result"] == "ok"
    header = tz_tiered.parse_header(bytes(stored), tz_tiered.LAYOUTS["bf16"], len(elements))
    exponents = tz_tiered.parse_index(bytes(stored), header)[-1][0]
    rest_size = tz_tiered.align(len(elements) // 2 % tz_tiered.SUB_BLOCK, 64)
    plane_size = tz_tiered.plane_size(header.planes[0], 333, exponents)
    first_code = len(stored) - rest_size - tz_tiered.align(plane_size, 64)
    stored[first_code] ^= 3 if stored[first_code] & 3 in (0, 3) else 3 ^ stored[first_code] & 3
    rejected = describe("bf16", bytes(stored), elements)
    assert (rejected["class"], rejected["rule"]) == ("codec", "TZ1-44")
    with pytest.raises(TieredError, match="TZ1T-15]"):
        tz_tiered.decode(bytes(stored), "bf16", len(elements))


@pytest.mark.parametrize(
    ("offset", "byte", "rule"),
    [
        (0, 0, 3),
        (1, 16, 4),
        (2, 1, 4),
        (4, 1, 5),
        (8, 5, 6),
        (9, 1, 7),
        (11, 0x7E, 8),
        (23, 1, 8),
        (40, 0, 11),
        (41, 255, None),
        (42, 1, 8),
        (73, 1, 9),
        (76, 13, 9),
        (76, 8, 15),
        (80, 3, 15),
        (80, 1, 12),
        (84, 1, 10),
        (127, 1, 10),
        (128, 3, 15),
        (128, 1, None),
        (145, 0, 15),
        (192, 0, 15),
        (192, 0x83, 14),
        (202, 0x41, 14),
        (208, 0, 15),
        (239, 1, 14),
        (255, 0x80, 14),
        (256, 0x62, 13),
        (256, 0x70, None),
        (258, 1, 12),
        (319, 255, 12),
    ],
)
def test_a_changed_byte_of_the_example(offset: int, byte: int, rule: int | None) -> None:
    stored, elements = bytearray(example_of_the_text()), example_elements()
    assert stored[offset] != byte
    stored[offset] = byte
    described = describe("bf16", bytes(stored), elements)
    if rule is None:  # other elements, or another choice
        decoded = tz_tiered.decode(bytes(stored), "bf16", len(elements))
        assert (described["result"] == "ok") == (decoded == elements)
        assert described.get("class", "content") == "content"
        return
    with pytest.raises(TieredError, match=rf"\[TZ1T-{rule}\]"):
        tz_tiered.decode(bytes(stored), "bf16", len(elements))
    assert (described["class"], described["rule"]) == ("codec", "TZ1-44")


@pytest.mark.parametrize("size", [0, 1, 71, 72, 83, 127, 128, 319, 321, 384])
def test_another_number_of_bytes(size: int) -> None:
    stored = example_of_the_text()[:size].ljust(size, b"\0")
    with pytest.raises(TieredError, match=rf"\[TZ1T-{2 if size < 128 else 11}\]"):
        tz_tiered.decode(stored, "bf16", 512)
    if size:  # a file has no chunk without bytes
        assert describe("bf16", stored, example_elements())["class"] == "codec"


# libtz and the reference --------------------------------------------------------------------------


def libtz_encode(elements: bytes, dtype: str) -> bytes | None:
    out = bytearray(len(elements) + 64)
    code = lib.dtype_code(dtype)
    size, _ = lib.encode_chunks(code, chunk_size_of(elements), True, elements, out)
    return bytes(out[:size]) or None


def chunk_size_of(elements: bytes) -> int:
    """All data is in one chunk."""
    return max(1 << 16, 1 << (len(elements) - 1).bit_length())


def describe(dtype: str, stored: bytes, elements: bytes) -> dict[str, object]:
    """libtz's verdict on a file of one chunk, `stored`, which should decode to `elements`."""
    code = lib.dtype_code(dtype)
    info = lib.dtype(code)
    assert info is not None
    shape = (len(elements) * 8 // info.unit_bits,)
    spec = lib.TensorSpec("x", shape, code)
    builder = lib.Builder([spec], label="test", chunk_size=chunk_size_of(elements))
    entries = lib.new_entries(1)
    entries["stored_length"] = len(stored)
    entries["codec"] = 1
    entries["crc"] = lib.crc32c(stored)
    entries["digest"] = list(lib.blake3(stored))
    offset = builder.put_chunks(0, entries)
    builder.put_content(0, lib.blake3(elements))
    header, size, _ = builder.finish()
    file = header.ljust(offset, b"\0") + stored
    assert len(file) == size
    return CInterface().describe(file)


def weights(dtype: str, count: int, seed: int = 1) -> bytes:
    """Elements with few exponents."""
    layout = tz_tiered.LAYOUTS[tz_tiered.LAYOUT_OF_DTYPE[dtype]]
    generator = np.random.default_rng(seed)
    width = layout.widths[0]
    exponents = 2 ** (width - 1) - generator.geometric(0.4, count).clip(max=2 ** (width - 1))
    others = [generator.integers(0, 2**w, count) for w in layout.widths[1:]]
    planes = zip(exponents.tolist(), *(other.tolist() for other in others), strict=True)
    elements = (layout.merge(*symbols) for symbols in planes)
    return b"".join(element.to_bytes(layout.element_size, "little") for element in elements)


def contents(dtype: str) -> Iterator[bytes]:
    size = tz_tiered.LAYOUTS[tz_tiered.LAYOUT_OF_DTYPE[dtype]].element_size
    generator = random.Random(dtype)
    for count in (1, 64, 500, 3000, 9999):
        yield weights(dtype, count, seed=count)
        yield bytes(count * size)
        yield generator.randbytes(count * size)
        palette = generator.randbytes(12)
        yield bytes(generator.choice(palette) for _ in range(count * size))
    if dtype in BY_LAYOUT.values():
        yield weights(dtype, 140_000)  # larger than the sample
        yield bytes(140_000 * size) + generator.randbytes(size)  # constant except for one element


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_libtz_encodes_as_the_canonical_writer(dtype: str) -> None:
    info = lib.dtype(lib.dtype_code(dtype))
    assert info is not None
    encoded = 0
    for elements in contents(dtype):
        if len(elements) % (info.unit_bits // 8):
            continue  # half a complex number
        stored = tz_tiered.encode(elements, dtype)
        assert libtz_encode(elements, dtype) == stored
        if stored is not None:
            assert tz_tiered.decode(stored, dtype, len(elements)) == elements
            encoded += 1
    assert encoded >= 4


def test_dtypes_without_layout_are_stored_raw() -> None:
    with_layout = {lib.dtype_code(dtype) for dtype in DTYPES}
    for code in range(256):
        info = lib.dtype(code)
        if info is not None and code not in with_layout:
            assert libtz_encode(bytes(48 * 1024), info.name) is None
            assert tz_tiered.encode(bytes(48 * 1024), info.name) is None


def random_choice(generator: random.Random, layout: tz_tiered.Layout) -> list[Plane]:
    """Kinds and tables that the canonical writer does not choose."""
    planes = []
    for width in layout.widths:
        kinds = [kind for kind in tz_tiered.PLANS if tz_tiered.is_allowed(kind, width)]
        kind = generator.choice(kinds)
        table = generator.sample(range(2**width), tz_tiered.table_size(kind))
        value = generator.randrange(2**width) if kind == tz_tiered.CONSTANT else 0
        planes.append(Plane(width, kind, value, bytes(table)))
    return planes


def random_elements(
    generator: random.Random, layout: tz_tiered.Layout, planes: list[Plane], count: int
) -> bytes:
    """Elements mostly with symbols of the tables."""

    def symbol(plane: Plane) -> int:
        if plane.kind == tz_tiered.CONSTANT:
            return plane.value
        if plane.table and generator.random() < 0.97:
            place = int(generator.expovariate(0.5))
            return plane.table[place % len(plane.table)]
        return generator.randrange(2**plane.width)

    elements = (layout.merge(*map(symbol, planes)) for _ in range(count))
    return b"".join(element.to_bytes(layout.element_size, "little") for element in elements)


@pytest.mark.slow
@pytest.mark.parametrize("layout_name", BY_LAYOUT)
def test_libtz_decodes_any_choice(layout_name: str) -> None:
    layout, dtype = tz_tiered.LAYOUTS[layout_name], BY_LAYOUT[layout_name]
    generator = random.Random(layout_name)
    decoded = 0
    for _ in range(60):
        planes = random_choice(generator, layout)
        count = generator.choice([600, 1000, 2000]) + generator.randrange(600)
        elements = random_elements(generator, layout, planes, count)
        split = tz_tiered.split_elements(elements, layout)
        stored = tz_tiered.encode_with(planes, split, layout)
        assert tz_tiered.decode(stored, dtype, len(elements)) == elements
        if len(stored) < len(elements):  # else no file can hold it
            assert describe(dtype, stored, elements)["result"] == "ok"
            decoded += 1
    assert decoded >= 10


@pytest.mark.slow
@pytest.mark.parametrize("layout_name", BY_LAYOUT)
def test_one_verdict_about_changed_chunks(layout_name: str) -> None:
    layout, dtype = tz_tiered.LAYOUTS[layout_name], BY_LAYOUT[layout_name]
    generator = random.Random(layout_name)
    elements = weights(dtype, 1600)
    planes = tz_tiered.split_elements(elements, layout)
    width = layout.widths[0]
    for kind in (kind for kind, plan in tz_tiered.PLANS.items() if plan):
        if not tz_tiered.is_allowed(kind, width):
            continue
        table = bytes(range(2 ** (width - 1) - 1, -1, -1))[: tz_tiered.table_size(kind)]
        table = table.ljust(tz_tiered.table_size(kind), b"\0")
        if len(set(table)) != len(table):
            table = bytes(range(tz_tiered.table_size(kind)))
        raws = [Plane(other, tz_tiered.RAW, 0, b"") for other in layout.widths[1:]]
        stored = tz_tiered.encode_with([Plane(width, kind, 0, table), *raws], planes, layout)
        if len(stored) >= len(elements):
            continue
        for _ in range(120):
            changed = bytearray(stored)
            for _ in range(generator.randint(1, 2)):
                front = generator.random() < 0.5
                offset = generator.randrange(192 if front else len(changed))
                changed[offset] = generator.choice([0, 1, 255, changed[offset] ^ 1 << 5])
            try:
                decoded = tz_tiered.decode(bytes(changed), dtype, len(elements))
                expected = "ok" if decoded == elements else "content"
            except TieredError:
                expected = "codec"
            described = describe(dtype, bytes(changed), elements)
            assert described.get("class", described["result"]) == expected
