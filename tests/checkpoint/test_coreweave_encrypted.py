"""Encrypted files of CoreWeave's Tensorizer, written by the package itself."""

from __future__ import annotations

import struct
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nacl.bindings
import pytest
import torch
from tests.coreweave_files import Entry, build
from tests.raising import raises

import libtz
import libtz.torch
from libtz import DecryptionOptions, ReadOptions
from libtz.cli.main import main
from libtz.compat import tensorizer as compat
from libtz.writing.coreweave import CoreweaveWriter
from libtz.writing.coreweave_sealing import SealingKey

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tensorizer import EncryptionParams, TensorSerializer

STATE = {
    "small": torch.arange(7.0),
    "large": torch.rand(700_000),  # two pieces
    "meta": torch.empty(3, device="meta"),
}
CHEAP: dict[str, Any] = {
    "opslimit": EncryptionParams.OpsLimit.MIN,
    "memlimit": EncryptionParams.MemLimit.MIN,
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(params: Any, state: Any = STATE) -> Path:
        path = tmp_path / "encrypted.tensors"
        serializer = TensorSerializer(str(path), encryption=params)
        # The package encrypts in place.
        serializer.write_state_dict({name: t.clone() for name, t in state.items()})
        serializer.close()
        return path

    return write


def with_key(**key: Any) -> ReadOptions:
    return ReadOptions(decryption=DecryptionOptions(**key))


def check(tensors: dict[str, torch.Tensor]) -> None:
    assert tensors["small"].equal(STATE["small"])
    assert tensors["large"].equal(STATE["large"])
    assert tensors["meta"].equal(torch.zeros(3))


@pytest.mark.parametrize("state", [STATE, {name: STATE[name] for name in ("small", "large")}])
def test_a_key(write: Callable[..., Path], tmp_path: Path, state: Any) -> None:
    params = EncryptionParams.random()
    path = write(params, state)
    key_file = tmp_path / "key"
    key_file.write_bytes(params.key)
    for key in ({"key": params.key}, {"key_file": str(key_file)}):
        for options in (
            with_key(**key),
            ReadOptions(decryption=DecryptionOptions(**key), local="map"),
            ReadOptions(decryption=DecryptionOptions(**key), verify=False),
        ):
            with libtz.open(path, options=options) as file:
                for _ in range(2):
                    tensors = file.load()
                    check({"meta": torch.zeros(3), **tensors})
                assert file.verified == ("checksum" if options.verify else "none")
                assert file.get_slice("large")[5:9].equal(STATE["large"][5:9])
                assert dict(file.iter_tensors())["large"].equal(STATE["large"])
                file.verify()
    assert main(["verify", str(path), "--decryption-key-file", str(key_file)]) == 0
    plain = tmp_path / "plain.tz"
    assert main(["convert", str(path), str(plain), "--decryption-key-file", str(key_file)]) == 0
    assert libtz.torch.load_file(plain)["large"].equal(STATE["large"])


def test_a_passphrase(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(EncryptionParams.from_string("correct horse", **CHEAP))
    check(libtz.torch.load_file(path, options=with_key(passphrase="correct horse")))
    (tmp_path / "phrase").write_text("correct horse\n")
    check(libtz.torch.load_file(path, options=with_key(passphrase_file=str(tmp_path / "phrase"))))
    with raises(libtz.IntegrityError, code="decryption", tensor="small"):
        libtz.torch.load_file(path, options=with_key(passphrase="battery staple"))


def test_the_reader_limits_the_cost(write: Callable[..., Path]) -> None:
    path = write(
        EncryptionParams.from_string("p", opslimit=3, memlimit=EncryptionParams.MemLimit.MIN)
    )
    options = with_key(passphrase="p", operations_max=2)
    with pytest.raises(libtz.OptionError, match=r"DecryptionOptions\.operations_max"):
        libtz.torch.load_file(path, options=options)
    data = bytearray(path.read_bytes())
    place = data.index((3).to_bytes(8, "little"), 73 + (256 << 10))
    memory = place + 8
    data[memory : memory + 8] = (1 << 62).to_bytes(8, "little")
    with pytest.raises(libtz.OptionError, match="4611686018427387904"):
        libtz.torch.load_file(bytes(data), options=with_key(passphrase="p"))


def test_without_or_with_another_key(write: Callable[..., Path]) -> None:
    params = EncryptionParams.random()
    path = write(params)
    with libtz.open(path) as file:
        assert file.info("large").shape == (700_000,)
        with pytest.raises(libtz.OptionError, match="is encrypted"):
            file.load()
    with raises(libtz.IntegrityError, code="decryption"):
        libtz.torch.load_file(path, options=with_key(key=bytes(32)))
    with pytest.raises(libtz.OptionError, match="does not come from a passphrase"):
        libtz.torch.load_file(path, options=with_key(passphrase="p"))
    plain = path.with_name("plain.tz")
    libtz.torch.save_file({"a": torch.ones(1)}, plain)
    with raises(libtz.IntegrityError, code="not-encrypted"):
        libtz.open(plain, options=with_key(key=params.key))


def test_changed_data(write: Callable[..., Path]) -> None:
    params = EncryptionParams.random()
    data = bytearray(write(params).read_bytes())
    data[-1_000_000] ^= 1
    for verify in (True, False):
        options = ReadOptions(verify=verify, decryption=DecryptionOptions(key=params.key))
        with raises(libtz.IntegrityError, code="decryption", tensor="large", chunk=0):
            libtz.torch.load_file(bytes(data), options=options)


def sealed(name: bytes, plain: bytes, key: bytes) -> Entry:
    """An encrypted tensor of floats without hashes."""
    box = nacl.bindings.crypto_secretbox_easy(plain, bytes(24), key)
    chunk = struct.pack("<QHQ24xQ", 2 + 40 + 16, 2, 1024, 1) + box[:16]
    crypt = struct.pack("<QH", 2 + len(chunk), 1) + chunk
    shape = (len(plain) // 4,)
    return Entry(name=name, shape=shape, data=box[16:], hashes=b"\0", crypt=crypt)


def test_names_and_shapes_are_bound_to_the_data() -> None:
    """Otherwise, removing the hashes would allow swapping or shortening tensors without the key."""
    key = bytes(range(32))
    data = build([sealed(b"swapped", bytes(8), key)], version=3)
    with raises(libtz.IntegrityError, code="no-hash", tensor="swapped"):
        libtz.torch.load_file(data, options=with_key(key=key))
    options = ReadOptions(verify=False, decryption=DecryptionOptions(key=key))
    assert libtz.torch.load_file(data, options=options)["swapped"].equal(torch.zeros(2))


def test_what_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both reading and writing refuse it."""
    key = bytes(range(32))
    data = build([sealed(b"a", bytes(8), key)], version=3)
    monkeypatch.setitem(sys.modules, "nacl.bindings", None)
    monkeypatch.setitem(sys.modules, "nacl", None)
    path = tmp_path / "x.tensors"
    for use in (
        lambda: libtz.torch.load_file(data, options=with_key(key=key)),
        lambda: CoreweaveWriter(path, [], key=SealingKey(key)),
        lambda: compat.TensorSerializer(path, encryption=compat.EncryptionParams(key)),
        lambda: compat.EncryptionParams.from_string("p"),
    ):
        with pytest.raises(libtz.OptionError, match=r"pip install 'libtz\[encryption\]'"):
            use()
    assert not path.exists()


def test_options_show_no_secret() -> None:
    for key in ({"key": b"k" * 32}, {"passphrase": "kkkk"}):
        assert "kkk" not in repr(with_key(**key))
    for wrong in (
        {"key": b"short"},
        {"passphrase": ""},
        {"key_file": ""},
        {"key": b"k" * 32, "passphrase": "p"},
        {"operations_max": 0},
    ):
        with pytest.raises(libtz.OptionError) as caught:
            DecryptionOptions(**wrong)
        assert "kkk" not in str(caught.value)
