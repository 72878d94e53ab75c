"""Code written for the tensorizer package. The same functions run with it and with libtz."""

from __future__ import annotations

import copy
import gc
import io
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorizer
import torch
from tests.libsodium import needs_libsodium
from tests.servers import Nginx, Seaweed

from libtz.compat import tensorizer as ours

BOTH = pytest.mark.parametrize("api", [tensorizer, ours], ids=["theirs", "ours"])
# The writer and the reader of each direction.
CROSSED = pytest.mark.parametrize(
    ("writer", "reader"),
    [(tensorizer, tensorizer), (tensorizer, ours), (ours, tensorizer), (ours, ours)],
    ids=["theirs-theirs", "theirs-ours", "ours-theirs", "ours-ours"],
)


class Net(torch.nn.Module):
    """Parameters and buffers on two levels, the root's too."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8))
        self.norm = torch.nn.BatchNorm1d(8)
        self.scale = torch.nn.Parameter(torch.rand(3))
        self.register_buffer("offset", torch.rand(3))
        self.register_buffer("cache", torch.rand(2), persistent=False)


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def tensors_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return dict(module.named_parameters()) | dict(module.named_buffers())


def check_equal(module: torch.nn.Module, expected: torch.nn.Module) -> None:
    found, wanted = tensors_of(module), tensors_of(expected)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert same(found[name], tensor), name


def write_module(api: Any, target: Any, module: torch.nn.Module, **options: Any) -> None:
    serializer = api.TensorSerializer(target, **options)
    serializer.write_module(module)
    serializer.close()


def write_state(api: Any, target: Any, state: Any, **options: Any) -> None:
    serializer = api.TensorSerializer(target, **options)
    serializer.write_state_dict(state)
    serializer.close()


# ---- Documented use, with both -------------------------------------------------------------------


@pytest.mark.slow
@CROSSED
def test_readme_a_model(tmp_path: Path, writer: Any, reader: Any) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM  # takes seconds

    path = str(tmp_path / "new" / "folder" / "model.tensors")
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama",
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=256,
    )
    make: Any = AutoModelForCausalLM.from_config
    model: torch.nn.Module = make(copy.deepcopy(config), dtype=torch.bfloat16).eval()
    write_module(writer, path, model)

    with reader.utils.no_init_or_tensor():
        loaded = make(config, dtype=torch.bfloat16).eval()
    with reader.TensorDeserializer(path, device="cpu", verify_hash=True) as deserializer:
        count = deserializer.load_into_module(loaded)
        assert count == len(deserializer) == len(tensors_of(model))
        passed, results = deserializer.verify_module(loaded)
    assert passed
    assert all(is_equal for _, is_equal in results)
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert same(loaded(ids).logits, model(ids).logits)


@CROSSED
def test_a_module_and_its_difference(tmp_path: Path, writer: Any, reader: Any) -> None:
    path = tmp_path / "net.tensors"
    net, other = Net(), Net()
    write_module(writer, path, net)
    with reader.TensorDeserializer(path, device="cpu") as deserializer:
        assert deserializer.total_tensor_bytes == sum(t.nbytes for t in tensors_of(net).values())
        assert deserializer.load_into_module(other) == len(tensors_of(net))
    check_equal(other, net)


@CROSSED
def test_state_dicts_are_mappings(tmp_path: Path, writer: Any, reader: Any) -> None:
    path = tmp_path / "state.tensors"
    state = Net().state_dict()
    write_state(writer, path, state)
    deserializer = reader.TensorDeserializer(path, device="cpu", lazy_load=True)
    assert list(deserializer) == list(deserializer.keys()) == list(state)
    assert len(deserializer) == len(state)
    assert "norm.weight" in deserializer
    assert "nothing" not in deserializer
    assert deserializer.get("nothing") is None
    with pytest.raises(KeyError):
        deserializer["nothing"]
    for name, tensor in deserializer.items():
        assert isinstance(tensor, torch.nn.Parameter)
        assert same(tensor, state[name])
    net = Net()
    net.load_state_dict(deserializer)
    assert deserializer["scale"] is deserializer["scale"]
    deserializer.close()


@CROSSED
def test_nested_objects(tmp_path: Path, writer: Any, reader: Any) -> None:
    path = tmp_path / "nested.tensors"
    nested: dict[str, Any] = {
        "model": {"layer": [{"weight": torch.ones(2)}, {"weight": torch.zeros(3)}]},
        "pair": (torch.ones(1), torch.arange(4)),
        'odd "key"\n': {"ß": torch.rand(2)},
        "head": torch.rand(3),
    }
    write_state(writer, path, nested)
    deserializer = reader.TensorDeserializer(path, device="cpu")
    assert list(deserializer.keys()) == list(nested)
    assert list(deserializer["model"].keys()) == ["layer"]
    assert list(deserializer["model"]["layer"].keys()) == [0, 1]
    tree = deserializer.tree()
    assert isinstance(tree["model"]["layer"], Sequence)
    assert isinstance(tree, Mapping)
    assert same(tree["model"]["layer"][1]["weight"], torch.zeros(3))
    assert same(tree["pair"][1], torch.arange(4))
    assert same(tree['odd "key"\n']["ß"], nested['odd "key"\n']["ß"])
    assert len(deserializer.tree(("model", "layer"))) == 2
    assert same(deserializer.tree(("model", "layer", 0, "weight")), torch.ones(2))
    assert deserializer.tree(("other",), default="none") == "none"
    only = deserializer.tree(filter_func=lambda name: name == ("pair", 1) or name == "head")
    assert list(only) == ["pair", "head"]
    with pytest.raises(TypeError):
        deserializer.tree("model")


@CROSSED
def test_lists(tmp_path: Path, writer: Any, reader: Any) -> None:
    path = tmp_path / "list.tensors"
    items = [torch.rand(2) for _ in range(3)]
    write_state(writer, path, items)
    deserializer = reader.TensorDeserializer(path, device="cpu")
    assert list(deserializer.keys()) == [0, 1, 2]
    for tensor, expected in zip(deserializer.tree(), items, strict=True):
        assert same(tensor, expected)


@CROSSED
def test_filters(tmp_path: Path, writer: Any, reader: Any) -> None:
    path = tmp_path / "net.tensors"
    net, other = Net(), Net()
    before = {name: tensor.clone() for name, tensor in tensors_of(other).items()}
    write_module(writer, path, net)
    with reader.TensorDeserializer(
        path, device="cpu", filter_func=lambda name: name.startswith("layers")
    ) as deserializer:
        assert len(deserializer) == 4
        count = deserializer.load_into_module(other, filter_func=lambda name: "0." in name)
    assert count == 2
    for name, tensor in tensors_of(other).items():
        expected = tensors_of(net)[name] if "layers.0." in name else before[name]
        assert same(tensor, expected)


@CROSSED
def test_reading_one_by_one(tmp_path: Path, writer: Any, reader: Any) -> None:
    path = tmp_path / "net.tensors"
    net = Net()
    write_module(writer, path, net)
    deserializer = reader.TensorDeserializer(path, device="cpu", lazy_load=True)
    first = list(deserializer.read_tensors(num_tensors=3))
    rest = list(deserializer.read_tensors())
    assert list(deserializer.read_tensors()) == []
    found = {}
    modules = [name for name, _ in net.named_modules()]
    for number, kind, name, tensor in first + rest:
        path_of_module, _, key = name.rpartition(".")
        assert modules[number] == path_of_module
        is_parameter = key in net.get_submodule(path_of_module)._parameters
        assert kind == (reader.TensorType.PARAM if is_parameter else reader.TensorType.BUFFER)
        found[name.removeprefix(".")] = tensor
    assert len(first) == 3
    assert found.keys() == tensors_of(net).keys()
    for name, tensor in tensors_of(net).items():
        assert same(found[name], tensor)


@CROSSED
def test_numpy(tmp_path: Path, writer: Any, reader: Any) -> None:
    path = tmp_path / "x.tensors"
    array = np.arange(6, dtype=np.float64).reshape(2, 3)
    serializer = writer.TensorSerializer(path)
    serializer.write_tensor(0, "array", writer.TensorType.STATE_DICT, array)
    half = torch.rand(4).to(torch.bfloat16)
    serializer.write_tensor(7, "half", writer.TensorType.PARAM, half)
    serializer.close()
    deserializer = reader.TensorDeserializer(path, device="cpu", lazy_load=True)
    _, _, name, found, is_opaque, dtype = next(deserializer.read_numpy_arrays(num_tensors=1))
    assert (name, is_opaque, dtype) == ("array", False, None)
    assert np.array_equal(found, array)
    with pytest.raises(ValueError, match="allow_raw_data"):
        list(deserializer.read_numpy_arrays())
    deserializer = reader.TensorDeserializer(path, device="cpu", lazy_load=True)
    *_, last = deserializer.read_numpy_arrays(allow_raw_data=True)
    assert (last[0], last[1], last[2], *last[4:]) == (7, 0, "half", True, "torch.bfloat16")
    assert last[3].tobytes() == half.view(torch.int16).numpy().tobytes()


@BOTH
def test_dtype(tmp_path: Path, api: Any) -> None:
    path = tmp_path / "x.tensors"
    write_state(api, path, {"x": torch.rand(3), "flag": torch.tensor([True])})
    state = api.TensorDeserializer(path, device="cpu", dtype=torch.float16)
    assert state["x"].dtype == torch.float16
    assert state["flag"].dtype == torch.bool


@needs_libsodium
@CROSSED
@pytest.mark.parametrize("kind", ["random", "key", "password"])
def test_encryption(tmp_path: Path, writer: Any, reader: Any, kind: str) -> None:
    path = tmp_path / "x.tensors"
    state = {"x": torch.rand(1000), "large": torch.rand(1 << 20)}
    before = {name: tensor.clone() for name, tensor in state.items()}
    if kind == "password":
        source = os.urandom(8).hex()
        levels = writer.EncryptionParams
        params = levels.from_string(
            source, opslimit=levels.OpsLimit.MIN, memlimit=levels.MemLimit.MIN
        )
        assert len(params.salt) == 16
        decryption = reader.DecryptionParams.from_string(source)
        wrong = reader.DecryptionParams.from_string("other")
    else:
        key = os.urandom(32)
        params = writer.EncryptionParams(key) if kind == "key" else writer.EncryptionParams.random()
        decryption = reader.DecryptionParams.from_key(params.key)
        wrong = reader.DecryptionParams.from_key(bytes(32))
        with pytest.raises(ValueError, match="salt"):
            _ = params.salt
    write_state(writer, path, state, encryption=params)
    with reader.TensorDeserializer(
        path, device="cpu", encryption=decryption, verify_hash=True
    ) as deserializer:
        for name, tensor in before.items():
            assert same(deserializer[name], tensor)
            assert same(state[name], tensor)
    by_key = reader.DecryptionParams.from_key(params.key)
    assert same(reader.TensorDeserializer(path, device="cpu", encryption=by_key)["x"], state["x"])
    with pytest.raises(reader.CryptographyError):
        reader.TensorDeserializer(path, device="cpu")
    with pytest.raises(reader.CryptographyError):
        reader.TensorDeserializer(path, device="cpu", encryption=wrong)
    write_state(writer, path, state)
    with pytest.raises(reader.CryptographyError):
        reader.TensorDeserializer(path, device="cpu", encryption=decryption)


@BOTH
def test_encryption_arguments(tmp_path: Path, api: Any) -> None:
    levels = api.EncryptionParams
    assert [int(level) for level in levels.OpsLimit] == [1, 2, 3, 4]
    assert [int(level) >> 10 for level in levels.MemLimit] == [8, 1 << 16, 1 << 18, 1 << 20]
    with pytest.raises(ValueError, match="32"):
        levels(b"short")
    with pytest.raises(TypeError):
        levels("text")
    with pytest.raises(ValueError, match="empty"):
        levels.from_string("")
    with pytest.raises(TypeError):
        levels.from_string("x", opslimit=levels.MemLimit.MIN)
    with pytest.raises(ValueError, match="32"):
        api.DecryptionParams.from_key(b"short")
    with pytest.raises(TypeError):
        api.TensorSerializer(tmp_path / "x.tensors", encryption=bytes(32))
    one, other = (
        levels.from_string("x", levels.OpsLimit.MIN, levels.MemLimit.MIN, bytes(16))
        for _ in range(2)
    )
    assert one.key == other.key


@CROSSED
def test_file_objects(tmp_path: Path, writer: Any, reader: Any) -> None:
    path = tmp_path / "x.tensors"
    state = {"x": torch.rand(3)}
    with path.open("wb+") as file:
        write_state(writer, file, state)
        assert file.closed
    with path.open("rb") as file:
        assert same(reader.TensorDeserializer(file, device="cpu")["x"], state["x"])
    data = io.BytesIO(path.read_bytes())
    deserializer = reader.TensorDeserializer(data, device="cpu", num_readers=1, lazy_load=True)
    assert same(deserializer["x"], state["x"])


@CROSSED
def test_streams_of_local_files(tmp_path: Path, writer: Any, reader: Any) -> None:
    # As in vLLM.
    write = partial(writer.stream_io.open_stream, mode="wb+")
    read = partial(reader.stream_io.open_stream, mode="rb")
    net, other = Net(), Net()
    path = str(tmp_path / "a" / "b" / "net.tensors")
    with write(path) as stream:
        serializer = writer.TensorSerializer(stream)
        serializer.write_module(net)
        serializer.close()
    with read(path) as stream, reader.TensorDeserializer(stream, device="cpu") as deserializer:
        deserializer.load_into_module(other)
        assert deserializer.total_bytes_read >= deserializer.total_tensor_bytes
    check_equal(other, net)


@BOTH
def test_removing_tensors(tmp_path: Path, api: Any) -> None:
    path = tmp_path / "net.tensors"
    net, expected = Net(), Net()
    net.load_state_dict(expected.state_dict())
    net.cache = expected.cache
    serializer = api.TensorSerializer(path)
    serializer.write_module(net, remove_tensors=True)
    serializer.close()
    assert tensors_of(net) == {}
    assert net.scale is None
    api.TensorDeserializer(path, device="cpu").load_into_module(net)
    check_equal(net, expected)


@BOTH
def test_state_dicts_are_not_modules(tmp_path: Path, api: Any) -> None:
    path = tmp_path / "state.tensors"
    net = Net()
    write_state(api, path, net.state_dict())
    with pytest.raises(NotImplementedError, match="write_state_dict"):
        api.TensorDeserializer(path, device="cpu").load_into_module(net)


@BOTH
def test_meta_tensors_are_read_as_zeros(tmp_path: Path, api: Any) -> None:
    path = tmp_path / "x.tensors"
    write_state(api, path, {"x": torch.empty(2, 3, device="meta"), "y": torch.ones(1)})
    state = api.TensorDeserializer(path, device="cpu")
    assert same(state["x"], torch.zeros(2, 3))
    assert same(state["y"], torch.ones(1))


@BOTH
def test_errors_are_of_their_types(tmp_path: Path, api: Any) -> None:
    path = tmp_path / "x.tensors"
    with pytest.raises(FileNotFoundError):
        api.TensorDeserializer(path, device="cpu")
    path.write_bytes(bytes(300_000))
    with pytest.raises(ValueError, match=r"(?i)not a|neither"):
        api.TensorDeserializer(path, device="cpu")
    write_state(api, path, {"x": torch.rand(100)})
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    with pytest.raises(api.serialization.HashMismatchError):
        api.TensorDeserializer(path, device="cpu", verify_hash=True)
    with pytest.raises(ValueError, match="num_readers"):
        api.TensorDeserializer(path, device="cpu", num_readers=0)
    with pytest.raises(TypeError, match="num_readers"):
        api.TensorDeserializer(path, device="cpu", num_readers="two")
    with pytest.raises(TypeError, match="encryption"):
        api.TensorDeserializer(path, device="cpu", encryption=bytes(32))
    with pytest.raises(ValueError, match="limit_cpu_concurrency"):
        api.TensorSerializer(path, limit_cpu_concurrency=0)
    with pytest.raises(TypeError):
        write_state(api, path, {"x": 7})
    with pytest.raises(TypeError):
        write_state(api, path, {0: torch.rand(1)})
    with path.open("r") as file, pytest.raises(ValueError, match="binary"):
        api.TensorDeserializer(file, device="cpu")
    gc.collect()


@BOTH
def test_names_are_where_they_were(api: Any) -> None:
    for name in tensorizer.__all__:
        if name != "tensors_pb2":
            assert hasattr(api, name) or hasattr(__import__(f"{api.__name__}.{name}"), name)
    for module in ("serialization", "stream_io", "utils"):
        for name in getattr(tensorizer, module).__all__:
            assert hasattr(getattr(api, module), name)
    assert [member.name for member in api.TensorType] == ["PARAM", "BUFFER", "STATE_DICT"]
    assert [int(member) for member in api.TensorType] == [0, 1, 2]


@BOTH
def test_utils(api: Any) -> None:
    utils = api.utils
    assert [utils.convert_bytes(n) for n in (12, 123_456, 5e9)] == [
        "12.0 bytes",
        "123.5 KB",
        "5.0 GB",
    ]
    assert utils.convert_bytes(3 << 20, decimal=False) == "3.0 MiB"
    assert utils.convert_bytes(1e18) == "1000.0 PB"
    assert utils.get_device() == torch.device("cuda" if torch.cuda.is_available() else "cpu")
    assert isinstance(utils.get_gpu_name(), str)
    usage = utils.MemoryUsage.now()
    assert usage.cpu.maxrss > 0
    assert usage.cpu.free > 0
    assert "CPU: (maxrss: " in utils.get_mem_usage()


@BOTH
def test_no_init_or_tensor(api: Any) -> None:
    utils = api.utils
    with utils.no_init_or_tensor(), utils.no_init_or_tensor():
        linear = torch.nn.Linear(3, 4)
    assert linear.weight.is_meta
    assert utils.no_init_or_tensor(lambda: torch.nn.Linear(3, 4)).weight.is_meta
    assert not torch.nn.Linear(3, 4).weight.is_meta
    with pytest.raises(TypeError):
        utils.no_init_or_tensor(7)

    seen = []
    with utils.no_init_or_tensor():
        thread = threading.Thread(target=lambda: seen.append(torch.nn.Linear(3, 4).weight.is_meta))
        thread.start()
        thread.join()
    assert seen == [False]


# ---- Sources and targets -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3_bucket(seaweed: Seaweed) -> Iterator[str]:
    with seaweed.bucket("tensors"):
        yield "tensors"


@CROSSED
def test_http(nginx: Nginx, writer: Any, reader: Any) -> None:
    net, other = Net(), Net()
    write_module(writer, nginx.root / "net.tensors", net)
    url = f"{nginx.http}/net.tensors"
    reader.TensorDeserializer(url, device="cpu").load_into_module(other)
    check_equal(other, net)
    with reader.stream_io.open_stream(url) as stream:
        assert stream.read(5) == b"|TZR|"
        assert stream.seekable()
        stream.seek(0)
        deserializer = reader.TensorDeserializer(stream, device="cpu", num_readers=2)
        assert same(deserializer["norm.weight"], net.norm.weight)


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
@BOTH
def test_ranges_and_certificates(nginx: Nginx, api: Any) -> None:
    (nginx.root / "data").write_bytes(bytes(range(256)) * 1000)
    with api.stream_io.open_stream(f"{nginx.http}/data", begin=10, end=20) as stream:
        assert stream.read() == bytes(range(10, 20))
    info = api.stream_io.CAInfo(cacert=nginx.certificate.path)
    url = f"{nginx.https}/data"
    with api.stream_io.open_stream(url, certificate_handling=info) as stream:
        assert stream.read(3) == b"\0\1\2"
    info = api.stream_io.CAInfo(allow_untrusted=True)
    stream = api.stream_io.CURLStreamFile(url, 5, certificate_handling=info)
    assert stream.read(2) == b"\5\6"
    assert stream.bytes_read >= 2
    stream.close()
    with pytest.raises(OSError):  # noqa: PT011 - each has words of its own
        api.stream_io.open_stream(url).read(1)
    with pytest.raises(ValueError):  # noqa: PT011
        api.stream_io.CAInfo()
    with pytest.raises(ValueError, match=r'"rb"|only be read'):
        api.stream_io.open_stream(url, "wb")


@CROSSED
def test_s3(seaweed: Seaweed, s3_bucket: str, writer: Any, reader: Any) -> None:
    net, other = Net(), Net()
    options = {
        "s3_access_key_id": seaweed.keys[0],
        "s3_secret_access_key": seaweed.keys[1],
        "s3_endpoint": seaweed.endpoint,
        "force_http": True,
    }
    uri = f"s3://{s3_bucket}/{writer.__name__}-net.tensors"
    with writer.stream_io.open_stream(uri, "wb+", **options) as stream:
        serializer = writer.TensorSerializer(stream)
        serializer.write_module(net)
        serializer.close()
    with (
        reader.stream_io.open_stream(uri, "rb", **options) as stream,
        reader.TensorDeserializer(stream, device="cpu", verify_hash=True) as deserializer,
    ):
        deserializer.load_into_module(other)
    check_equal(other, net)


@BOTH
def test_s3cmd_configuration(seaweed: Seaweed, s3_bucket: str, tmp_path: Path, api: Any) -> None:
    path = tmp_path / "s3cfg"
    host = seaweed.endpoint.removeprefix("http://")
    keys = f"access_key = {seaweed.keys[0]}\nsecret_key = {seaweed.keys[1]}\n"
    path.write_text(f"[default]\nhost_base = {host}\nuse_https = False\n{keys}")
    uri = f"s3://{s3_bucket}/{api.__name__}-text"
    with api.stream_io.open_stream(uri, "wb", s3_config_path=str(path)) as stream:
        stream.write(b"some text")
    with api.stream_io.open_stream(uri, s3_config_path=str(path)) as stream:
        assert stream.read() == b"some text"
