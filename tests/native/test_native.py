"""The layer over the C interface: statuses as exceptions, and code that other tests do not run."""

from __future__ import annotations

import math
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from tests.files import Tensor, make_file, random_tensor, sample
from tests.raising import raises

import libtz
from libtz._native import clib, ffi, lib, status
from libtz.errors import FormatError, IntegrityError, OptionError
from libtz.memory import allocate
from libtz.structure import NodeKind

KIB = 1024


def test_versions() -> None:
    assert lib.version()[0].isdigit()
    assert lib.cpu_level() in ("baseline", "v2", "v3", "v3_vaes", "v4", "armv8_crypto")


def test_a_library_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lib, "ABI_VERSION", 999)
    with pytest.raises(ImportError, match="the bindings expect 999"):
        lib._check_library()


def test_structs_of_other_sizes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        tz_abi_version = clib.tz_abi_version

        @staticmethod
        def tz_struct_size(name: bytes) -> int:
            return int(clib.tz_struct_size(name)) + (name == b"tz_request")

    monkeypatch.setattr(lib, "clib", Other)
    with pytest.raises(ImportError, match="tz_request is 49 bytes in the library, expected 48"):
        lib._check_library()


def test_checksums() -> None:
    assert lib.crc32c(b"123456789") == 0xE3069283
    assert lib.crc32c(b"6789", lib.crc32c(b"12345")) == 0xE3069283
    data = np.random.default_rng(0).bytes(100_003)
    for begin, end in ((0, 0), (0, 1), (1, 64), (3, 400), (0, 100_003)):
        some = data[begin:end]
        assert lib.crc32(some) == zlib.crc32(some)
        assert lib.crc32(some, 0x12345678) == zlib.crc32(some, 0x12345678)
    whole = lib.Blake3()
    for part in (b"abc", b"", bytearray(5000), memoryview(b"xyz")[1:]):
        whole.update(part)
    assert whole.digest() == lib.blake3(b"abc" + bytes(5000) + b"yz")
    assert lib.blake3(b"").hex().startswith("af1349b9f5f9a1a6")


def test_dtypes() -> None:
    assert lib.dtype(0x11) == ("bf16", "BF16", 16, 1)
    assert lib.dtype(0x18) == ("c32", None, 32, 1)
    assert lib.dtype(0x100) is None
    assert lib.dtype_code("bf16") == 0x11
    assert lib.dtype_code("no such type") == 0


# ---- Statuses ------------------------------------------------------------------------------------


def diagnostic(**fields: Any) -> Any:
    out = status.new_diagnostic()
    out.offset = out.tensor = out.chunk = lib.NONE64
    for name, value in fields.items():
        setattr(out, name, value)
    return out


def test_every_status_has_a_meaning() -> None:
    words = {code: status.status_name(code) for code in range(64)}
    known = {code: word for code, word in words.items() if word != "unknown"}
    sentences = {status.status_text(code) for code in known}
    assert len(sentences) == len(known)
    assert status.status_text(63) == "unknown status"
    for code in known:
        if code == clib.TZ_OK:
            status.check(code, where="x")
            continue
        with pytest.raises((libtz.Error, MemoryError, RuntimeError)) as caught:
            status.check(code, diagnostic(), where="the file")
        assert str(caught.value).startswith("the file: ")
        if code >= 20:
            assert status.status_text(code) in str(caught.value)
        expected: type[BaseException] = RuntimeError
        if code == clib.TZ_E_MEMORY:
            expected = MemoryError
        elif known[code] in ("checksum", "digest", "content"):
            expected = IntegrityError
        elif code >= 20:
            expected = FormatError
        assert type(caught.value) is expected


def test_messages_say_where() -> None:
    with pytest.raises(FormatError) as format_error:
        status.check(clib.TZ_E_LAYOUT, diagnostic(offset=128, rule=9), where="m.tz")
    assert (format_error.value.code, format_error.value.offset) == ("layout", 128)
    assert str(format_error.value).startswith("m.tz, byte 128: ")
    assert str(format_error.value).endswith("(layout, rule TZ1-9)")
    found = diagnostic(tensor=3, chunk=5, offset=9)
    with pytest.raises(IntegrityError) as integrity_error:
        status.check(clib.TZ_E_CHECKSUM, found, where="m.tz", name_of="abcdef".__getitem__)
    assert (integrity_error.value.tensor, integrity_error.value.chunk) == ("d", 5)
    assert str(integrity_error.value).startswith("m.tz, tensor 'd', chunk 5, byte 9: ")
    reason = ffi.new("char[]", b"its dtype is unknown")
    unopened = diagnostic(tensor=3, offset=9, reason=reason, name=b"a\x1b[1m\xff", name_size=6)
    with pytest.raises(FormatError) as format_error:
        status.check(clib.TZ_E_FEATURE, unopened, where="m.safetensors")
    assert format_error.value.tensor == "a\x1b[1m\ufffd"
    message = "m.safetensors, tensor 'a\\x1b[1m\ufffd', byte 9: its dtype is unknown (feature)"
    assert str(format_error.value) == message
    with pytest.raises(IntegrityError, match="tensor '#3'"):
        status.check(clib.TZ_E_CHECKSUM, found, where="m.tz")
    with pytest.raises(OptionError, match=r"^out, tensor '#3', chunk 5: this cannot be written"):
        status.check(clib.TZ_E_NAME, found, where="out", blames_caller=True)


# ---- Headers -------------------------------------------------------------------------------------


def open_header(data: bytes) -> lib.Header:
    header = lib.Header.open(data, len(data), label="test")
    assert isinstance(header, lib.Header)
    return header


def test_opening_says_how_much_it_needs() -> None:
    data = sample().data
    assert lib.Header.open(b"", len(data), label="test") == 128
    needed = lib.Header.open(data[:128], len(data), label="test")
    assert isinstance(needed, int)
    assert isinstance(lib.Header.open(data[:needed], len(data), label="test"), lib.Header)


def test_tables_live_as_long_as_they_are_looked_at() -> None:
    data = sample().data
    order = open_header(data).order()
    again = open_header(data)
    assert order.tolist() == again.order().tolist()
    assert not order.flags.writeable
    with pytest.raises(RuntimeError, match="internal error"):
        again.tensor(1000)


def test_runs_of_scattered_tensors() -> None:
    tensors = {f"{i:03}": Tensor("u8", (3,), bytes([i, 0, 0])) for i in range(100)}
    header = open_header(make_file(tensors).data)
    assert len(header.entry_ranges(None)) == 1
    scattered = np.arange(0, 100, 2, dtype=np.uint32)
    ranges = header.entry_ranges(scattered)  # more than fit at first
    assert len(ranges) == 50
    assert all(size == 48 for _, size in ranges)
    assert len(header.entry_ranges(scattered, gap_max=48)) == 1


def test_chunks() -> None:
    file = make_file({"t": random_tensor("u8", (100_000,))}, chunk_size=64 * KIB)
    header = open_header(file.data)
    with pytest.raises(RuntimeError):  # its run was not put
        header.chunk(0, 0)
    for offset, size in header.entry_ranges(None):
        header.put_entries(offset, file.data[offset : offset + size])
    chunk = header.chunk(0, 1)
    stored = file.data[chunk.offset : chunk.offset + chunk.stored_length]
    assert stored == file.tensors["t"].data[64 * KIB :]
    assert chunk.crc == lib.crc32c(stored)
    assert chunk.digest == lib.blake3(stored)
    assert (chunk.decoded_length, chunk.codec) == (len(stored), 0)


def test_a_bad_run_names_its_tensor() -> None:
    file = make_file({"t": random_tensor("u8", (1000,))})
    header = open_header(file.data)
    ((offset, size),) = header.entry_ranges(None)
    run = bytearray(file.data[offset : offset + size])
    run[0] ^= 1
    with raises(IntegrityError, code="checksum", tensor="t"):
        header.put_entries(offset, run)


def test_nodes_of_every_kind() -> None:
    payload_nan = struct.unpack("<d", struct.pack("<Q", 0x7FF8_0000_0000_0123))[0]
    values: list[Any] = [
        (NodeKind.NONE, None, None),
        (NodeKind.BOOL, "yes", True),
        (NodeKind.BOOL, "", False),
        (NodeKind.INT, -1, -(1 << 63)),
        (NodeKind.INT, (1 << 63) - 1, (1 << 63) - 1),
        (NodeKind.LARGE_INT, 1 << 63, 1 << 63),
        (NodeKind.LARGE_INT, -(1 << 63) - 1, -(1 << 63) - 1),
        (NodeKind.LARGE_INT, (1 << 8191) - 1, -(1 << 8191)),
        (NodeKind.FLOAT, 0, -0.0),
        (NodeKind.FLOAT, 1, payload_nan),
        (NodeKind.STR, 2, "größe \0"),
        (NodeKind.STR, 3, ""),
        (NodeKind.BYTES, 4, b"\xff\0"),
        (NodeKind.BYTES, 5, b""),
        (NodeKind.LIST, 6, 1),
        (NodeKind.TENSOR, None, 0),
        (NodeKind.TUPLE, 7, 0),
    ]
    values[0] = (NodeKind.NONE, "none", None)
    nodes = [lib.Node(NodeKind.DICT, None, 16), *(lib.Node(*value) for value in values)]
    file = make_file({"t": Tensor("u8", (1,), b"x")}, nodes=nodes)
    with libtz.open(file.data) as f:
        found = f.structure()
    assert len(found) == len(nodes)
    for got, node in zip(found, nodes, strict=True):
        assert (got.kind, got.key) == (node.kind, node.key)
        if node.kind == NodeKind.FLOAT:
            assert struct.pack("<d", got.value) == struct.pack("<d", node.value)
            assert math.isnan(got.value) == math.isnan(node.value)
        else:
            assert got.value == ("t" if node.kind == NodeKind.TENSOR else node.value)


# ---- Loading into given memory -------------------------------------------------------------------


def test_load_into() -> None:
    file = sample()
    names = [name for name in file.tensors if name != "a.weight"]  # tied to one in the list
    blocks = {name: allocate(len(file.tensors[name].data)) for name in names}
    with libtz.open(file.data) as f:
        f.load_into(blocks)
        for name, block in blocks.items():
            assert bytes(block.view()) == file.tensors[name].data
        with pytest.raises(OptionError, match="buffer of 8 bytes"):
            f.load_into({"scalar": allocate(9)})
        tied = len(file.tensors["a.weight"].data)
        with pytest.raises(OptionError, match="shared by all tensors tied to it"):
            f.load_into({"a.weight": allocate(tied), "a.tied": allocate(tied)})
        assert len(f.load()) == len(file.tensors)  # none of these errors closes the file
