"""Encrypted .tensors files that were changed without the key, and truncated files of all formats.
Each is refused with an error of libtz, and no data of it is returned."""

from __future__ import annotations

import hashlib
import io
import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import nacl.bindings
import pytest
import safetensors.torch
import torch
from tests.coreweave_files import Entry, build
from tests.raising import raises

import libtz
import libtz.torch
from libtz import DecryptionOptions, ReadOptions
from libtz.compat import tensorizer as compat
from libtz.compat.safetensors import torch as compat_safetensors

KEY = bytes(range(32))
NONCE = bytes(range(100, 124))
PIECE = 1024
PLAIN = bytes(range(256)) * 10  # three pieces, the last of 512 bytes
CHEAP = struct.pack("<HQQIH", 1, 1, 8192, 2, 16) + bytes(16)
PASSWORD = "correct horse"
BY_KEY = ReadOptions(decryption=DecryptionOptions(key=KEY))
BY_PASSWORD = ReadOptions(decryption=DecryptionOptions(passphrase=PASSWORD))


# ---- The generator -------------------------------------------------------------------------------


def part(kind: int, body: bytes) -> bytes:
    return struct.pack("<QH", 2 + len(body), kind) + body


def crypt(*parts: bytes, count: int | None = None) -> bytes:
    body = struct.pack("<H", len(parts) if count is None else count) + b"".join(parts)
    return struct.pack("<Q", len(body)) + body


def boxes(nonce: bytes, tags: list[bytes], piece: int = PIECE, count: int | None = None) -> bytes:
    count = len(tags) if count is None else count
    return part(2, struct.pack("<Q", piece) + nonce + struct.pack("<Q", count) + b"".join(tags))


def seal(plain: bytes, key: bytes, nonce: bytes, piece: int) -> tuple[list[bytes], list[bytes]]:
    """Tags and encrypted pieces."""
    tags, pieces = [], []
    for number, begin in enumerate(range(0, len(plain), piece)):
        place = (int.from_bytes(nonce, "little") + number).to_bytes(24, "little")
        box = nacl.bindings.crypto_secretbox_easy(plain[begin : begin + piece], place, key)
        tags.append(box[:16])
        pieces.append(box[16:])
    return tags, pieces


def entry(
    name: bytes = b"a",
    plain: bytes = PLAIN,
    *,
    key: bytes = KEY,
    nonce: bytes = NONCE,
    piece: int = PIECE,
    derivation: bytes | None = None,
) -> Entry:
    """A valid encrypted tensor."""
    tags, pieces = seal(plain, key, nonce, piece)
    parts = [] if derivation is None else [part(1, derivation)]
    block = crypt(*parts, boxes(nonce, tags, piece))
    return hashed(name, plain, b"".join(pieces), block)


def hashed(name: bytes, plain: bytes, data: bytes, block: bytes) -> Entry:
    """The tensor with the SHA-256 of its header and plain bytes."""
    draft = Entry(name=name, shape=(len(plain),), dtype=b"|u1", data=data, crypt=block)
    draft = replace(draft, hashes=b"\1\1\x20" + bytes(32))
    file = build([draft], version=3)
    header = file[73 + 512 : -8 - len(data)].replace(block, b"", 1)
    return replace(draft, hashes=b"\1\1\x20" + hashlib.sha256(header + plain).digest())


def with_crypt(block: bytes) -> bytes:
    """A file whose tensor has another encryption block; its hash does not cover that."""
    return encrypted(replace(entry(), crypt=block))


def encrypted(*entries: Entry) -> bytes:
    return build(entries, version=3)


TAGS, PIECES = seal(PLAIN, KEY, NONCE, PIECE)
OTHER = bytes(reversed(PLAIN))
A, B = entry(), entry(b"b", OTHER, nonce=NONCE[::-1])
PASSWORD_KEY: bytes = nacl.bindings.crypto_pwhash_alg(32, PASSWORD.encode(), bytes(16), 1, 8192, 2)


def derived(opslimit: int = 1, memlimit: int = 8192, salt: bytes = bytes(16)) -> bytes:
    return struct.pack("<HQQIH", 1, opslimit, memlimit, 2, 16) + salt


def test_the_generator() -> None:
    """The files attacked below load without the attacks."""
    tensors = libtz.torch.load_file(encrypted(A, B), options=BY_KEY)
    assert {name: bytes(tensor.numpy()) for name, tensor in tensors.items()} == {
        "a": PLAIN,
        "b": OTHER,
    }
    for piece in (1024, 2048, 1 << 62):
        file = encrypted(entry(piece=piece))
        assert bytes(libtz.torch.load_file(file, options=BY_KEY)["a"].numpy()) == PLAIN
    file = encrypted(entry(key=PASSWORD_KEY, derivation=derived()))
    assert bytes(libtz.torch.load_file(file, options=BY_PASSWORD)["a"].numpy()) == PLAIN


# ---- Attacks without the key ---------------------------------------------------------------------

ATTACKS: dict[str, tuple[type[libtz.Error], str, bytes]] = {
    "a plain tensor": (
        libtz.FormatError,
        "its data are not encrypted, although the file is",
        encrypted(A, Entry(name=b"b", crypt=crypt())),
    ),
    "a plain tensor with a way to derive the key": (
        libtz.FormatError,
        "its data are not encrypted, although the file is",
        encrypted(A, Entry(name=b"b", crypt=crypt(part(1, CHEAP)))),
    ),
    "a plain file": (libtz.IntegrityError, "not encrypted", build([Entry()])),
    "an unknown type": (libtz.FormatError, "unknown type", with_crypt(crypt(part(9, bytes(64))))),
    "an unknown way to derive": (
        libtz.FormatError,
        "derived in an unknown way",
        with_crypt(crypt(part(1, b"\2" + CHEAP[1:]), boxes(NONCE, TAGS))),
    ),
    "an unknown algorithm": (
        libtz.FormatError,
        "derived in an unknown way",
        with_crypt(crypt(part(1, CHEAP[:18] + b"\3" + CHEAP[19:]), boxes(NONCE, TAGS))),
    ),
    "65,535 parts": (
        libtz.FormatError,
        "wrong size|extends beyond|ends within",
        with_crypt(crypt(boxes(NONCE, TAGS), count=65535)),
    ),
    "2^63 pieces": (
        libtz.FormatError,
        "number of its encrypted pieces",
        with_crypt(crypt(boxes(NONCE, TAGS, count=1 << 63))),
    ),
    "a part of 2^63 bytes": (
        libtz.FormatError,
        "wrong size",
        with_crypt(crypt(struct.pack("<QH", 1 << 63, 2) + bytes(64))),
    ),
    "a block of 2^63 bytes": (
        libtz.FormatError,
        "extends beyond the record header",
        with_crypt(struct.pack("<Q", 1 << 63) + crypt(boxes(NONCE, TAGS))[8:]),
    ),
    "pieces of one byte": (
        libtz.FormatError,
        "multiple of 64",
        with_crypt(crypt(boxes(NONCE, TAGS, piece=1, count=len(PLAIN)))),
    ),
    "a missing tag": (
        libtz.FormatError,
        "number of its encrypted pieces",
        with_crypt(crypt(boxes(NONCE, TAGS[:-1]))),
    ),
    "a tag cut short": (
        libtz.FormatError,
        "wrong size|extends beyond|ends",
        with_crypt(crypt(boxes(NONCE, [*TAGS[:-1], TAGS[-1][:-1]], count=3))),
    ),
    "encrypted twice": (
        libtz.FormatError,
        "encrypted twice",
        with_crypt(crypt(boxes(NONCE, TAGS), boxes(NONCE, TAGS))),
    ),
    "pieces swapped within a tensor": (
        libtz.IntegrityError,
        "piece 0: it cannot be decrypted",
        encrypted(replace(A, data=PIECES[1] + PIECES[0] + PIECES[2])),
    ),
    "pieces and their tags swapped within a tensor": (
        libtz.IntegrityError,
        "piece 0: it cannot be decrypted",
        encrypted(
            replace(
                A,
                data=PIECES[1] + PIECES[0] + PIECES[2],
                crypt=crypt(boxes(NONCE, [TAGS[1], TAGS[0], TAGS[2]])),
            )
        ),
    ),
    "another nonce": (
        libtz.IntegrityError,
        "cannot be decrypted",
        with_crypt(crypt(boxes(NONCE[::-1], TAGS))),
    ),
    "tags of another tensor": (
        libtz.IntegrityError,
        "'b', piece 0: it cannot be decrypted",
        encrypted(A, replace(B, crypt=A.crypt)),
    ),
    "data of another tensor": (
        libtz.IntegrityError,
        "'b', piece 0: it cannot be decrypted",
        encrypted(A, replace(B, data=A.data)),
    ),
    "data, nonce and tags of another tensor": (
        libtz.IntegrityError,
        "'b': these are not the bytes that were written",
        encrypted(A, replace(B, data=A.data, crypt=A.crypt)),
    ),
    "names swapped": (
        libtz.IntegrityError,
        "'b': these are not the bytes that were written",
        encrypted(replace(A, name=b"b")),
    ),
    "another shape": (
        libtz.IntegrityError,
        "'a': these are not the bytes that were written",
        encrypted(replace(A, shape=(10, 256))),
    ),
    "another type": (
        libtz.IntegrityError,
        "'a': these are not the bytes that were written",
        encrypted(replace(A, dtype=b"|i1")),
    ),
    "a tensor without hashes": (
        libtz.IntegrityError,
        "SHA-256 that binds its name and shape to the data is missing",
        encrypted(A, replace(B, hashes=b"\0")),
    ),
    "another key": (
        libtz.IntegrityError,
        "the key is wrong",
        encrypted(entry(key=bytes(32))),
    ),
}


def verify(data: bytes) -> None:
    with libtz.open(data, options=BY_KEY) as file:
        file.verify()


@pytest.fixture
def no_derivation(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        pytest.fail("a key was derived")

    monkeypatch.setattr(nacl.bindings, "crypto_pwhash_alg", fail)


@pytest.mark.usefixtures("no_derivation")
@pytest.mark.parametrize("name", ATTACKS)
def test_attacks(name: str, tmp_path: Path) -> None:
    kind, text, data = ATTACKS[name]
    path = tmp_path / "x.tensors"
    path.write_bytes(data)
    uses: list[Callable[[], Any]] = [
        lambda: libtz.torch.load_file(data, options=BY_KEY),
        lambda: libtz.torch.load_file(path, options=replace(BY_KEY, local="map")),
        partial(verify, data),
        lambda: dict(libtz.open(data, options=BY_KEY).iter_tensors()),
    ]
    tracemalloc.start()
    try:
        for use in uses:
            with pytest.raises(kind, match=text):
                use()
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()  # all tests after this one would be several times slower
    with pytest.raises(libtz.Error) as caught:
        compat.TensorDeserializer(
            path, device="cpu", encryption=compat.DecryptionParams.from_key(KEY)
        )
    is_cryptography = any(words in text for words in ("decrypted", "key is wrong", "not encrypted"))
    is_cryptography &= kind is libtz.IntegrityError
    assert isinstance(caught.value, compat.CryptographyError) == is_cryptography


@pytest.mark.parametrize("local", ["copy", "map"])
def test_nothing_is_handed_out(local: Any, tmp_path: Path) -> None:
    """The tensors before the wrong one are not returned either, and the file stays unchanged."""
    path = tmp_path / "x.tensors"
    data = encrypted(A, replace(B, data=A.data, crypt=A.crypt))
    path.write_bytes(data)
    module = torch.nn.Module()
    for name in ("a", "b"):
        module.register_buffer(name, torch.zeros(len(PLAIN), dtype=torch.uint8))
    with pytest.raises(libtz.IntegrityError) as caught:
        libtz.torch.load_model(module, path, options=replace(BY_KEY, local=local))
    untouched = {name for name, tensor in module.state_dict().items() if not tensor.any()}
    assert untouched | set(caught.value.changed) == {"a", "b"}
    handed = []
    with libtz.open(path, options=replace(BY_KEY, local=local)) as file:
        with pytest.raises(libtz.IntegrityError):
            handed += [name for name, _ in file.iter_tensors()]
        with pytest.raises(libtz.Error):
            file.load(["a"])  # closed by the error
    assert handed == []
    assert path.read_bytes() == data


@pytest.mark.usefixtures("no_derivation")
@pytest.mark.parametrize(
    ("opslimit", "memlimit"),
    [(5, 8192), (1, (1 << 30) + 1), (1, 1 << 40), ((1 << 64) - 1, 8192), (1, (1 << 64) - 1)],
)
def test_the_reader_says_what_deriving_a_key_may_cost(opslimit: int, memlimit: int) -> None:
    data = encrypted(entry(key=PASSWORD_KEY, derivation=derived(opslimit, memlimit)))
    with pytest.raises(libtz.OptionError, match=r"DecryptionOptions\.operations_max"):
        libtz.torch.load_file(data, options=BY_PASSWORD)
    limits = replace(BY_PASSWORD.decryption, operations_max=4, memory_max=8192)
    data = encrypted(entry(key=PASSWORD_KEY, derivation=derived(4, 8193)))
    with pytest.raises(libtz.OptionError, match=r"8192 \(DecryptionOptions\.memory_max\)"):
        libtz.torch.load_file(data, options=replace(BY_PASSWORD, decryption=limits))


def test_a_key_is_derived_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a different salt for each tensor, every tensor would take the full cost."""
    derive = Mock(wraps=nacl.bindings.crypto_pwhash_alg)
    monkeypatch.setattr(nacl.bindings, "crypto_pwhash_alg", derive)
    entries = [
        entry(b"%d" % number, key=PASSWORD_KEY, derivation=derived(salt=bytes([number] * 16)))
        for number in range(20)
    ]
    with raises(libtz.IntegrityError, code="decryption"):
        libtz.torch.load_file(build(entries, version=3, index_size=1024), options=BY_PASSWORD)
    assert derive.call_count == 1


def test_what_the_format_does_not_authenticate_a_pin_does() -> None:
    """A tensor without its data loads as zeros, and a tensor can be removed."""
    whole = build([A, B], version=4, flags=1)
    pin = "sha256:" + hashlib.sha256(whole).hexdigest()
    assert len(libtz.torch.load_file(whole, digest=pin, options=BY_KEY)) == 2
    emptied = Entry(name=b"b", shape=(len(OTHER),), dtype=b"|u1", data=b"", crypt=crypt())
    for entries, rest in (([A, emptied], {"b": bytes(len(OTHER))}), ([A], {})):
        data = build(entries, version=4, flags=1)
        tensors = libtz.torch.load_file(data, options=BY_KEY)
        found = {name: bytes(tensor.numpy()) for name, tensor in tensors.items()}
        assert found == {"a": PLAIN, **rest}
        with raises(libtz.IntegrityError, code="digest", expected=pin):
            libtz.torch.load_file(data, digest=pin, options=BY_KEY)


# ---- Every byte, and every length ----------------------------------------------------------------

SMALL = [entry(b"a", PLAIN[:100]), entry(b"b", OTHER[:7], nonce=NONCE[::-1])]
STATE = {"a": torch.arange(5.0), "b": torch.tensor(3), "e": torch.empty(0, 2)}
PLAIN_TENSORS = [Entry(), Entry(name=b"\x1e" + b'["n",0]'), Entry(name=b"e", shape=(0,), data=b"")]
FILES: dict[str, tuple[bytes, ReadOptions]] = {
    "encrypted": (encrypted(*SMALL), BY_KEY),
    "password": (
        encrypted(entry(plain=PLAIN[:50], key=PASSWORD_KEY, derivation=derived())),
        BY_PASSWORD,
    ),
    "tensors": (build(PLAIN_TENSORS), ReadOptions()),
    "safetensors": (safetensors.torch.save(STATE, {"k": "v"}), ReadOptions()),
}


@pytest.mark.parametrize("name", FILES)
def test_files_cut_at_every_length(name: str, tmp_path: Path) -> None:
    data, options = FILES[name]
    assert libtz.torch.load_file(data, options=options)
    path = tmp_path / "cut"
    for size in range(len(data)):
        cut = data[:size]
        with pytest.raises(libtz.Error):
            libtz.torch.load_file(cut, options=options)
        if size % 7 == 0:  # files are slower
            path.write_bytes(cut)
            for local in ("copy", "map"):
                with pytest.raises(libtz.Error):
                    libtz.torch.load_file(path, options=replace(options, local=local))
            with pytest.raises(libtz.Error):
                through_compat(name, cut)
    with pytest.raises(libtz.Error):
        libtz.torch.load_file(data + b"\0", options=options)


def through_compat(name: str, data: bytes) -> None:
    if name == "safetensors":
        compat_safetensors.load(data)
        return
    keys = {
        "encrypted": compat.DecryptionParams.from_key(KEY),
        "password": compat.DecryptionParams.from_string(PASSWORD),
    }
    compat.TensorDeserializer(io.BytesIO(data), device="cpu", encryption=keys.get(name))


def test_no_bit_of_an_encrypted_file_changes_what_is_loaded() -> None:
    """Nothing covers the size of pieces if the tensor has a single, shorter piece."""
    data, options = FILES["encrypted"]
    sizes = [data.index(NONCE) - 8, data.index(NONCE[::-1]) - 8]
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        try:
            tensors = libtz.torch.load_file(bytes(changed), options=options)
        except libtz.Error:
            continue
        assert any(size <= place < size + 8 for size in sizes)
        assert bytes(tensors["a"].numpy()) == PLAIN[:100]
        assert bytes(tensors["b"].numpy()) == OTHER[:7]
