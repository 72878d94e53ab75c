"""The safetensors package's interface. Most tests run with the package and with libtz."""

from __future__ import annotations

import errno
import inspect
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

import libtz
import libtz.torch
from libtz.compat import safetensors as ours
from libtz.compat.safetensors import numpy as our_numpy
from libtz.compat.safetensors import torch as our_torch
from libtz.errors import OptionError, SourceError

THEIRS = SimpleNamespace(
    safe_open=safetensors.safe_open,
    error=safetensors.SafetensorError,
    torch=safetensors.torch,
    numpy=safetensors.numpy,
)
OURS = SimpleNamespace(
    safe_open=ours.safe_open, error=ours.SafetensorError, torch=our_torch, numpy=our_numpy
)
BOTH = pytest.mark.parametrize("api", [THEIRS, OURS], ids=["theirs", "ours"])

TENSORS = {
    "z": torch.arange(12.0).view(3, 4),
    "a": torch.randn(30, 30).to(torch.bfloat16),
    "scalar": torch.tensor(7),
    "empty": torch.empty(0, 3),
    "Gewicht ß": torch.arange(5, dtype=torch.int8),
    "bool": torch.tensor([True, False]),
    **{
        f"f8.{number}": torch.arange(8, dtype=torch.uint8).view(dtype)
        for number, dtype in enumerate(
            [
                torch.float8_e4m3fn,
                torch.float8_e5m2,
                torch.float8_e4m3fnuz,
                torch.float8_e5m2fnuz,
                torch.float8_e8m0fnu,
                torch.float4_e2m1fn_x2,
            ]
        )
    },
    **{
        str(dtype): torch.arange(6).to(dtype)
        for dtype in (
            torch.uint8,
            torch.uint16,
            torch.uint32,
            torch.uint64,
            torch.int16,
            torch.int32,
            torch.int64,
            torch.float16,
            torch.float64,
            torch.complex64,
        )
    },
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(TENSORS, path, metadata={"format": "pt"})
    return path


def raw(tensor: torch.Tensor) -> Any:
    return tensor.dtype, tuple(tensor.shape), bytes(tensor.contiguous().flatten().view(torch.uint8))


def flat(tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {name: raw(t.reshape(-1) if t.dim() == 0 else t) for name, t in tensors.items()}


def test_signatures() -> None:
    for mine, real in ((our_torch, safetensors.torch), (our_numpy, safetensors.numpy)):
        names = set(mine.__all__) - {"safe_open"}
        assert names == {name for name in vars(real) if name.startswith(("load", "save"))}
        for name in names:
            own = inspect.signature(getattr(mine, name)).parameters.values()
            other = inspect.signature(getattr(real, name)).parameters.values()
            wanted = [(p.name, p.kind, p.default) for p in other]
            assert [(p.name, p.kind, p.default) for p in own] == wanted
    public = {
        name
        for name, value in vars(safetensors).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public <= set(ours.__all__)
    for name in ("_SIZE", "_TYPES"):  # the package's tables lack F8_E8M0 and F4
        assert vars(safetensors.torch)[name].items() <= vars(our_torch)[name].items()
    public = {name for name in dir(safetensors.safe_open) if not name.startswith("_")}
    assert public == {name for name in dir(ours.safe_open) if not name.startswith("_")}


@BOTH
@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_safe_open(api: Any, path: Path, backend: str) -> None:
    with api.safe_open(path, framework="pt", device="cpu", backend=backend) as f:
        assert f.keys() == sorted(TENSORS)
        assert sorted(f.offset_keys()) == sorted(TENSORS)
        assert f.offset_keys()[0] == "torch.uint64"
        assert f.metadata() == {"format": "pt"}
        assert raw(f.get_tensor("a")) == raw(TENSORS["a"])
        if api is OURS or backend == "mmap":  # the package cannot do this with F4 and pread
            assert flat(f.get_tensors()) == flat(TENSORS)
        part = f.get_slice("z")
        assert (part.get_shape(), part.get_dtype()) == ([3, 4], "F32")
        for index in (0, -1, slice(1, 2), ..., (slice(None), slice(0, 4, 2)), (1, 2), (..., 1)):
            assert torch.equal(part[index], TENSORS["z"][index])
        assert f.get_slice("f8.5").get_shape() == [16]
        assert f.get_slice("f8.5").get_dtype() == "F4"
        for call in (f.get_tensor, f.get_slice):
            with pytest.raises(api.error, match="does not contain tensor"):
                call("nothing")


@BOTH
@pytest.mark.parametrize("name", sorted(TENSORS))
def test_slices_name_types_alike(api: Any, path: Path, name: str) -> None:
    with api.safe_open(path, "pt") as f, safetensors.safe_open(path, "pt") as real:
        assert f.get_slice(name).get_dtype() == real.get_slice(name).get_dtype()
        assert f.get_slice(name).get_shape() == real.get_slice(name).get_shape()


@BOTH
def test_numpy(api: Any, tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "a": np.arange(6, dtype=np.int16).reshape(2, 3),
        "b": np.array([1, 2], np.float32),
    }
    path = tmp_path / "x.safetensors"
    assert api.numpy.save_file(arrays, path, {"k": "v"}) is None
    assert path.read_bytes() == api.numpy.save(arrays, {"k": "v"})
    for loaded in (api.numpy.load_file(path), api.numpy.load(path.read_bytes())):
        assert sorted(loaded) == ["a", "b"]
        for name, array in arrays.items():
            assert loaded[name].dtype == array.dtype
            assert (loaded[name] == array).all()
    with api.safe_open(path, framework="np") as f:
        assert isinstance(f.get_tensor("a"), np.ndarray)
        part = f.get_slice("a")[:, 1:]
        assert isinstance(part, np.ndarray)
        assert (part == arrays["a"][:, 1:]).all()


@BOTH
def test_files_are_the_same_bytes(api: Any, path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    assert api.torch.save_file(TENSORS, other, metadata={"format": "pt"}) is None
    assert other.read_bytes() == path.read_bytes()
    assert api.torch.save(TENSORS, {"format": "pt"}) == path.read_bytes()
    assert flat(api.torch.load_file(path, "cpu")) == flat(TENSORS)
    # The package's load() supports neither F8_E8M0 nor F4.
    known = TENSORS if api is OURS else {n: t for n, t in TENSORS.items() if n[:3] != "f8."}
    assert flat(api.torch.load(api.torch.save(known))) == flat(known)


@BOTH
def test_what_cannot_be_saved(api: Any, tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    for tensors in (
        {"a": base, "b": base},
        {"a": base, "b": base[0]},
        {"a": base.t()},
        {"a": base.to_sparse()},
        {"a": 3},
        [base],
    ):
        with pytest.raises((api.error, ValueError, RuntimeError, TypeError, AttributeError)):
            api.torch.save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises((api.error, TypeError)):
        api.torch.save_file({"a": base}, tmp_path / "x.safetensors", {"k": 1})
    assert list(tmp_path.iterdir()) == []
    api.torch.save_file({"a": base[0], "b": base[1]}, tmp_path / "x.safetensors")


class Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(5, 3)
        self.body = torch.nn.Linear(3, 3)
        self.head = torch.nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


@BOTH
@pytest.mark.parametrize("reader", [THEIRS, OURS], ids=["to theirs", "to ours"])
def test_models(api: Any, reader: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "model.safetensors")
    model, other = Tied(), Tied()
    api.torch.save_model(model, path, metadata={"k": "v"})
    with reader.safe_open(path, "pt") as f:
        assert f.keys() == ["body.bias", "body.weight", "embed.weight"]
        assert f.metadata() == {"k": "v", "head.weight": "embed.weight"}
    missing, unexpected = reader.torch.load_model(other, path)
    assert (list(missing), list(unexpected)) == ([], [])
    assert other.head.weight is other.embed.weight
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)


@BOTH
def test_models_that_do_not_fit(api: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"embed.weight": torch.zeros(5, 3), "x": torch.zeros(2)}, path)
    with pytest.raises((api.error, RuntimeError), match="x"):
        api.torch.load_model(Tied(), path)
    missing, unexpected = api.torch.load_model(Tied(), path, strict=False)
    assert sorted(missing) == ["body.bias", "body.weight"]
    assert unexpected == ["x"]
    copies = {name: tensor.clone() for name, tensor in Tied().state_dict().items()}
    safetensors.torch.save_file(copies, path)
    with pytest.raises((api.error, RuntimeError), match=r"head\.weight"):
        api.torch.load_model(Tied(), path)


def test_nothing_is_changed_in_a_model_that_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tensors = {"embed.weight": torch.zeros(5, 3), "body.bias": torch.zeros(4)}
    safetensors.torch.save_file(tensors, path)
    model = Tied()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(
        OptionError, match=r"\n    size mismatch for body.bias: .*\n.*nothing was changed"
    ):
        our_torch.load_model(model, path, strict=False)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_tz_files_through_the_same_calls(tmp_path: Path) -> None:
    path = tmp_path / "model.tz"
    model, other = Tied(), Tied()
    libtz.torch.save_model(model, path, metadata={"k": "v"})
    assert our_torch.load_model(other, path) == ([], [])
    assert torch.equal(other.head.weight, model.embed.weight)
    with ours.safe_open(path, "pt") as f:
        assert f.metadata() == {"k": "v"}
        assert f.get_slice("head.weight").get_dtype() == "F32"
        assert torch.equal(f.get_slice("head.weight")[1:3], model.head.weight[1:3])
        assert f.get_tensors()["head.weight"] is not None
    libtz.torch.save_file({"c": torch.zeros(2, dtype=torch.complex128)}, path)
    with ours.safe_open(path, "pt") as f:
        assert (f.get_slice("c").get_dtype(), f.get_slice("c").get_shape()) == ("C128", [2])


def test_arguments_without_meaning(path: Path) -> None:
    for arguments in (
        {"framework": "tf"},
        {"framework": "pt", "backend": "magic"},
        {"framework": "np", "device": "cuda"},
        {"framework": "pt", "device": "nonsense"},
    ):
        with pytest.raises(OptionError), ours.safe_open(path, **arguments) as f:
            f.get_tensor("a")
    with pytest.raises(OptionError, match="bytes of a file"):
        our_torch.load(str(path))  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="bytes of a file"):
        our_numpy.load(str(path))  # type: ignore[arg-type]


@BOTH
def test_files_that_are_not_there(api: Any, tmp_path: Path) -> None:
    """Callers catch FileNotFoundError, or the package's other errors."""
    path = tmp_path / "nothing.safetensors"
    calls: list[Callable[[], Any]] = [
        lambda: api.safe_open(path, "pt"),
        lambda: api.safe_open(str(path), framework="np"),
        lambda: api.torch.load_file(path),
        lambda: api.numpy.load_file(path),
        lambda: api.torch.load_model(Tied(), path),
    ]
    for call in calls:
        with pytest.raises(FileNotFoundError, match="nothing") as caught:
            call()
        assert isinstance(caught.value, api.error) == (api is OURS)
    if api is OURS:
        again = pickle.loads(pickle.dumps(caught.value))
        assert (type(again), str(again)) == (type(caught.value), str(caught.value))
        assert isinstance(caught.value, SourceError)
        assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, str(path))


@BOTH
def test_meta_tensors_and_strided_ones_are_refused_alike(tmp_path: Path, api: Any) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(RuntimeError, match="Cannot copy out of meta tensor"):
        api.torch.save_file({"x": torch.zeros(2, device="meta")}, path)
    model = torch.nn.ParameterDict({"x": torch.arange(6.0).view(2, 3).t()})
    with pytest.raises(ValueError, match=r"use save_model\(\.\.\., force_contiguous=True\)"):
        api.torch.save_model(model, path, force_contiguous=False)
    assert not path.exists()
