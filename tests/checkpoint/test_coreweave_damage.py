"""Malformed .tensors files. Each gets its error before any of its contents is used."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.coreweave_files import Entry, build
from tests.raising import raises

import libtz
import libtz.torch
from libtz.compat.tensorizer import TensorDeserializer

A, B = Entry(), Entry(name=b"b", shape=(4,), dtype=b"|u1", data=b"abcd")
META = Entry(data=b"", shape=(3,))


def path(text: bytes) -> Entry:
    return Entry(name=b"\x1e" + text)


def crypt(*chunks: bytes, count: int | None = None) -> bytes:
    body = struct.pack("<H", len(chunks) if count is None else count) + b"".join(chunks)
    return struct.pack("<Q", len(body)) + body


def chunk(kind: int, body: bytes, size: int | None = None) -> bytes:
    return struct.pack("<QH", 2 + len(body) if size is None else size, kind) + body


BOXES = chunk(2, struct.pack("<Q", 1024) + bytes(24) + struct.pack("<Q", 1) + bytes(16))
KDF = struct.pack("<HQQIH", 1, 1, 8192, 2, 16) + bytes(16)


def sealed(*chunks: bytes, count: int | None = None) -> bytes:
    return build([Entry(crypt=crypt(*chunks, count=count))], version=3)


def patched(data: bytes, offset: int, new: bytes) -> bytes:
    return data[:offset] + new + data[offset + len(new) :]


GOOD = build([A, B])

# By fault: the tensor in the error, the end of the message, and the file.
OPENING: dict[str, tuple[str | None, str, bytes]] = {
    "magic": (None, "or tensors file (not-tz, rule TZ1-1)", b"|TZS|" + GOOD[5:]),
    "version 0": (None, "data version is not one of 1 to 5 (version)", build([A], version=0)),
    "version 6": (None, "data version is not one of 1 to 5 (version)", build([A], version=6)),
    "flags before version 4": (
        None,
        "a flag is not part of its data version (feature)",
        build([A], version=1, flags=1),
    ),
    "versioned index in version 4": (
        None,
        "a flag is not part of its data version (feature)",
        build([A], version=4, flags=2),
    ),
    "version 5 without its index": (None, "as versioned (feature)", build([A], version=5)),
    "unknown flag": (
        None,
        "a flag is not part of its data version (feature)",
        build([A], version=5, flags=2 | 4),
    ),
    "flag far behind": (
        None,
        "a flag is not part of its data version (feature)",
        build([A], version=5, flags=2 | 1 << 255),
    ),
    "reserved": (None, "reserved bytes are not zero (reserved)", build([A], reserved=1)),
    "data size": (
        None,
        "the size of all data differs from the one in the file header (foreign)",
        build([A], data_size=9),
    ),
    "index larger than the file": (
        None,
        "within its index (truncated)",
        build([A], index_size=512 - 0, count=1)[:200],
    ),
    "index size of 2^63": (
        None,
        "within its index (truncated)",
        patched(GOOD, 65, struct.pack("<Q", 1 << 63)),
    ),
    "index size overflows": (
        None,
        "within its index (truncated)",
        patched(GOOD, 65, struct.pack("<Q", (1 << 64) - 1)),
    ),
    "more tensors than fit": (None, "too small for its tensors (foreign)", build([A], count=512)),
    "count of 2^40": (None, "more than 16,777,216 tensors (limit)", build([A], count=1 << 40)),
    "a tensor left out": (
        None,
        "there are bytes after the last entry of the index (foreign)",
        build([A, B], count=1, data_size=8),
    ),
    "a tensor left out, with its entry": (
        None,
        "there are bytes after the data that belong to no tensor (trailing)",
        build([A], end=b"more" + bytes(8)),
    ),
    "one too many": (None, "dtype is malformed (foreign)", build([A], count=2)),
    "rest of the index": (
        None,
        "there are bytes after the last entry of the index (foreign)",
        patched(GOOD, 73 + 500, b"\1"),
    ),
    "entry runs out of the index": (
        "a",
        "index ends within an entry (foreign)",
        build([A], index_size=30),
    ),
    "name runs out of the index": (
        None,
        "index ends within an entry (foreign)",
        patched(GOOD, 73, b"\xff\xff"),
    ),
    "role": ("a", "its kind is unknown (foreign)", build([Entry(role=3)])),
    "name is not UTF-8": (
        "\ufffd",
        "its name is not UTF-8 (foreign)",
        build([Entry(name=b"\xff")]),
    ),
    "control in a name": ("a\nb", "control character (foreign)", build([Entry(name=b"a\nb")])),
    "same name twice": ("a", "occurs twice (foreign)", build([A, A])),
    "same name but for the root's dot": (
        "a",
        "its name occurs twice (foreign)",
        build([Entry(name=b".a", role=0), Entry(name=b"a", role=0)]),
    ),
    "dtype without size": ("a", "its dtype is malformed (foreign)", build([Entry(dtype=b"<f")])),
    "dtype of no known size": (
        "a",
        "its dtype is not numeric (feature)",
        build([Entry(dtype=b"<M8[ns]")]),
    ),
    "opaque dtype of another size": (
        "a",
        "malformed (foreign)",
        build([Entry(dtype=b"<V4\0torch.bfloat16")]),
    ),
    "two zeros in a dtype": ("a", "malformed (foreign)", build([Entry(dtype=b"<V4\0torch.\0")])),
    "too many dimensions": ("a", "more than 64 dimensions (limit)", build([Entry(shape=[1] * 65)])),
    "shape overflows": (
        "a",
        "its shape is too large (limit)",
        build([Entry(shape=[0xFFFFFFFF] * 3, index={"data_size": 0})]),
    ),
    "shape and size": (
        "a",
        "contradicts its shape and dtype (foreign)",
        build([Entry(shape=(3,))]),
    ),
    "empty shape with data": (
        "a",
        "contradicts its shape and dtype (foreign)",
        build([Entry(shape=(0,))]),
    ),
    "meta in version 1": (
        "a",
        "it has a shape but no data, before version 4 (foreign)",
        build([META]),
    ),
    "entry version": (
        None,
        "an index entry has no known version (version)",
        build([Entry(entry_version=2)], version=5, flags=2),
    ),
    "record before its place": (
        "a",
        "does not begin where the data before it end (foreign)",
        build([Entry(index={"record_offset": 584})]),
    ),
    "record in the index": (
        "a",
        "does not begin where the data before it end (foreign)",
        build([Entry(index={"record_offset": 73})]),
    ),
    "data before its record": (
        "a",
        "its data lie before its record header (foreign)",
        build([Entry(index={"data_offset": 0})]),
    ),
    "record of 1 TiB": (
        "a",
        "larger than 64 MiB (limit)",
        build([Entry(index={"data_offset": 1 << 40})]),
    ),
    "record too short": (
        "a",
        "its record header is too small (foreign)",
        build([Entry(index={"data_offset": 73 + 512 + 10})]),
    ),
    "data behind the end": (
        "a",
        "ends before its data end (truncated)",
        build([Entry(index={"data_offset": 73 + 512 + 1000})]),
    ),
    "negative size": (
        "a",
        "contradicts its shape and dtype (foreign)",
        build([Entry(index={"data_size": (1 << 64) - 8})]),
    ),
    "overlap": (
        "b",
        "does not begin where the data before it end (foreign)",
        build([A, Entry(name=b"b", index={"record_offset": 73 + 512})]),
    ),
    "cut": ("b", "the file ends before its data end (truncated)", GOOD[:-1]),
    "cut in the index": (None, "within its index (truncated)", GOOD[:300]),
    "trailing byte": (
        None,
        "there are bytes after the data that belong to no tensor (trailing)",
        GOOD + b"\0",
    ),
    "path of a parameter": (
        '["a",0]',
        "but it belongs to a module (foreign)",
        build([Entry(name=b'\x1e["a",0]', role=0)]),
    ),
    "path is no JSON": ("a", "expected [ (json)", build([path(b"a")])),
    "path without steps": ("[]", "its path has no steps (json)", build([path(b"[]")])),
    "path with a float": ('["a",1.5]', "expected , or the end (json)", build([path(b'["a",1.5]')])),
    "path with a negative place": ('["a",-1]', "not negative (json)", build([path(b'["a",-1]')])),
    "path with an object": (
        '["a",{}]',
        "a whole number that is not negative (json)",
        build([path(b'["a",{}]')]),
    ),
    "path with null": (
        '["a",null]',
        "a whole number that is not negative (json)",
        build([path(b'["a",null]')]),
    ),
    "path with a line break": (
        '["a",\n0]',
        "not a single line of ASCII (json)",
        build([path(b'["a",\n0]')]),
    ),
    "path with a lone surrogate": (
        '["\\ud800",0]',
        "malformed escape (json)",
        build([path(b'["\\ud800",0]')]),
    ),
    "path with a rest": ('["a",0]x', "follows the end (json)", build([path(b'["a",0]x')])),
    "path not in ASCII": ('["ä",0]', "line of ASCII (json)", build([path('["ä",0]'.encode())])),
    "path too deep": (
        "[" + "0," * 126 + "…",
        "more than 128 steps (limit)",
        build([path(b"[" + b"0," * 128 + b"0]")], index_size=1024),
    ),
    "same path twice": (
        "a/0",
        "its name occurs twice (foreign)",
        build([path(b'["a",0]'), path(b'["\\u0061",0]')]),
    ),
    "leaf and container": (
        "a/0",
        "continues where that of another tensor ends (foreign)",
        build([A, path(b'["a",0]')]),
    ),
    "container and leaf": (
        "a",
        "ends where that of another tensor continues (foreign)",
        build([path(b'["a",0]'), A]),
    ),
    "keys and places": (
        "a/b",
        "a list index, or the reverse (foreign)",
        build([path(b'["a",0]'), path(b'["a","b"]')]),
    ),
}

LOADING: dict[str, tuple[str | None, str, bytes]] = {
    "record: size": ("a", "differ in the size (foreign)", build([Entry(record_size=5)])),
    "record: role": (
        "a",
        "differ in the role (foreign)",
        build([Entry(record={"role": 1})]),
    ),
    "record: name": (
        "a",
        "differ in the name (foreign)",
        build([Entry(record={"name": b"b"})]),
    ),
    "record: longer name": (
        "a",
        "differ in the name (foreign)",
        build([Entry(record={"name": b"ab"})]),
    ),
    "record: dtype": (
        "a",
        "differ in the dtype or shape (foreign)",
        build([Entry(record={"dtype": b"<i4"})]),
    ),
    "record: shape": (
        "a",
        "differ in the dtype or shape (foreign)",
        build([Entry(record={"shape": (1, 2)})]),
    ),
    "record: other dimension": (
        "a",
        "differ in the dtype or shape (foreign)",
        build([Entry(record={"shape": (3,)})]),
    ),
    "record: data size": (
        "a",
        "differ in the size of the data (foreign)",
        build([Entry(record={"data_size": 7})]),
    ),
    "record: negative data size": (
        "a",
        "differ in the size of the data (foreign)",
        build([Entry(record={"data_size": -8})]),
    ),
    "record: padding": (
        "a",
        "the padding of its record header is not zero (foreign)",
        build([Entry(padding=b"\0\1")]),
    ),
    "hashes: no count": (
        "a",
        "its record header is too small (foreign)",
        build([Entry(hashes=b"")]),
    ),
    "hashes: fewer than counted": (
        "a",
        "a hash extends beyond the block of hashes (foreign)",
        build([Entry(hashes=b"\x01")]),
    ),
    "hashes: more than counted": (
        "a",
        "there are bytes after the last hash in its block (foreign)",
        build([Entry(hashes=b"\x00\x00\x04abcd")]),
    ),
    "hashes: out of their block": (
        "a",
        "a hash extends beyond the block of hashes (foreign)",
        build([Entry(hashes=b"\x01\x00\x04ab")]),
    ),
    "hashes: kind": (
        "a",
        "a hash of an unknown type (feature)",
        build([Entry(hashes=b"\x01\x02\x04abcd")]),
    ),
    "hashes: CRC of 3 bytes": (
        "a",
        "one without 4 bytes (foreign)",
        build([Entry(hashes=b"\x01\x00\x03abc")]),
    ),
    "hashes: SHA of 4 bytes": (
        "a",
        "one without 32 bytes (foreign)",
        build([Entry(hashes=b"\x01\x01\x04abcd")]),
    ),
    "hashes: twice": (
        "a",
        "it has two CRC-32s, or one without 4 bytes (foreign)",
        build([Entry(hashes=b"\x02" + b"\x00\x04abcd" * 2)]),
    ),
    "crypt: plain data": (
        "a",
        "its data are not encrypted, although the file is (foreign)",
        sealed(),
    ),
    "crypt: count": ("a", "the wrong size (foreign)", sealed(count=1)),
    "crypt: size": (
        "a",
        "extends beyond the record header (foreign)",
        build([Entry(crypt=b"\xff" * 10)], version=3),
    ),
    "crypt: kind": ("a", "a part of an unknown type (feature)", sealed(chunk(4, b""))),
    "crypt: chunk size": ("a", "the wrong size (foreign)", sealed(chunk(2, BOXES[10:], size=1))),
    "crypt: cipher twice": ("a", "its data are encrypted twice (foreign)", sealed(BOXES, BOXES)),
    "crypt: derived twice": (
        "a",
        "its key is derived twice (foreign)",
        sealed(chunk(1, KDF), chunk(1, KDF), BOXES),
    ),
    "crypt: method": (
        "a",
        "derived in an unknown way (feature)",
        sealed(chunk(1, b"\x02" + KDF[1:]), BOXES),
    ),
    "crypt: algorithm": (
        "a",
        "derived in an unknown way (feature)",
        sealed(chunk(1, patched(KDF, 18, b"\x01")), BOXES),
    ),
    "crypt: salt": (
        "a",
        "the salt of its key does not have 16 bytes (foreign)",
        sealed(chunk(1, patched(KDF, 22, b"\x08")), BOXES),
    ),
    "crypt: piece size": (
        "a",
        "not a multiple of 64, from 1024 on (foreign)",
        sealed(chunk(2, patched(BOXES[10:], 0, b"\x01"))),
    ),
    "crypt: number of pieces": (
        "a",
        "the number of its encrypted pieces contradicts its size (foreign)",
        sealed(chunk(2, patched(BOXES[10:], 32, b"\x02"))),
    ),
    "crypt: 2^60 pieces": (
        "a",
        "the number of its encrypted pieces contradicts its size (foreign)",
        sealed(chunk(2, patched(BOXES[10:], 39, b"\x10"))),
    ),
    "crypt: kind 3 too short": ("a", "ends too early (foreign)", sealed(chunk(3, bytes(30)))),
}


def test_what_is_right_is_accepted() -> None:
    files = [
        GOOD,
        build([]),
        build([META], version=4),
        build([Entry(padding=bytes(50))]),
        build([Entry(shape=(1, 2), entry_version=5)], version=5, flags=2),
        build([path(b'["a",7]'), path(b'["a",2]')]),
    ]
    for data in files:
        with libtz.open(data) as file:
            file.load()
            file.verify()


def load(data: bytes) -> None:
    options = libtz.ReadOptions(decryption=libtz.DecryptionOptions(key=bytes(32)))
    if data[5] == 3:
        libtz.torch.load_file(data, options=options)
    libtz.torch.load_file(data)


@pytest.mark.parametrize(
    ("act", "tensor", "reason", "data"),
    [pytest.param(libtz.open, *case, id=name) for name, case in OPENING.items()]
    + [pytest.param(load, *case, id=name) for name, case in LOADING.items()],
)
def test_defects(act: Callable[[bytes], Any], tensor: str | None, reason: str, data: bytes) -> None:
    with pytest.raises(libtz.FormatError) as caught:
        act(data)
    place = "" if tensor is None else f", tensor {tensor!r}"
    assert str(caught.value).startswith(f"<memory>{place}, byte {caught.value.offset}: ")
    assert str(caught.value).endswith(reason)
    assert f"({caught.value.code}" in reason
    assert caught.value.tensor == tensor


def test_paths_do_not_make_nodes_without_end() -> None:
    """Two bytes of a path can be a separate list, which takes hundreds of bytes in memory."""

    def deep(count: int) -> bytes:
        """Each tensor is in 126 separate lists; all of them are in one more."""
        paths = [b"[%d%s]" % (number, b",0" * 126) for number in range(count)]
        entries = [Entry(name=b"\x1e" + text, shape=(0,), data=b"") for text in paths]
        return build(entries, index_size=300 * count)

    with libtz.open(deep(555)) as file:
        assert len(file.structure()) == 1 + 127 * 555 <= 65_536 + 9 * 555 < 1 + 127 * 556
    for act in (libtz.open, lambda data: TensorDeserializer(io.BytesIO(data), device="cpu")):
        with raises(libtz.FormatError, code="limit") as caught:
            act(deep(556))
        assert str(caught.value.tensor).startswith("555/0/0")


def test_records_of_empty_tensors_are_waited_for() -> None:
    """Nothing else of such a tensor arrives. Its record's memory was freed before the check."""
    empty = [Entry(name=b"%d" % number, shape=(0,), data=b"") for number in range(3)]
    wrong = Entry(name=b"wrong", shape=(0,), data=b"", record={"role": 1})
    for entries in (empty, [A, *empty], [*empty, A]):
        with libtz.open(build(entries)) as file:
            file.verify()
            for name, _ in file.iter_tensors():
                assert file.note(name).has_sha256  # type: ignore[attr-defined]
        for act in (lambda file: file.verify(), lambda file: list(file.iter_tensors())):
            with libtz.open(build([*entries, wrong])) as file, pytest.raises(libtz.FormatError):
                act(file)


def test_no_bit_of_the_metadata_can_change_unseen() -> None:
    entries = [
        Entry(name=b".scale", role=0, shape=(), dtype=b"<f4", data=b"\0\0\x80\x3f"),
        Entry(name=b"layer.w", role=0),
        Entry(name=b"layer.b", role=1, dtype=b"<V2\0torch.bfloat16", shape=(2,), data=b"abcd"),
    ]
    data = build(entries, version=2, index_size=256)
    expected = libtz.torch.load_file(data)
    begin = len(data) - 8
    accepted = set()
    for place in range(begin):
        for bit in (1, 0x80):
            changed = bytearray(data)
            changed[place] ^= bit
            try:
                tensors = libtz.torch.load_file(bytes(changed))
            except libtz.Error:
                continue
            accepted.add(place)
            assert list(tensors) == list(expected)
            assert all(tensors[name].equal(expected[name]) for name in expected)
    # The version may be another one without more flags, which changes nothing.
    assert accepted <= {5}


def test_unknown_dtypes_list_but_do_not_load() -> None:
    data = build([A, Entry(name=b"b", dtype=b">f4"), Entry(name=b"c", dtype=b"<V4\0torch.float17")])
    with libtz.open(data) as file:
        assert file.info("b").nbytes == 8
        assert file.load(["a"])["a"].shape == torch.Size([2])
        for name in ("b", "c"):
            with raises(libtz.FormatError, code="feature", tensor=name):
                file.load([name])
