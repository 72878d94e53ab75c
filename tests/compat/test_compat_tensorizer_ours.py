"""Where libtz.compat.tensorizer deliberately differs from the package, and what it refuses."""

from __future__ import annotations

import os
import struct
import warnings
from pathlib import Path
from typing import Any

import nacl.bindings
import nacl.exceptions
import pytest
import tensorizer
import torch
from tests import coreweave_files as files
from tests.libsodium import needs_libsodium

import libtz
import libtz.torch
from libtz.compat import tensorizer as ours
from libtz.compat.tensorizer import (
    DecryptionParams,
    EncryptionParams,
    TensorDeserializer,
    TensorSerializer,
    TensorType,
    stream_io,
)
from libtz.compat.tensorizer.serialization import HashMismatchError
from libtz.errors import Error, OptionError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.tensors"


def write_module(path: Any, module: torch.nn.Module, **options: Any) -> None:
    with TensorSerializer(path) as serializer:
        serializer.write_module(module, **options)


def write_state(path: Any, state: Any, **options: Any) -> None:
    with TensorSerializer(path, **options) as serializer:
        serializer.write_state_dict(state)


def read(path: Any, **options: Any) -> TensorDeserializer:
    return TensorDeserializer(path, device="cpu", **options)


class Buffers(torch.nn.Module):
    kept: torch.Tensor
    lost: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.rand(2))
        self.register_buffer("lost", torch.rand(2), persistent=False)
        self.inner = torch.nn.BatchNorm1d(2)
        self.inner.register_buffer("lost", torch.rand(2), persistent=False)
        self.frozen = torch.nn.Parameter(torch.rand(2), requires_grad=False)


class Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(5, 3)
        self.head = torch.nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight


# ---- Damage --------------------------------------------------------------------------------------


def test_a_file_that_was_cut_is_refused(path: Path) -> None:
    write_state(path, {"x": torch.rand(1000)})
    whole = path.read_bytes()
    for size in (len(whole) - 1, len(whole) - 8, len(whole) - 2000, 263_000, 100, 5, 0):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=str(path)):
            read(path)


def test_data_are_checked_without_being_asked_for(path: Path) -> None:
    write_state(path, {"x": torch.rand(1000)})
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(HashMismatchError) as caught:
        read(path)
    assert caught.value.tensor == "x"
    assert not torch.equal(tensorizer.TensorDeserializer(path, device="cpu")["x"], torch.zeros(1))


def test_sha256_is_checked_when_asked_for(path: Path) -> None:
    """By default, only CRC-32 is checked, which is much faster; encrypted tensors have no other."""
    for encryption in (None, EncryptionParams.random()):
        key = None if encryption is None else DecryptionParams.from_key(encryption.key)
        write_state(path, {"x": torch.arange(100.0)}, encryption=encryption)
        data = bytearray(path.read_bytes())
        place = data.index(b"\x01\x20", 73 + (256 << 10)) + 2
        data[place] ^= 1
        path.write_bytes(data)
        if encryption is None:
            assert read(path)["x"].equal(torch.arange(100.0))
        else:
            with pytest.raises(HashMismatchError, match="SHA-256"):
                read(path, encryption=key)
        with pytest.raises(HashMismatchError, match="SHA-256"):
            read(path, encryption=key, verify_hash=True)
        lazy = read(path, encryption=key, lazy_load=True)
        with pytest.raises(HashMismatchError, match="SHA-256"):
            list(lazy.read_tensors(verify_hash=True))


def without_hashes(data: bytes) -> bytes:
    """The same file without hashes in its records; their bytes become padding."""
    block = bytes([2, 0, 4])  # two hashes, a CRC32 of four bytes first
    start = data.index(block, 73 + 256 * 1024)
    out = bytearray(data)
    out[start - 2 : start + 41] = struct.pack("<HB", 1, 0) + bytes(40)
    return bytes(out)


def test_verify_hash_wants_hashes(path: Path) -> None:
    write_state(path, {"x": torch.rand(10)})
    path.write_bytes(without_hashes(path.read_bytes()))
    assert read(path)["x"].shape == (10,)
    with pytest.raises(HashMismatchError, match="no hash"):
        read(path, verify_hash=True)
    with pytest.raises(HashMismatchError, match="no hash"):
        list(read(path, lazy_load=True).read_tensors(verify_hash=True))
    tensorizer.TensorDeserializer(path, device="cpu", verify_hash=True)  # is content


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (57, struct.pack("<Q", 1)),  # tensor_count: one tensor less
        (65, struct.pack("<Q", 1 << 62)),  # index_size
        (73 + 2 + 1 + 1 + 1 + 3 + 1, struct.pack("<I", 5)),  # the first tensor's shape
    ],
    ids=["count", "index", "shape"],
)
def test_a_changed_front_is_refused(path: Path, offset: int, value: bytes) -> None:
    write_state(path, {"x": torch.rand(10), "y": torch.rand(10)})
    data = bytearray(path.read_bytes())
    data[offset : offset + len(value)] = value
    path.write_bytes(data)
    with pytest.raises(ValueError, match=str(path)):
        read(path)


def test_swapped_names_are_found_without_being_asked_for(path: Path) -> None:
    write_state(path, {"x": torch.rand(10), "y": torch.rand(10)})
    data = path.read_bytes()
    front, rest = data[: 73 + 256 * 1024], data[73 + 256 * 1024 :]
    named = struct.pack("<H", 1)
    swap = {named + b"x": named + b"?", named + b"y": named + b"x", named + b"?": named + b"y"}
    for old, new in swap.items():
        front, rest = front.replace(old, new), rest.replace(old, new)
    path.write_bytes(front + rest)
    with pytest.raises(HashMismatchError):
        read(path)
    tensorizer.TensorDeserializer(path, device="cpu")  # is content


def test_errors_are_also_libtz_errors(path: Path) -> None:
    with pytest.raises(libtz.SourceError) as caught:
        read(path)
    assert isinstance(caught.value, FileNotFoundError)
    path.write_bytes(b"nothing of that kind")
    with pytest.raises(libtz.FormatError) as refused:
        read(path)
    assert isinstance(refused.value, ValueError)


@needs_libsodium
def test_a_file_cannot_ask_for_any_amount_of_memory(path: Path) -> None:
    levels = tensorizer.EncryptionParams
    params = levels.from_string("secret", levels.OpsLimit.MIN, levels.MemLimit.MIN)
    serializer = tensorizer.TensorSerializer(path, encryption=params)
    serializer.write_state_dict({"x": torch.rand(10)})
    serializer.close()
    data = path.read_bytes()
    cost = struct.pack("<QQi", levels.OpsLimit.MIN, levels.MemLimit.MIN, 2)
    assert data.count(cost) == 1
    path.write_bytes(data.replace(cost, struct.pack("<QQi", 1, 1 << 40, 2)))
    with pytest.raises(ours.CryptographyError, match="memory_max"):
        read(path, encryption=DecryptionParams.from_string("secret"))


def test_only_failures_of_cryptography_are_called_so(path: Path) -> None:
    """Code that catches CryptographyError can ask for another key."""
    key = EncryptionParams.random().key
    write_state(
        path,
        {"x": torch.rand(3), "meta": torch.empty(1 << 31, device="meta")},
        encryption=EncryptionParams(key),
    )
    right = DecryptionParams.from_key(key)
    with pytest.raises(OptionError, match="meta_size_max") as refused:
        read(path, encryption=right)
    assert not isinstance(refused.value, ours.CryptographyError)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Error) as cut:
        read(path, encryption=right)
    assert not isinstance(cut.value, ours.CryptographyError)
    libtz.torch.save_file({"x": torch.rand(3)}, path.with_suffix(".tz"))
    damaged = bytearray(path.with_suffix(".tz").read_bytes())
    damaged[100] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(Error) as broken:
        read(path, encryption=right)
    assert not isinstance(broken.value, ours.CryptographyError)
    # These are refused.
    write_state(path, {"x": torch.rand(3)}, encryption=EncryptionParams(key))
    others = (DecryptionParams.from_key(bytes(32)), DecryptionParams.from_string("p"))
    for decryption in (None, *others):
        with pytest.raises(ours.CryptographyError):
            read(path, encryption=decryption)
    write_state(path, {"x": torch.rand(3)})
    with pytest.raises(ours.CryptographyError, match="not encrypted"):
        read(path, encryption=right)


def test_keys_that_this_machine_cannot_derive(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise nacl.exceptions.RuntimeError("no memory")

    monkeypatch.setattr(nacl.bindings, "crypto_pwhash_alg", fail)
    with pytest.raises(OptionError, match="key cannot be derived"):
        EncryptionParams.from_string("p")


# ---- Modules -------------------------------------------------------------------------------------


def test_only_non_persistent_buffers_are_left_out(path: Path) -> None:
    module = Buffers()
    write_module(path, module, include_non_persistent_buffers=False)
    state = read(path)
    assert sorted(state) == sorted(module.state_dict())
    theirs = tensorizer.TensorDeserializer(path, device="cpu")
    assert len(theirs) == len(module.state_dict())


def test_loading_leaves_a_module_what_it_is(path: Path) -> None:
    module, loaded = Buffers(), Buffers()
    write_module(path, module)
    keys = list(loaded.state_dict())
    old = loaded.frozen
    old.__dict__["weight_loader"] = "kept"
    read(path).load_into_module(loaded)
    assert list(loaded.state_dict()) == keys
    assert torch.equal(loaded.lost, module.lost)
    assert not loaded.frozen.requires_grad
    assert loaded.frozen.__dict__["weight_loader"] == "kept"
    assert type(loaded.kept) is torch.Tensor
    assert not loaded.kept.requires_grad
    assert all(parameter.requires_grad for parameter in loaded.inner.parameters())


def test_ties_stay(path: Path) -> None:
    module = Tied()
    write_module(path, module)
    with ours.utils.no_init_or_tensor():
        loaded = Tied()
    assert read(path).load_into_module(loaded) == 2
    assert loaded.head.weight is loaded.embedding.weight
    assert torch.equal(loaded.head.weight, module.head.weight)


def test_what_differs_in_the_file_is_untied(path: Path) -> None:
    module = Tied()
    module.head.weight = torch.nn.Parameter(torch.rand(5, 3))
    write_module(path, module)
    loaded = Tied()
    with pytest.warns(UserWarning, match=r"untied: embedding\.weight, head\.weight"):
        read(path).load_into_module(loaded)
    assert torch.equal(loaded.head.weight, module.head.weight)
    assert torch.equal(loaded.embedding.weight, module.embedding.weight)


def test_shapes_are_told_all_at_once_and_nothing_is_changed(path: Path) -> None:
    write_module(path, torch.nn.Linear(3, 4))
    module = torch.nn.Linear(5, 6)
    before = module.weight
    with pytest.raises(ValueError, match=r"(?s)'weight'.*'bias'") as caught:
        read(path).load_into_module(module)
    assert isinstance(caught.value, OptionError)
    assert module.weight is before


def test_missing_and_new_tensors_are_told(path: Path) -> None:
    module = torch.nn.Linear(3, 4, bias=False)
    module.register_buffer("extra", torch.rand(2))
    write_module(path, module)
    loaded = torch.nn.Linear(3, 4)
    with pytest.warns() as told:
        read(path).load_into_module(loaded)
    assert ["extra" in str(w.message) for w in told] == [True, False]
    assert ["bias" in str(w.message) for w in told] == [False, True]
    assert torch.equal(loaded.extra, module.extra)  # type: ignore[arg-type]
    write_module(path, Buffers())
    with pytest.raises(KeyError, match="there is no module 'inner'"):
        read(path).load_into_module(loaded)


def test_a_damaged_file_leaves_the_module_alone(path: Path) -> None:
    module, loaded = torch.nn.Linear(100, 100), torch.nn.Linear(100, 100)
    write_module(path, module)
    data = bytearray(path.read_bytes())
    data[-20] ^= 1  # in the bias, which comes last
    path.write_bytes(data)
    before = loaded.weight
    with pytest.raises(HashMismatchError):
        read(path, lazy_load=True).load_into_module(loaded)
    assert loaded.weight is before


def test_a_module_file_is_a_state_dict(path: Path) -> None:
    module, loaded = Buffers(), Buffers()
    write_module(path, module, include_non_persistent_buffers=False)
    state = read(path)
    loaded.load_state_dict(state)
    assert torch.equal(loaded.kept, module.kept)
    assert ".kept" in state  # Tensorizer's name for it
    assert state[".kept"] is state["kept"]
    assert next(read(path).read_tensors())[2] == ".frozen"


def test_verify_module_covers_the_root(path: Path) -> None:
    module = Buffers()
    write_module(path, module)
    state = read(path)
    passed, results = state.verify_module(module)
    assert passed
    assert ("kept", True) in results
    with torch.no_grad():
        module.kept += 1
    passed, results = state.verify_module(module)
    assert not passed
    assert [name for name, is_equal in results if not is_equal] == ["kept"]


# ---- State dicts ---------------------------------------------------------------------------------


@needs_libsodium
def test_empty_tensors_can_be_encrypted(path: Path) -> None:
    key = EncryptionParams.random()
    write_state(path, {"empty": torch.empty(0, 3), "x": torch.rand(2)}, encryption=key)
    ours = read(path, encryption=DecryptionParams.from_key(key.key))
    theirs = tensorizer.TensorDeserializer(
        path,
        device="cpu",
        verify_hash=True,
        encryption=tensorizer.DecryptionParams.from_key(key.key),
    )
    assert ours["empty"].shape == theirs["empty"].shape == (0, 3)


def test_an_empty_state_dict_comes_back(path: Path) -> None:
    write_state(path, {})
    assert dict(read(path)) == {}


def test_dtype_casts_floats_only(path: Path) -> None:
    state = {"x": torch.rand(3), "n": torch.arange(3), "c": torch.rand(2, dtype=torch.complex64)}
    write_state(path, state)
    found = read(path, dtype=torch.bfloat16)
    dtypes = [found[name].dtype for name in state]
    assert dtypes == [torch.bfloat16, torch.int64, torch.complex64]


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation")
def test_what_cannot_be_saved(path: Path) -> None:
    quantized = torch.quantize_per_tensor(torch.rand(3), 1.0, 0, torch.qint8)
    for tensor, words in ((torch.eye(3).to_sparse(), "not dense"), (quantized, "quantized")):
        with pytest.raises(OptionError, match=words):
            write_state(path, {"x": tensor})
        assert not path.exists()


@pytest.mark.slow
def test_many_tensors(path: Path) -> None:
    write_state(path, {f"layers.{number}.{'x' * 60}": torch.ones(1) for number in range(5000)})
    assert len(read(path, lazy_load=True)) == 5000
    with TensorSerializer(path) as serializer:
        for number in range(5000):
            name = f"layers.{number}.{'x' * 60}"
            serializer.write_tensor(0, name, TensorType.STATE_DICT, torch.ones(1))
    assert len(tensorizer.TensorDeserializer(path, device="cpu", lazy_load=True)) == 5000


def test_a_dot_before_a_name_is_one_of_the_index(path: Path) -> None:
    """Data that looks like a name with a dot does not add a dot."""
    entries = [
        files.Entry(name=b".weight", role=0),
        files.Entry(name=b"bias", role=0, data=b"\5\0.bias\0"),
        files.Entry(name=b"layer.weight", role=1),
        files.Entry(name=b".state"),
    ]
    path.write_bytes(files.build(entries))
    with read(path) as deserializer:
        names = [name for _, _, name, _ in deserializer.read_tensors()]
    assert names == [".weight", "bias", "layer.weight", ".state"]


def test_an_empty_layer_is_told(path: Path) -> None:
    with pytest.warns(UserWarning, match="'a' is empty"):
        write_state(path, {"a": {}, "b": torch.ones(1)})
    assert list(read(path)) == ["b"]


# ---- Files ---------------------------------------------------------------------------------------


def test_nothing_appears_before_the_end(path: Path) -> None:
    serializer = TensorSerializer(path)
    serializer.write_state_dict({"x": torch.rand(3)})
    assert not path.exists()
    serializer.close()
    serializer.close()
    assert path.exists()


def test_an_error_discards_everything(path: Path) -> None:

    def fail(error: Exception) -> None:
        raise error

    with pytest.raises(OSError, match="other"), TensorSerializer(path) as serializer:
        fail(OSError("other"))
    serializer = TensorSerializer(path)
    serializer.write_state_dict({"x": torch.rand(3)})
    with pytest.raises(ValueError, match="taken"):
        serializer.write_state_dict({"x": torch.rand(3)})
    with pytest.raises(ValueError, match="closed"):
        serializer.write_state_dict({"y": torch.rand(3)})
    assert list(path.parent.iterdir()) == []


def test_a_serializer_that_is_dropped_says_so(path: Path) -> None:
    serializer = TensorSerializer(path)
    serializer.write_state_dict({"x": torch.rand(3)})
    with pytest.warns(UserWarning, match="was not closed"):
        del serializer
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("uri", ["gs://bucket/x", "az://bucket/x", "redis://host/x"])
def test_unknown_schemes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.chdir(tmp_path)
    for use in (stream_io.open_stream, TensorDeserializer, TensorSerializer):
        with pytest.raises(ValueError, match=uri.partition(":")[0]):
            use(uri)
    assert list(tmp_path.iterdir()) == []


# ---- .tz and .safetensors ------------------------------------------------------------------------


def test_tz_files(tmp_path: Path) -> None:
    module, loaded = Tied(), Tied()
    module.register_buffer("offset", torch.rand(2))
    loaded.register_buffer("offset", torch.rand(2))
    path = tmp_path / "model.tz"
    write_module(path, module)
    with libtz.open(path) as file:
        assert file.format == "tz"
        assert file.info("head.weight").tied_to == "embedding.weight"
    assert libtz.torch.load_model(Tied(), path, strict=False) == ([], ["offset"])
    with read(path) as deserializer:
        assert deserializer.load_into_module(loaded) == 3
        assert deserializer.verify_module(loaded)[0]
    assert torch.equal(loaded.offset, module.offset)  # type: ignore[arg-type]


def test_nested_tz_files(tmp_path: Path) -> None:
    path = tmp_path / "x.tz"
    nested = {"a": [torch.ones(1), torch.ones(2)], "b": {"c": torch.ones(3)}}
    write_state(path, nested)
    state = read(path, lazy_load=True)
    assert torch.equal(state.tree(("a", 1)), torch.ones(2))
    assert torch.equal(state["b"]["c"], torch.ones(3))
    libtz.torch.save({"step": 1, "x": torch.ones(1)}, path)
    with pytest.raises(OptionError, match="more than tensors"):
        read(path)


def test_the_format_can_be_said(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    write_state(path, {"x": torch.ones(2)}, format="tz")
    with libtz.open(path) as file:
        assert file.format == "tz"
    with pytest.raises(ValueError, match="encrypted"):
        TensorSerializer(path, format="tz", encryption=EncryptionParams.random())


def test_safetensors_files(tmp_path: Path) -> None:
    import safetensors.torch

    path = tmp_path / "x.safetensors"
    module, loaded = torch.nn.Linear(3, 4), torch.nn.Linear(3, 4)
    safetensors.torch.save_file(module.state_dict(), path)
    read(path).load_into_module(loaded)
    assert torch.equal(loaded.weight, module.weight)


# ---- Arguments without effect --------------------------------------------------------------------


def test_what_has_no_meaning_says_so(path: Path) -> None:
    write_state(path, {"x": torch.ones(2)})
    with pytest.raises(OptionError, match=r"(?i)redis"):
        read(path).to_redis(None, "prefix")
    with pytest.raises(OptionError, match=r"(?i)redis"):
        stream_io.RedisStreamFile("redis://host/x")
    with pytest.raises(OptionError, match="compress"):
        TensorSerializer(path, compress_tensors=True)
    with pytest.warns(UserWarning, match="plaid_mode"):
        read(path, plaid_mode=True)
    with pytest.raises(OptionError, match="headers"):
        _ = read(path).cache_status
    with pytest.raises(OptionError, match="pickle"):
        ours.torch_compat.tensorizer_saving()
    with pytest.raises(OptionError, match="Protocol Buffers"):
        ours.protobuf.serialize_tensor(torch.ones(1))
    with pytest.raises(ValueError, match="s3v4"):
        stream_io.open_stream("s3://bucket/key", s3_signature_version="s3")
    with pytest.raises(ValueError, match="appending"):
        stream_io.open_stream("s3://bucket/key", "ab")
    with pytest.raises(ValueError, match="end can only be used for"):
        stream_io.open_stream(str(path), end=5)


def test_files_of_torch_compat_are_brought_over_by_tensorizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """See docs/compat-tensorizer.md."""
    monkeypatch.chdir(tmp_path)
    module = Tied()
    with tensorizer.torch_compat.tensorizer_saving():
        torch.save(module, "module.pt")
    with pytest.raises(OptionError, match=r"save_model.*do not use pickle"):
        ours.torch_compat.tensorizer_loading(device="cpu")
    with tensorizer.torch_compat.tensorizer_loading(device="cpu"):
        module = torch.load("module.pt", weights_only=False)
    libtz.torch.save_model(module, "module.tz")
    again = Tied()
    assert libtz.torch.load_model(again, "module.tz") == ([], [])
    for name, tensor in module.state_dict().items():
        assert again.state_dict()[name].equal(tensor)


def test_secrets_are_not_shown() -> None:
    key = os.urandom(32)
    params = EncryptionParams(key)
    for shown in (params, DecryptionParams.from_key(key), DecryptionParams.from_string("secret")):
        assert repr(key) not in repr(shown)
        assert "secret" not in repr(shown)


def test_every_error_is_ours(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for wrong in ({"x": 7}, {7: torch.ones(1)}, "text", torch.ones(1)):
            with pytest.raises(Error):
                write_state(path, wrong)
