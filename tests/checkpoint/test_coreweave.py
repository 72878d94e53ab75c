"""Reads files of CoreWeave's Tensorizer, written by the package itself."""

from __future__ import annotations

import gzip
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fixtures.coreweave.make import expected
from tests.raising import raises
from tests.servers import Nginx

import libtz
import libtz.torch
from libtz.arrays.torch_dtypes import TORCH_DTYPES
from libtz.cli.main import main
from libtz.torch.filling import _buffer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tensorizer import DecryptionParams, TensorDeserializer, TensorSerializer

FIXTURES = Path(__file__).parents[1] / "fixtures" / "coreweave"

INDEX_END = 73 + (256 << 10)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file with the package: a module, a state dict, or both."""

    def write(*things: Any, name: str = "a.tensors", **options: Any) -> Path:
        path = tmp_path / name
        serializer = TensorSerializer(str(path), **options)
        for thing in things:
            if isinstance(thing, torch.nn.Module):
                serializer.write_module(thing)
            else:
                serializer.write_state_dict(thing)
        serializer.close()
        return path

    return write


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # Warnings of the package about scalars and the like.
        warnings.filterwarnings("ignore", category=UserWarning, module="tensorizer")
        yield


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(11, 7)
        self.norm = torch.nn.BatchNorm1d(7)
        self.head = torch.nn.Linear(7, 11, bias=False)
        self.head.weight = self.embed.weight
        self.scale = torch.nn.Parameter(torch.rand(()))
        self.register_buffer("table", torch.arange(5))
        self.register_buffer("empty", torch.empty(0, 3))


def version_of(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[5:9], "little")


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    def raw(tensor: torch.Tensor) -> torch.Tensor:
        flat = tensor.detach().contiguous().reshape(-1)
        return flat.view(torch.uint8) if flat.numel() else flat.new_empty(0, dtype=torch.uint8)

    return one.dtype == other.dtype and one.shape == other.shape and raw(one).equal(raw(other))


def random(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    if dtype is torch.bool:
        return torch.rand(shape) < 0.5
    size = torch.empty(0, dtype=torch.uint8).view(dtype).element_size()
    data = torch.randint(0, 256, (math.prod(shape) * size,), dtype=torch.uint8)
    return data.view(dtype).reshape(shape)


def test_a_module(write: Callable[..., Path]) -> None:
    net = Net()
    path = write(net)
    assert version_of(path) == 1
    state = net.state_dict()
    with libtz.open(path) as file:
        assert file.format == "tensors"
        assert file.digest is None
        assert file.structure() == []
        assert set(file) == set(state)  # the package calls the root's own tensors .scale and .table
        assert str(file.verified) == "none"
        tensors = file.load()
        assert file.verified == "checksum"
        file.verify()
    assert all(same(tensors[name], state[name]) for name in state)

    other = Net()
    assert libtz.torch.load_model(other, path) == ([], [])
    assert all(same(tensor, state[name]) for name, tensor in other.state_dict().items())
    assert other.head.weight is other.embed.weight
    with libtz.torch.no_init():
        built = Net()
    libtz.torch.load_model(built, path)
    assert all(same(tensor, state[name]) for name, tensor in built.state_dict().items())


def test_every_dtype(write: Callable[..., Path]) -> None:
    state = {name: random(dtype, 3, 5) for name, dtype in TORCH_DTYPES.items()}
    path = write(state)
    assert version_of(path) == 2
    with libtz.open(path) as file:
        assert {name: file.info(name).dtype for name in file} == {
            name: name for name in TORCH_DTYPES
        }
        tensors = file.load()
    assert list(tensors) == list(state)
    assert all(same(tensors[name], state[name]) for name in state)


NESTED: dict[str, Any] = {
    "layers": [
        {"weight": torch.rand(3, 4), "bias": torch.rand(4)},
        {"weight": torch.rand(4, 1), "ünï / ~code\n": torch.rand(2)},
    ],
    "flat": torch.arange(4),
    "12": {"0": torch.ones(2)},
    "pair": (torch.zeros(1), torch.ones(1)),
}


def test_a_nested_state_dict(write: Callable[..., Path]) -> None:
    path = write(NESTED)
    loaded = libtz.torch.load(path)
    assert list(loaded) == list(NESTED)
    assert list(loaded["layers"][1]) == ["weight", "ünï / ~code\n"]
    assert loaded["layers"][1]["ünï / ~code\n"].equal(NESTED["layers"][1]["ünï / ~code\n"])
    assert loaded["layers"][0]["weight"].equal(NESTED["layers"][0]["weight"])
    assert loaded["12"]["0"].equal(torch.ones(2))
    assert [tensor.item() for tensor in loaded["pair"]] == [0, 1]
    with libtz.open(path) as file:
        # The names that libtz.torch.save gives them.
        assert list(file) == [
            "layers/0/weight",
            "layers/0/bias",
            "layers/1/weight",
            "layers/1/ünï ~1 ~0code~x0a",
            "flat",
            "~212/~20",
            "pair/0",
            "pair/1",
        ]


def test_lists_close_their_gaps(write: Callable[..., Path]) -> None:
    path = write({"a": [torch.ones(1), {}, torch.zeros(1)]})
    loaded = libtz.torch.load(path)
    assert [tensor.item() for tensor in loaded["a"]] == [1, 0]


def test_meta_scalars_and_empty_tensors(write: Callable[..., Path]) -> None:
    state = {
        "meta": torch.empty(6, 7, device="meta"),
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(4, 0, 2),
        "last": torch.empty(5, dtype=torch.bfloat16, device="meta"),
    }
    path = write(state)
    assert version_of(path) == 4
    with libtz.open(path) as file:
        assert file.info("meta").nbytes == 168
        assert file.info("meta").stored_nbytes == 0
        tensors = file.load()
        assert file.verified == "checksum"
        assert dict(file.iter_tensors())["meta"].equal(torch.zeros(6, 7))
        assert file.get_slice("meta")[1:3, 0].equal(torch.zeros(2))
        assert file.get_slice("empty")[1:3].shape == (2, 0, 2)
        file.verify()
    assert tensors["meta"].equal(torch.zeros(6, 7))
    assert tensors["last"].equal(torch.zeros(5, dtype=torch.bfloat16))
    assert same(tensors["scalar"], state["scalar"])
    assert same(tensors["empty"], state["empty"])


def test_meta_tensors_take_no_memory_unasked(write: Callable[..., Path]) -> None:
    path = write({"bomb": torch.empty(1 << 40, device="meta"), "a": torch.ones(2)})
    with libtz.open(path) as file:
        assert file.info("bomb").nbytes == 4 << 40
        file.verify()
        assert file.load(["a"])["a"].equal(torch.ones(2))
        with pytest.raises(libtz.OptionError, match="meta_size_max"):
            file.load()
        with pytest.raises(libtz.OptionError, match="meta_size_max"):
            file.get_slice("bomb")[0]
        with pytest.raises(libtz.OptionError, match="meta_size_max"):
            next(file.iter_tensors())
    module = torch.nn.Linear(6, 7, bias=False)
    libtz.torch.load_model(module, write({"weight": torch.empty(7, 6, device="meta")}))
    assert not module.weight.any()


def test_dimensions_of_64_bits(write: Callable[..., Path]) -> None:
    state = {"wide": torch.empty(0, 1 << 33), "narrow": torch.arange(6.0).reshape(2, 3)}
    path = write(state)
    assert version_of(path) == 5
    with libtz.open(path) as file:
        assert file.info("wide").shape == (0, 1 << 33)
        tensors = file.load()
    assert all(same(tensors[name], state[name]) for name in state)


@pytest.fixture
def large(write: Callable[..., Path]) -> tuple[Path, dict[str, torch.Tensor]]:
    """Tensors of many sizes, one of several requests."""
    sizes = [1, 300, 70_000, 5_000_000, 17, 1_000_000, 64]
    state = {f"t{n}": torch.rand(size, 1) for n, size in enumerate(sizes)}
    return write(state), state


def test_everything_comes_from_everywhere(
    large: tuple[Path, dict[str, torch.Tensor]], nginx: Nginx
) -> None:
    path, state = large
    (nginx.root / "large.tensors").write_bytes(path.read_bytes())
    for source in (path, f"{nginx.http}/large.tensors", path.read_bytes()):
        with libtz.open(source) as file:
            tensors = file.load()
            assert file.verified == "checksum"
            assert all(same(tensors[name], state[name]) for name in state)
            part = file.load(["t4", "t2"])
            assert list(part) == ["t4", "t2"]
            for name, tensor in file.iter_tensors():
                assert same(tensor, state[name])
            file.verify()


@pytest.mark.parametrize("local", ["copy", "map"])
def test_ways_to_load(large: tuple[Path, dict[str, torch.Tensor]], local: Any) -> None:
    path, state = large
    for verify in (True, False):
        options = libtz.ReadOptions(verify=verify, local=local)
        with libtz.open(path, options=options) as file:
            assert all(same(t, state[n]) for n, t in file.load().items())
            assert all(same(t, state[n]) for n, t in file.iter_tensors())
            assert file.get_slice("t3")[7:4000:3].equal(state["t3"][7:4000:3])
            assert file.get_slice("t3")[5, 0].equal(state["t3"][5, 0])
            assert file.verified == ("checksum" if verify else "none")
            # Hashes cover whole tensors. Without hashes, a slice reads only its own bytes.
            read = file.stats.bytes_read
            assert read > 20_000_000 if verify else read < 2_000_000
            into = torch.empty(17, 1)
            file.load_into({"t4": _buffer(into)})
            assert same(into, state["t4"])
            file.verify()


def test_damage_is_found(large: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, _ = large
    data = bytearray(path.read_bytes())
    with libtz.open(bytes(data)) as file:
        offset = len(data) - 8 - file.info("t6").nbytes - 1_000_000
    data[offset] ^= 1
    options = libtz.ReadOptions(progress=False)
    with libtz.open(bytes(data), options=options) as file:
        assert file.load(["t3"])
        with raises(libtz.IntegrityError, code="checksum", tensor="t5"):
            file.load()
    with libtz.open(bytes(data)) as file, raises(libtz.IntegrityError, tensor="t5"):
        file.verify()
    with libtz.open(bytes(data)) as file, pytest.raises(libtz.IntegrityError):
        list(file.iter_tensors())
    with libtz.open(bytes(data)) as file, pytest.raises(libtz.IntegrityError):
        file.get_slice("t5")[3]
    with libtz.open(bytes(data), options=libtz.ReadOptions(verify=False)) as file:
        file.load()
        assert file.verified == "none"


def test_files_without_hashes_say_so(write: Callable[..., Path]) -> None:
    path = write({"a": torch.ones(3)})
    data = bytearray(path.read_bytes())
    begin = data.index(b"\x02\x00\x04", INDEX_END)  # count, and the first hash's kind and size
    stripped = data[: begin - 2] + b"\x01\x00\x00" + data[begin + 41 :]
    # The record is shorter now: adjust its own size, and the index's offset of the data.
    size = int.from_bytes(data[INDEX_END : INDEX_END + 8], "little") - 40
    stripped[INDEX_END : INDEX_END + 8] = size.to_bytes(8, "little")
    place = data.index((INDEX_END + size + 40).to_bytes(8, "little"))
    stripped[place : place + 8] = (INDEX_END + size).to_bytes(8, "little")
    with libtz.open(bytes(stripped)) as file:
        assert file.load()["a"].equal(torch.ones(3))
        assert file.verified == "none"
        file.verify()
        assert file.verified == "none"
    with TensorDeserializer(str(path), device="cpu", verify_hash=True) as theirs:
        assert theirs["a"].equal(torch.ones(3))


def test_a_whole_file_can_be_pinned(large: tuple[Path, dict[str, torch.Tensor]]) -> None:
    import hashlib

    path, state = large
    digest = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    other = "sha256:" + "0" * 64
    small = libtz.ReadOptions(host_memory_max=8 << 20)  # it is hashed while it is loaded
    for options in (libtz.ReadOptions(), small):
        with libtz.open(path, digest=digest, options=options) as file:
            assert all(same(t, state[n]) for n, t in file.load().items())
            assert file.verified == "pinned"
    with (
        libtz.open(path, digest=other, options=small) as file,
        pytest.raises(libtz.IntegrityError),
    ):
        file.load()
    with (
        libtz.open(path, digest=digest, options=small) as file,
        pytest.raises(libtz.OptionError),
    ):
        file.load(["t0"])
    with pytest.raises(libtz.IntegrityError):
        libtz.open(path, digest=other)


def test_cut_files(large: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, _ = large
    data = path.read_bytes()
    for size in (0, 4, 5, 72, 73, 80, 81, 1000, INDEX_END, INDEX_END + 9, len(data) - 1):
        with pytest.raises(libtz.FormatError) as caught:
            libtz.open(data[:size])
        assert caught.value.code == ("truncated" if size >= 5 else caught.value.code)
    with pytest.raises(libtz.FormatError) as caught:
        libtz.open(data + b"\0")
    assert caught.value.code == "trailing"
    marked = data[:-1] + b"\1"
    with libtz.open(marked) as file:
        file.load(["t0"])
        with pytest.raises(libtz.FormatError) as caught:
            file.load()
    assert caught.value.code == "trailing"
    with libtz.open(marked) as file, pytest.raises(libtz.FormatError):
        file.verify()


def test_commands(
    write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(Net())
    for name in ("b.tz", "c.safetensors"):
        assert main(["convert", str(source), str(tmp_path / name)]) == 0
        assert main(["diff", str(source), str(tmp_path / name)]) == 0
        assert "10 equal" in capsys.readouterr().out
    assert main(["inspect", str(source)]) == 0
    assert "tensors, " in capsys.readouterr().out
    assert main(["verify", str(source)]) == 0
    assert capsys.readouterr().out == "ok\n"
    assert main(["load", str(source)]) == 0
    assert "checksum" in capsys.readouterr().out
    nested = write(NESTED, name="nested.tensors")
    assert main(["convert", str(nested), str(tmp_path / "nested.tz")]) == 0
    loaded = libtz.torch.load(tmp_path / "nested.tz")
    assert loaded["layers"][0]["bias"].equal(NESTED["layers"][0]["bias"])
    assert main(["convert", str(nested), str(tmp_path / "n.safetensors")]) == 2


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.gz")), ids=lambda path: path.name)
def test_files_of_older_releases(path: Path, tmp_path: Path) -> None:
    data = gzip.decompress(path.read_bytes())
    is_encrypted = "encrypted" in path.name
    key = bytes(range(32)) if is_encrypted else None
    options = libtz.ReadOptions(decryption=libtz.DecryptionOptions(key=key))
    with libtz.open(data, options=options) as file:
        tensors = file.load()
        assert file.verified == "checksum"
        file.verify()
        names = list(file)
    if "nested" in path.name:
        assert names == ["layers/0/w", "layers/1/w"]
        loaded = libtz.torch.load(data)
        assert loaded["layers"][0]["w"].equal(expected()["layer.weight"])
        return
    state = expected()
    if "bf16" in path.name:
        state["layer.bias"] = state["layer.bias"].bfloat16()
    assert set(names) == set(state)
    assert all(same(tensors[name], state[name]) for name in state)
    # The current release agrees.
    whole = tmp_path / "whole.tensors"
    whole.write_bytes(data)
    decryption = DecryptionParams.from_key(key) if key else None
    with TensorDeserializer(
        str(whole), device="cpu", verify_hash=True, encryption=decryption
    ) as theirs:
        assert {name.removeprefix(".") for name in theirs} == set(names)
        assert all(same(theirs[name].data, tensors[name.removeprefix(".")]) for name in theirs)
