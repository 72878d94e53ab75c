"""Writing .tensors files: the tensorizer package reads them and checks every hash."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorizer
import torch
from tests.libsodium import needs_libsodium

from libtz.arrays.torch_dtypes import FORMAT_NAMES, TORCH_DTYPES
from libtz.errors import OptionError
from libtz.torch import tensor_bytes
from libtz.writing.coreweave import CoreweaveWriter, Role, TensorRecord
from libtz.writing.coreweave_sealing import PasswordHash, SealingKey

pytestmark = pytest.mark.slow

Tensors = Mapping[Any, torch.Tensor]

# Values of each dtype, as bits; those of bool are 0 and 1.
DTYPES = {
    f"t.{name}": torch.arange(192, dtype=torch.uint8).remainder(2).view(3, 64).view(dtype)
    for name, dtype in TORCH_DTYPES.items()
}
PLAIN: dict[Any, torch.Tensor] = {
    "weight": torch.randn(700, 300),
    "large": torch.randn(1 << 20),  # several cipher pieces
    "scalar": torch.tensor(3.5),
    "empty": torch.empty(0, 5),
    "Gewicht ß": torch.arange(5),
    "a.strided": torch.arange(20.0).view(4, 5).t(),
}
OPAQUE = {"bf16": torch.randn(9, 9).to(torch.bfloat16)}
META = {"meta": torch.empty(5, 3, device="meta")}
LONG = {"long": torch.empty(1 << 33, 0)}
NESTED = {
    ("model", "layers", 0, "w"): torch.ones(3),
    ("model", "layers", 1, "w"): torch.ones(2),
    ("model", 'odd "key"\n', "ß"): torch.ones(2, 2),
    "flat": torch.zeros(1),
}


def path_of(name: Any) -> tuple[Any, ...]:
    return (name,) if isinstance(name, str) else name


def record(name: Any, tensor: torch.Tensor) -> TensorRecord:
    dtype = FORMAT_NAMES[tensor.dtype]
    return TensorRecord(path_of(name), dtype, tuple(tensor.shape), is_meta=tensor.is_meta)


def write(target: Any, tensors: Tensors, key: SealingKey | None = None) -> str | None:
    records = [record(name, tensor) for name, tensor in tensors.items()]
    with CoreweaveWriter(target, records, key=key) as writer:
        for name, tensor in tensors.items():
            data = None if tensor.is_meta else tensor_bytes.data_of(tensor.contiguous())
            writer.write_pieces(name, lambda data=data: [] if data is None else [data])  # type: ignore[misc]
    return writer.digest


def check(path: Any, tensors: Tensors, encryption: Any = None) -> tensorizer.TensorDeserializer:
    """Requires that the tensorizer package reads the file and checks its hashes."""
    file = tensorizer.TensorDeserializer(
        path, device="cpu", verify_hash=True, encryption=encryption
    )
    for name, expected in tensors.items():
        tensor = file.tree(path_of(name))
        assert (tensor.dtype, tensor.shape) == (expected.dtype, expected.shape)
        if expected.is_meta:
            expected = torch.zeros(expected.shape, dtype=expected.dtype)
        assert torch.equal(bits(tensor), bits(expected)), name
    return file


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.tensors"
    write(path, {name: DTYPES[name]})
    check(path, {name: DTYPES[name]})


@pytest.mark.parametrize(
    ("tensors", "version"),
    [
        (PLAIN, 1),
        (PLAIN | OPAQUE, 2),
        (PLAIN | META, 4),
        (PLAIN | OPAQUE | META, 4),
        (PLAIN | OPAQUE | META | LONG, 5),
        (NESTED, 1),
    ],
    ids=["plain", "opaque", "meta", "opaque-meta", "long", "nested"],
)
def test_files_have_the_lowest_version_and_the_sha256_that_is_told(
    tmp_path: Path, tensors: Tensors, version: int
) -> None:
    path = tmp_path / "x.tensors"
    digest = write(path, tensors)
    data = path.read_bytes()
    assert struct.unpack_from("<I", data, 5) == (version,)
    assert digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
    check(path, tensors)


@needs_libsodium
@pytest.mark.parametrize(
    ("tensors", "version"),
    [(PLAIN | OPAQUE, 3), (PLAIN | META, 4), (PLAIN | LONG, 5), (NESTED, 3)],
    ids=["opaque", "meta", "long", "nested"],
)
def test_encrypted_with_a_key(tmp_path: Path, tensors: Tensors, version: int) -> None:
    path = tmp_path / "x.tensors"
    key = os.urandom(32)
    write(path, tensors, SealingKey(key))
    data = path.read_bytes()
    assert struct.unpack_from("<I", data, 5) == (version,)
    for tensor in tensors.values():
        if not tensor.is_meta and tensor.nbytes > 16:
            assert bits(tensor).numpy().tobytes() not in data
    check(path, tensors, tensorizer.DecryptionParams.from_key(key))


@needs_libsodium
def test_encrypted_with_a_password(tmp_path: Path) -> None:
    path = tmp_path / "x.tensors"
    derivation = PasswordHash(1, 8192, os.urandom(16))
    write(path, PLAIN, SealingKey(derivation.key(b"secret"), derivation))
    check(path, PLAIN, tensorizer.DecryptionParams.from_string("secret"))


def test_encrypting_leaves_the_tensors_alone(tmp_path: Path) -> None:
    tensor = torch.randn(1 << 20)
    before = tensor.clone()
    write(tmp_path / "x.tensors", {"x": tensor}, SealingKey(os.urandom(32)))
    assert torch.equal(tensor, before)


def test_the_index_has_room_for_all_tensors(tmp_path: Path) -> None:
    """More than fit into an index of the usual 256 KiB. The package's time is quadratic."""
    path = tmp_path / "x.tensors"
    tensors = {f"layers.{number:05d}.{'x' * 200}": torch.tensor(number) for number in range(1200)}
    write(path, tensors)
    check(path, tensors)


@pytest.mark.parametrize("key", [None, SealingKey(bytes(32))], ids=["plain", "encrypted"])
def test_data_are_aligned(tmp_path: Path, key: SealingKey | None) -> None:
    path = tmp_path / "x.tensors"
    write(path, PLAIN | OPAQUE, key)
    encryption = None if key is None else tensorizer.DecryptionParams.from_key(key.key)
    file = tensorizer.TensorDeserializer(path, device="cpu", lazy_load=True, encryption=encryption)
    for entry in file._metadata.values():
        assert entry.data_offset % (4096 if entry.data_length >= 65536 else 64) == 0


def test_modules_and_numbers_of_theirs(tmp_path: Path) -> None:
    path = tmp_path / "x.tensors"
    records = [
        TensorRecord(("a.w",), "f32", (2,), Role.PARAMETER, 3),
        TensorRecord(("a.b",), "f32", (2,), Role.BUFFER, 65535),
    ]
    with CoreweaveWriter(path, records) as writer:
        for record in records:
            writer.write_pieces(record.name, lambda: [np.zeros(1, np.float32)] * 2)
    file = tensorizer.TensorDeserializer(path, device="cpu", lazy_load=True, verify_hash=True)
    found = [(number, kind, name) for number, kind, name, _ in file.read_tensors()]
    assert found == [(3, 0, "a.w"), (65535, 1, "a.b")]


def test_a_file_without_tensors_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "x.tensors"
    write(path, {})
    assert path.stat().st_size == 73 + 256 * 1024 + 8


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([TensorRecord(("a",), "f32", (1,))] * 2, "taken"),
        ([TensorRecord(("a",), "f32", ()), TensorRecord(("a", "b"), "f32", ())], "taken"),
        ([TensorRecord(("a", "b"), "f32", ()), TensorRecord(("a",), "f32", ())], "taken"),
        ([TensorRecord(("a", "b"), "f32", ()), TensorRecord(("a", 0), "f32", ())], "str and int"),
        ([TensorRecord(("a", -1), "f32", ())], "negative"),
        ([TensorRecord(("a", True), "f32", ())], "str and int"),
        ([TensorRecord(("",), "f32", ())], "cannot hold a tensor"),
        ([TensorRecord(("\x1e[0]",), "f32", ())], "control character"),
        ([TensorRecord(("x" * 70000,), "f32", ())], "65535 bytes"),
        ([TensorRecord(("x",), "f6_e2m3_x4", (1,))], "dtype"),
        ([TensorRecord(("x",), "f32", (1,) * 256)], "255 dimensions"),
        ([TensorRecord(("x",), "f32", (1,), Role.PARAMETER, 65536)], "65536"),
        ([TensorRecord(("x", "y"), "f32", (1,), Role.PARAMETER)], "must be a str"),
    ],
)
def test_what_the_format_cannot_hold(
    tmp_path: Path, records: list[TensorRecord], words: str
) -> None:
    with pytest.raises(OptionError, match=words):
        CoreweaveWriter(tmp_path / "x.tensors", records)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [0, 7, 9])
def test_wrong_sizes_leave_no_file(tmp_path: Path, size: int) -> None:
    record = TensorRecord(("x",), "f32", (2,))
    with (
        pytest.raises(OptionError, match="'x'"),
        CoreweaveWriter(tmp_path / "x.tensors", [record]) as writer,
    ):
        writer.write_pieces("x", lambda: [bytes(size)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["b"], "declared order; got 'b', expected 'a'"),
        (["a", "a"], "'a' was already written; expected 'b'"),
        (["a", "b", "c"], "no tensor 'c' was declared; all tensors have been written"),
        (["x"], "no tensor 'x' was declared; expected 'a'"),
    ],
)
def test_data_under_another_name_are_refused(
    tmp_path: Path, names: list[str], message: str
) -> None:
    """The sizes match, so only the name shows the mistake."""
    records = [TensorRecord(("a",), "f32", (2,)), TensorRecord(("b",), "f32", (2,))]
    *right, wrong = names

    def write() -> None:
        with CoreweaveWriter(tmp_path / "x.tensors", records) as writer:
            for name in right:
                writer.write_pieces(name, lambda: [bytes(8)])
            writer.write_pieces(wrong, lambda: [bytes(8)])

    with pytest.raises(OptionError, match=message):
        write()
    assert list(tmp_path.iterdir()) == []


def test_missing_tensors_leave_no_file(tmp_path: Path) -> None:
    record = TensorRecord(("x",), "f32", (2,))
    with (
        pytest.raises(OptionError, match="'x' was declared but not written"),
        CoreweaveWriter(tmp_path / "x.tensors", [record]),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


MEMORY = """
import resource, sys
from libtz.writing.coreweave import TensorRecord, CoreweaveWriter
piece = bytes(1 << 20)
def write(count):
    with CoreweaveWriter(sys.argv[1], [TensorRecord(("x",), "u8", (count << 20,))]) as writer:
        writer.write_pieces("x", lambda: (piece for _ in range(count)))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
small = write(8)
print(write(256) - small)
"""


def test_a_tensor_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "x.tensors")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(result.stdout) < 32 * 1024  # KiB, of 256 MiB
