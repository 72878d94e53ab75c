"""Files of libtz.torch, read by the reference implementation."""

from __future__ import annotations

import importlib
import io
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

import libtz.numpy
import libtz.torch
from libtz.arrays.torch_dtypes import FORMAT_NAMES, TORCH_DTYPES
from libtz.errors import OptionError
from libtz.options import WriteOptions
from libtz.torch import load, tensor_bytes
from libtz.torch.saving import save, save_file, save_model

reference: Any = importlib.import_module("tz_reference")

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support:UserWarning")


def raw_bytes(tensor: torch.Tensor) -> bytes:
    """The bytes in row-major order, through integers, since NumPy lacks most dtypes."""
    tensor = tensor.detach().resolve_conj().resolve_neg()
    kind = tensor_bytes._RAW[tensor.element_size()]
    data: bytes = tensor.view(kind).contiguous().view(-1).numpy().tobytes()
    return data


def saved(tensors: Any, **kwargs: Any) -> Any:
    target = io.BytesIO()
    digest = save_file(tensors, target, **kwargs)
    file = reference.File(target.getvalue())
    file.verify()
    assert file.digest == digest
    return file


def assert_same(file: Any, tensors: Any) -> None:
    assert sorted(file.names()) == sorted(tensors)
    for name, tensor in tensors.items():
        expected = (FORMAT_NAMES[tensor.dtype], tuple(tensor.shape), raw_bytes(tensor))
        assert file.load(name) == expected, name


def random_tensor(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    size = torch.empty(0, dtype=dtype).element_size()
    count = size
    for n in shape:
        count *= n
    data = torch.randint(0, 256, (count,), dtype=torch.uint8)
    return data.view(tensor_bytes._RAW[size]).view(dtype).view(shape)


def test_the_table_of_dtypes_is_complete() -> None:
    """Every dtype of torch, except those of quantized tensors, which have no plain memory."""
    known = {value for value in vars(torch).values() if isinstance(value, torch.dtype)}
    quantized = {value for value in known if str(value).startswith(("torch.qint", "torch.quint"))}
    assert set(FORMAT_NAMES) == known - quantized
    assert set(reference.DTYPE_CODES) - set(TORCH_DTYPES) == {"f6_e2m3_x4", "f6_e3m2_x4"}


@pytest.mark.parametrize("dtype", FORMAT_NAMES, ids=str)
def test_every_dtype_in_every_layout(dtype: torch.dtype) -> None:
    base = random_tensor(dtype, 6, 10)
    tensors = {
        "plain": base,
        "transposed": random_tensor(dtype, 5, 4).t(),
        "strided": random_tensor(dtype, 9, 9)[1::2, ::3],
        "expanded": random_tensor(dtype, 3, 1).expand(3, 5),
        "scalar": random_tensor(dtype),
        "empty": random_tensor(dtype, 3, 0, 2),
    }
    assert_same(saved(tensors), tensors)


@pytest.mark.parametrize("dtype", [torch.complex32, torch.complex64, torch.complex128])
def test_pending_conjugation_and_negation_are_resolved(dtype: torch.dtype) -> None:
    tensor = torch.randn(40, dtype=torch.complex128).to(dtype)
    tensors = {"conj": tensor.clone().conj(), "neg": tensor.clone().conj().imag}
    assert tensors["conj"].is_conj()
    assert tensors["neg"].is_neg()
    assert_same(saved(tensors), tensors)


def test_many_chunks_and_their_order() -> None:
    """The order of the data is the insertion order, for all names."""
    counts = (997, 16 * 1024, 0, 40_000, 16 * 1024 + 1, 5)  # 16 Ki elements fill a chunk
    tensors = {f"{5 * i % 6}": torch.randn(count) for i, count in enumerate(counts)}
    file = saved(tensors, options=WriteOptions(chunk_size=64 * 1024))
    assert_same(file, tensors)
    by_order = sorted(file.header.entries, key=lambda entry: entry.record.order)
    assert [entry.name for entry in by_order] == list(tensors)


def test_ties_and_names_of_owners() -> None:
    weight = torch.randn(4, 4)
    tensors = {
        "lm_head": weight,
        "embed": weight.view(4, 4),
        "third": weight[:],
        "copy": weight + 0,
    }
    file = saved(tensors)
    assert_same(file, tensors)
    owners = {entry.name: entry.record.tie for entry in file.header.entries}
    names = file.names()
    assert names[owners["lm_head"]] == names[owners["third"]] == "embed"
    assert owners["embed"] == owners["copy"] == reference.NO_TIE


@pytest.mark.parametrize(
    "other",
    [
        lambda w: w.t(),
        lambda w: w[:2],
        lambda w: w.view(-1),
        lambda w: w.view(torch.int32),
        lambda w: w[1:],
    ],
)
def test_other_overlaps_name_both(other: Any) -> None:
    weight = torch.randn(4, 4)
    tensors = {"weight": weight, "between": torch.randn(2), "view": other(weight)}
    with pytest.raises(OptionError, match="'weight' and 'view' share memory"):
        save_file(tensors, io.BytesIO())
    assert_same(saved(tensors, copy_overlapping=True), tensors)


def test_slices_of_one_base_are_no_overlap() -> None:
    qkv = torch.randn(6, 9)
    tensors = dict(zip("qkv", torch.chunk(qkv, 3, dim=1), strict=True))
    assert_same(saved(tensors), tensors)


class Wrapper(torch.Tensor):
    """Stands for DTensor and the like, which hold their data in other tensors."""

    def __tensor_flatten__(self) -> Any:
        raise NotImplementedError


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.empty(3, device="meta"), "meta device"),
        (lambda: torch.eye(3).to_sparse(), "not dense"),
        (lambda: torch.eye(3).to_sparse_csr(), "not dense"),
        (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "quantized"),
        (lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]), "is nested"),
        (lambda: torch.ones(3).as_subclass(Wrapper), "is a Wrapper, which wraps other tensors"),
        (lambda: [1.0, 2.0], "must be a torch.Tensor, not list"),
    ],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_what_has_no_bytes_is_refused_by_name(make: Any, message: str) -> None:
    with pytest.raises(OptionError, match=f"'bad'.*{message}"):
        save_file({"fine": torch.ones(1), "bad": make()}, io.BytesIO())


def test_names_and_metadata_are_checked() -> None:
    with pytest.raises(OptionError, match="must be a str, not int"):
        save_file({1: torch.ones(1)}, io.BytesIO())  # type: ignore[dict-item]
    with pytest.raises(OptionError, match="this cannot be written"):
        save_file({"a\nb": torch.ones(1)}, io.BytesIO())
    with pytest.raises(OptionError, match="must be a str"):
        save_file({}, io.BytesIO(), metadata={"a": 1})  # type: ignore[dict-item]


class Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(10, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.head = torch.nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("kept", torch.arange(3))
        self.register_buffer("dropped", torch.arange(4), persistent=False)


@pytest.mark.parametrize("metadata", [[1], "text", 5, ()])
def test_metadata_that_is_no_dict_is_refused(metadata: Any) -> None:
    with pytest.raises(OptionError, match="metadata must be a dict"):
        libtz.torch.save_file({"a": torch.ones(1)}, io.BytesIO(), metadata=metadata)


@pytest.mark.parametrize("tensors", [torch.nn.Linear(1, 1), [torch.ones(1)], torch.ones(1)])
def test_what_is_no_dict_is_refused(tensors: Any) -> None:
    target = io.BytesIO()
    with pytest.raises(OptionError):
        libtz.torch.save_file(tensors, target)
    with pytest.raises(OptionError):
        libtz.numpy.save_file(tensors, target)
    assert not target.getvalue()


def test_a_module_with_buffers_and_a_tie() -> None:
    module = Tied()
    target = io.BytesIO()
    save_model(module, target, metadata={"made-by": "test"})
    file = reference.File(target.getvalue())
    assert_same(file, module.state_dict())
    assert "dropped" not in file.names()
    assert file.metadata == {"made-by": "test"}
    tied = [entry.name for entry in file.header.entries if entry.is_tied]
    assert tied == ["head.weight"]


def test_extra_state_that_is_no_tensor_is_named() -> None:
    class Extra(torch.nn.Linear):
        def get_extra_state(self) -> Any:
            return {"scale": 1}

    with pytest.raises(OptionError, match=r"'0\._extra_state' must be"):
        save_model(torch.nn.Sequential(Extra(2, 2)), io.BytesIO())


class Training:
    """A small model, its AdamW and its scheduler."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(
            torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2)
        )
        groups: list[dict[str, Any]] = [
            {"params": self.model[0].parameters(), "lr": 1e-3},
            {"params": self.model[2].parameters()},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95))
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, max_lr=0.1, total_steps=10
        )

    def run(self, steps: int) -> None:
        torch.manual_seed(self.scheduler.last_epoch)
        for _ in range(steps):
            self.optimizer.zero_grad()
            self.model(torch.randn(7, 3)).square().sum().backward()
            self.optimizer.step()
            self.scheduler.step()

    def state(self) -> dict[str, Any]:
        return {
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }


def plain(value: Any) -> Any:
    """The tensors as the reference reads them."""
    if isinstance(value, torch.Tensor):
        return reference.Tensor(FORMAT_NAMES[value.dtype], tuple(value.shape), raw_bytes(value))
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return type(value)(map(plain, value)) if isinstance(value, list | tuple) else value


SCHEDULERS: dict[str, Any] = {
    "steps": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [2, 2, 5]),
    "restarts": lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 2),
    "plateau": lr_scheduler.ReduceLROnPlateau,
    "sequence": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer,
        [lr_scheduler.ConstantLR(optimizer), lr_scheduler.ExponentialLR(optimizer, 0.9)],
        [2],
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_go_on_as_they_would_have(name: str) -> None:
    def run(scheduler: Any, optimizer: Any, count: int) -> list[float]:
        rates = []
        for _ in range(count):
            optimizer.step()
            scheduler.step(*([1.0] if name == "plateau" else []))
            rates.append(optimizer.param_groups[0]["lr"])
        return rates

    def make() -> tuple[Any, Any]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
        return SCHEDULERS[name](optimizer), optimizer

    first, second = make(), make()
    run(*first, 3)
    target = io.BytesIO()
    save({"scheduler": first[0].state_dict(), "optimizer": first[1].state_dict()}, target)
    loaded = load(target)
    assert loaded["scheduler"] == first[0].state_dict()
    second[0].load_state_dict(loaded["scheduler"])
    second[1].load_state_dict(loaded["optimizer"])
    assert run(*second, 20) == run(*first, 20)


def test_an_optimizer_and_a_scheduler() -> None:
    training = Training()
    training.run(3)
    target = io.BytesIO()
    save(training.state(), target)
    file = reference.File(target.getvalue())
    file.verify()
    assert file.object() == plain(training.state())
    assert "optimizer/state/0/exp_avg" in file.names()


def test_training_goes_on_where_it_was_saved() -> None:
    training, other = Training(), Training()
    training.run(3)
    target = io.BytesIO()
    digest = save(training.state(), target)
    loaded = libtz.torch.load(target.getvalue(), digest=digest)
    assert plain(loaded) == plain(training.state())
    other.model.load_state_dict(loaded["model"])
    other.optimizer.load_state_dict(loaded["optimizer"])
    other.scheduler.load_state_dict(loaded["scheduler"])
    for one in (training, other):
        one.run(4)
    assert plain(other.state()) == plain(training.state())


@pytest.mark.parametrize("dtype", FORMAT_NAMES, ids=str)
def test_what_was_saved_loads_equal(dtype: torch.dtype) -> None:
    tensors = {"a": random_tensor(dtype, 3, 50), "b": random_tensor(dtype, 4, 4).t()}
    target = io.BytesIO()
    digest = save_file(tensors, target)
    loaded = libtz.torch.load_file(target.getvalue(), digest=digest)
    assert list(loaded) == ["a", "b"]
    for name, tensor in tensors.items():
        assert (loaded[name].dtype, loaded[name].shape) == (dtype, tensor.shape)
        assert raw_bytes(loaded[name]) == raw_bytes(tensor)


def test_a_tensor_in_two_places_is_tied() -> None:
    tensor = torch.randn(3)
    target = io.BytesIO()
    save({"a": [tensor], "b": (tensor,)}, target)
    file = reference.File(target.getvalue())
    assert file.object() == plain({"a": [tensor], "b": (tensor,)})
    assert [entry.name for entry in file.header.entries if entry.is_tied] == ["b/0"]


@pytest.mark.parametrize("value", [torch.arange(3), None, [], {}, 7])
def test_bare_values(value: Any) -> None:
    target = io.BytesIO()
    save(value, target)
    assert reference.File(target.getvalue()).object() == plain(value)


def test_what_cannot_be_saved_has_a_path() -> None:
    with pytest.raises(OptionError, match=r"\$\.optimizer\.state\[0\]\.foo: .*type builtins\.set"):
        save({"optimizer": {"state": [{"foo": {1}}]}}, io.BytesIO())


def test_a_device_is_read_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the code path of devices on the CPU: pieces, a shorter last piece, odd layouts."""
    monkeypatch.setattr(tensor_bytes, "PIECE_SIZE", 4096)
    tensor = torch.randn(1000, 7)
    raw = tensor.view(torch.int32)
    pieces = [piece.clone() for piece in tensor_bytes._device_pieces(raw)]
    assert [len(piece) for piece in pieces] == [1024] * 6 + [7000 - 6 * 1024]
    assert torch.equal(torch.cat(pieces), raw.view(-1))


def test_random_number_states_go_on_as_they_would_have() -> None:
    states = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "generator": np.random.default_rng(7).bit_generator.state,
        "rate": np.float64(0.1),
        "seeds": [np.uint64(2**64 - 1), 2**64 - 1, -(2**127)],
    }
    expected = (torch.rand(5), random.random(), random.gauss(0, 1), np.random.rand(5))
    target = io.BytesIO()
    save(states, target)
    loaded = load(target)
    torch.set_rng_state(loaded["torch"])
    random.setstate(loaded["python"])
    np.random.set_state(loaded["numpy"])
    found = (torch.rand(5), random.random(), random.gauss(0, 1), np.random.rand(5))
    assert torch.equal(found[0], expected[0])
    assert found[1:3] == expected[1:3]
    assert np.array_equal(found[3], expected[3])
    assert loaded["python"] == states["python"]
    assert loaded["generator"] == states["generator"]
    assert loaded["seeds"] == [2**64 - 1, 2**64 - 1, -(2**127)]
    assert (type(loaded["rate"]), loaded["rate"]) == (float, 0.1)


def test_arrays_come_back_as_tensors() -> None:
    base = np.arange(24, dtype=np.uint32).reshape(4, 6)
    frozen = np.arange(3.0)
    frozen.flags.writeable = False
    arrays = {
        "plain": base,
        "again": base,
        "reversed": np.arange(6)[::-1],
        "transposed": np.arange(6, dtype=np.int16).reshape(2, 3).T,
        "big endian": np.arange(4, dtype=">f4"),
        "scalar": np.array(7, np.uint64),
        "empty": np.zeros((0, 3), bool),
        "frozen": frozen,
        "field": np.zeros(3, [("a", "<i4"), ("b", "<i2")])["a"],
    }
    target = io.BytesIO()
    save(arrays, target)
    loaded = load(target)
    assert list(loaded) == list(arrays)
    for name, array in arrays.items():
        assert np.array_equal(loaded[name].numpy(), array), name
        assert loaded[name].numpy().dtype == array.dtype.newbyteorder("=")
    assert loaded["plain"] is loaded["again"]
    for bad in (np.array(["text"]), np.array([{}]), np.zeros(2, "M8[s]"), np.zeros(2, "f4,i4")):
        with pytest.raises(OptionError, match="tensor 'x/0' is an array of dtype"):
            save({"x": [bad]}, io.BytesIO())
    with pytest.raises(OptionError, match=r"\$\.x: cannot save an object of type numpy\.ma"):
        save({"x": np.ma.masked_array([1, 2], [True, False])}, io.BytesIO())
