"""Unusual modules: other floating-point types, ties, views, custom state."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn.utils import prune

import libtz
import libtz.torch
from libtz.errors import OptionError
from libtz.torch import load_file, load_model, no_init, save_file, save_model


def assert_equal(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        one, two = (t.detach().contiguous().view(-1) for t in (found[name], tensor))
        assert torch.equal(one.view(torch.uint8), two.view(torch.uint8)), name


def building(kind: str) -> Any:
    return no_init() if kind == "no_init" else torch.device("meta" if kind == "meta" else "cpu")


# ---- Other floating-point types ------------------------------------------------------------------


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 3))
        self.tied = self.weight
        self.narrow = nn.Parameter(torch.randn(4).half(), requires_grad=False)
        buffers = [
            torch.arange(3),
            torch.tensor([True, False]),
            torch.randn(2, dtype=torch.complex64),
            torch.arange(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
            torch.randn(3).to(torch.float8_e4m3fn),
        ]
        for number, tensor in enumerate(buffers):
            self.register_buffer(f"b{number}", tensor)


FLOATING = {"weight", "tied", "narrow", "b4"}
DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.float32])


def converted(module: nn.Module, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {
        name: tensor.to(dtype) if name in FLOATING else tensor
        for name, tensor in module.state_dict().items()
    }


@DTYPES
def test_only_floating_point_tensors_change_type(dtype: torch.dtype, tmp_path: Path) -> None:
    source = Mixed()
    path, foreign = tmp_path / "x.tz", tmp_path / "x.safetensors"
    digest = save_model(source, path)
    tensors = {name: t.clone() for name, t in source.state_dict().items() if name != "b3"}
    safetensors.torch.save_file(tensors, foreign)
    sha256 = "sha256:" + hashlib.sha256(foreign.read_bytes()).hexdigest()
    expected = converted(source, dtype)
    for pin in (None, digest):
        loaded = load_file(path, digest=pin, dtype=dtype)
        assert_equal(loaded, expected)
        assert loaded["tied"] is loaded["weight"]
    loaded = load_file(foreign, digest=sha256, dtype=dtype)
    assert_equal(loaded, {name: expected[name] for name in loaded})
    assert_equal(
        load_file(path, names=["narrow", "b0"], dtype=dtype),
        {name: expected[name] for name in ("narrow", "b0")},
    )


@DTYPES
@pytest.mark.parametrize("kind", ["real", "no_init", "meta", "converted"])
def test_modules_of_another_type(dtype: torch.dtype, kind: str, tmp_path: Path) -> None:
    source = Mixed()
    save_model(source, tmp_path / "x.tz")
    with building(kind):
        net = Mixed()
    if kind == "converted":
        for parameter in net.parameters():
            parameter.data = parameter.data.to(dtype)
    before = dict(net.named_parameters())
    places = [parameter.data_ptr() for parameter in before.values()]
    assert load_model(net, tmp_path / "x.tz", dtype=dtype) == ([], [])
    assert_equal(net.state_dict(), converted(source, dtype))
    assert net.tied is net.weight
    assert (net.weight.requires_grad, net.narrow.requires_grad) == (True, False)
    if kind in ("real", "converted"):
        assert all(net.get_parameter(name) is old for name, old in before.items())
    if kind == "converted":
        assert places == [parameter.data_ptr() for parameter in net.parameters()]


def test_gradients_go_along() -> None:
    net, target = nn.Linear(3, 2), io.BytesIO()
    save_model(net, target)
    net(torch.ones(1, 3)).sum().backward()
    load_model(net, target, dtype=torch.float64)
    assert net.weight.grad is not None
    assert net.weight.grad.dtype == torch.float64
    net(torch.ones(1, 3, dtype=torch.float64)).sum().backward()


def test_types_that_nothing_can_be_converted_to() -> None:
    target = io.BytesIO()
    save_model(nn.Linear(2, 2), target)
    for dtype in (torch.int8, torch.float4_e2m1fn_x2, torch.complex64, "bf16", 3):
        with pytest.raises(OptionError, match="dtype"):
            load_file(target, dtype=dtype)  # type: ignore[arg-type]
        with pytest.raises(OptionError, match="dtype"):
            load_model(nn.Linear(2, 2), target, dtype=dtype)  # type: ignore[arg-type]


def test_another_type_without_being_asked() -> None:
    target = io.BytesIO()
    save_model(nn.Linear(2, 2), target)
    with pytest.raises(OptionError, match=r"torch\.bfloat16 in the module; dtype= converts"):
        load_model(nn.Linear(2, 2).bfloat16(), target)


# ---- Ties and views ------------------------------------------------------------------------------


class OuterBuffer(nn.Module):
    """A parameter that is also a buffer, and one that shares memory with a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.register_buffer("same", self.inner.weight)
        self.register_buffer("shared", self.inner.bias.detach())
        self.register_buffer("volatile", self.inner.weight, persistent=False)


@pytest.mark.parametrize("kind", ["real", "no_init", "meta"])
def test_ties_between_parameters_and_buffers(kind: str) -> None:
    source, target = OuterBuffer(), io.BytesIO()
    save_model(source, target)
    with building(kind):
        net: Any = OuterBuffer()
    assert load_model(net, target) == ([], [])
    assert_equal(net.state_dict(), source.state_dict())
    assert isinstance(net.inner.weight, nn.Parameter)
    assert net.same is net.volatile is net.inner.weight
    assert net.shared.data_ptr() == net.inner.bias.data_ptr()
    assert (net.inner.weight.requires_grad, net.shared.requires_grad) == (True, False)
    assert len(list(net.parameters())) == 2
    load_model(net, target, dtype=torch.float64)
    assert net.shared.dtype == net.inner.bias.dtype == torch.float64
    assert net.shared.data_ptr() == net.inner.bias.data_ptr()


def test_a_module_that_is_registered_twice() -> None:
    def make() -> nn.Module:
        layer = nn.Linear(3, 3)
        return nn.ModuleDict({"a": layer, "b": layer, "list": nn.ModuleList([layer])})

    source, target = make(), io.BytesIO()
    save_model(source, target)
    with libtz.open(target) as file:
        assert len(file) == 6
        assert file.info("list.0.weight").tied_to == "a.weight"
    with no_init():
        net = make()
    assert load_model(net, target) == ([], [])
    assert_equal(net.state_dict(), source.state_dict())
    assert len(list(net.parameters())) == 2


def test_views_into_one_storage_stay_there() -> None:
    def make() -> nn.Module:
        base = torch.randn(20)
        return nn.ParameterDict({"a": base[:12].view(3, 4), "b": base[12:]})

    source, target, net = make(), io.BytesIO(), make()
    save_model(source, target)
    places = [parameter.data_ptr() for parameter in net.parameters()]
    load_model(net, target)
    assert_equal(net.state_dict(), source.state_dict())
    assert places == [parameter.data_ptr() for parameter in net.parameters()]


def test_tensors_that_overlap_in_the_module() -> None:
    """Valid data is not reported as damaged; the last tensor wins, as in load_state_dict()."""
    net = nn.Module()
    base = torch.zeros(6)
    net.register_buffer("a", base[:4])
    net.register_buffer("b", base[2:])
    target = io.BytesIO()
    save_file({"a": torch.ones(4), "b": torch.full((4,), 2.0)}, target)
    load_model(net, target)
    assert torch.equal(base, torch.tensor([1.0, 1, 2, 2, 2, 2]))
    net.register_buffer("a", torch.zeros(1).expand(4))
    load_model(net, target)
    assert torch.equal(net.get_buffer("a"), torch.ones(4))


# ---- Custom state --------------------------------------------------------------------------------


class Counting(nn.Module):
    def __init__(self, count: torch.Tensor) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.count = count

    def get_extra_state(self) -> torch.Tensor:
        return self.count

    def set_extra_state(self, state: torch.Tensor) -> None:
        self.count = state


def test_extra_state_that_is_a_tensor() -> None:
    target = io.BytesIO()
    save_model(nn.Sequential(Counting(torch.tensor([5, 6, 7]))), target)
    counting = Counting(torch.zeros(1))
    assert load_model(nn.Sequential(counting), target) == ([], [])
    assert torch.equal(counting.count, torch.tensor([5, 6, 7]))
    save_model(nn.Sequential(nn.ModuleDict({"inner": nn.Linear(2, 2)})), target)
    with pytest.raises(OptionError, match=r"missing in the file: '0\._extra_state'"):
        load_model(nn.Sequential(counting), target)


pruned: Any = prune.l1_unstructured

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "attention": lambda: nn.MultiheadAttention(4, 2),
    "transformer": lambda: nn.Transformer(8, 2, 1, 1, 16),
    "lstm": lambda: nn.LSTM(3, 4, 2),
    "conv": lambda: nn.Conv2d(3, 4, 3),
    "embedding": lambda: nn.Embedding(5, 3, padding_idx=1),
    "list": lambda: nn.ParameterList([torch.randn(2)]),
    "dict": lambda: nn.ParameterDict({"a": torch.randn(2)}),
    "softmax": lambda: nn.AdaptiveLogSoftmaxWithLoss(8, 20, [5, 10]),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)),
    "orthogonal": lambda: nn.utils.parametrizations.orthogonal(
        nn.Linear(3, 3), use_trivialization=False
    ),
    "weight norm with hooks": lambda: nn.utils.weight_norm(nn.Linear(3, 3)),
    "spectral norm with hooks": lambda: nn.utils.spectral_norm(nn.Linear(3, 3)),
    "pruned": lambda: pruned(nn.Linear(3, 3), "weight", 0.3),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["real", "no_init", "meta"])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_pytorch(name: str, kind: str) -> None:
    source, target = LAYERS[name](), io.BytesIO()
    save_model(source, target)
    with building(kind):
        net = LAYERS[name]()
    assert load_model(net, target) == ([], [])
    assert_equal(net.state_dict(), source.state_dict())
    if isinstance(net, nn.Linear):  # its weight is computed from the loaded tensors
        x = torch.arange(6.0).view(2, 3)
        assert torch.equal(net.eval()(x), source.eval()(x))


# ---- Without memory ------------------------------------------------------------------------------

HUGE = 400_000  # squared, 640 GB of f32


class Huge(nn.Module):
    def __init__(self, *, is_buffer: bool = False) -> None:
        super().__init__()
        if is_buffer:
            self.register_buffer("b", torch.empty(HUGE, HUGE))
        self.layer = nn.Linear(HUGE, HUGE)
        self.random = nn.Parameter(torch.randn(HUGE, HUGE))
        self.zeros = nn.Parameter(torch.zeros(HUGE, HUGE, dtype=torch.bfloat16))
        self.register_buffer("small", torch.full((3,), 2.0))


def test_parameters_larger_than_any_memory() -> None:
    with no_init():
        net: Any = Huge()
        with torch.no_grad():
            nn.init.trunc_normal_(net.random)
    assert net.layer.weight.shape == (HUGE, HUGE)
    assert all(parameter.is_meta for parameter in net.parameters())
    assert torch.equal(net.small, torch.full((3,), 2.0))
    with pytest.raises(OptionError, match="buffer 'b' of Huge needs 640000000000 bytes"), no_init():
        Huge(is_buffer=True)


def test_parametrizations_that_compute_with_values_say_so() -> None:
    with pytest.raises(OptionError, match="uses the values of its parameters"), no_init():
        nn.utils.parametrizations.orthogonal(nn.Linear(3, 3))
    with pytest.raises(RuntimeError, match="of mine"), no_init():
        raise RuntimeError("of mine")
    source: Any = nn.utils.parametrizations.orthogonal(nn.Linear(3, 3))
    net: Any = nn.utils.parametrizations.orthogonal(nn.Linear(3, 3))
    target = io.BytesIO()
    save_model(source, target)
    assert load_model(net, target) == ([], [])
    assert torch.equal(net.weight, source.weight)


class _Noisy(torch.nn.Module):
    """Random values that are not in the file: in buffers, in a computed one, in an attribute."""

    halves: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        seeded = torch.Generator().manual_seed(7)
        self.weight = torch.nn.Parameter(torch.randn(3, 2))
        self.register_buffer("noise", torch.randn(999), persistent=False)
        halves = 0.5 * torch.stack([torch.rand(999), torch.rand(999)])
        self.register_buffer("halves", halves, persistent=False)
        self.in_place = torch.empty(999).normal_()
        self.waves = torch.randn(999, dtype=torch.complex64)
        self.seeded = [torch.randn(3, generator=seeded), torch.rand(3, generator=seeded)]


def test_random_values_that_are_not_saved_are_drawn() -> None:
    usual = _Noisy()
    with no_init():
        module = _Noisy()
    assert module.weight.is_meta
    assert all(map(torch.equal, module.seeded, usual.seeded))
    for name in ("noise", "in_place", "waves"):
        drawn = getattr(module, name)
        assert 0.8 < float(drawn.std()) < 1.2, name
        assert abs(drawn.mean()) < 0.2, name
    assert 0 <= float(module.halves.min()) < 0.05
    assert 0.45 < float(module.halves.max()) < 0.5


def test_no_numbers_are_drawn_for_parameters() -> None:
    before = torch.get_rng_state()
    with no_init():
        torch.nn.Embedding(3, 4)
        torch.nn.Linear(2, 3).weight.requires_grad_(False)
        torch.nn.Parameter(torch.randn(3, 2, generator=None))
        module = torch.nn.ParameterDict({"a": torch.randn(2, 2), "b": torch.rand(2)})
    assert all(parameter.is_meta for parameter in module.values())
    assert torch.equal(torch.get_rng_state(), before)
