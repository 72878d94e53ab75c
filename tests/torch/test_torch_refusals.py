"""Modules that load_model cannot fill: refused before anything changes, with a remedy."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.layers import stored, two_layers
from torch import nn

import libtz
from libtz.errors import OptionError
from libtz.torch import load_model, no_init, save_file

pytestmark = pytest.mark.filterwarnings("ignore")


class Scaled(torch.Tensor):
    """A tensor in 8 bits with a scale, as in torchao."""

    @staticmethod
    def __new__(cls, data: torch.Tensor, scale: float) -> Scaled:
        made: Scaled = torch.Tensor._make_wrapper_subclass(cls, data.shape, dtype=torch.float32)
        return made

    def __init__(self, data: torch.Tensor, scale: float) -> None:
        self.data8 = data
        self.scale = scale

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        return ["data8"], self.scale

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten.detach.default:
            return args[0]
        raise NotImplementedError(f"{func} of {cls.__name__}")


def with_weight(weight: torch.Tensor) -> Any:
    """A module in which `1.weight` is the given tensor."""
    net = two_layers()
    del net[1].weight
    if weight.is_floating_point() and type(weight) is not torch.Tensor:
        net[1].weight = nn.Parameter(weight, requires_grad=False)
    else:
        net[1].register_buffer("weight", weight)
    return net


WEIGHTS: dict[str, tuple[Callable[[], torch.Tensor], str]] = {
    "wrapper": (
        lambda: Scaled(torch.ones(3, 3, dtype=torch.int8), 2.0),
        "which wraps other tensor",
    ),
    "sparse": (lambda: torch.eye(3).to_sparse(), "is not dense"),
    "sparse rows": (lambda: torch.eye(3).to_sparse_csr(), "is not dense"),
    "quantized": (
        lambda: torch.quantize_per_tensor(torch.ones(3, 3), 0.1, 0, torch.qint8),
        "is quantized",
    ),
    "freed": (lambda: _freed(torch.ones(3, 3)), "of its storage"),
    "subclass, freed": (lambda: _freed(torch.ones(3, 3)).as_subclass(Marked), "of its storage"),
}


class Marked(torch.Tensor):
    """A subclass with memory of its own."""


def _freed(tensor: torch.Tensor) -> torch.Tensor:
    tensor.untyped_storage().resize_(0)
    return tensor


@pytest.mark.parametrize("kind", WEIGHTS)
def test_tensors_that_cannot_be_filled_change_nothing(kind: str) -> None:
    make, message = WEIGHTS[kind]
    net = with_weight(make())
    before = net[0].weight.detach().clone()
    with pytest.raises(OptionError, match=f"'1.weight'.*{message}") as caught:
        load_model(net, stored(two_layers()))
    assert caught.value.changed == ()
    assert torch.equal(net[0].weight, before)


def test_what_is_replaced_needs_no_memory() -> None:
    net = with_weight(_freed(torch.ones(3, 3)))
    source = two_layers()
    load_model(net, stored(source), dtype=torch.float64)
    assert torch.equal(net[1].weight, source[1].weight.double())


def test_subclasses_with_memory_of_their_own_are_filled() -> None:
    net = with_weight(torch.zeros(3, 3).as_subclass(Marked))
    source = two_layers()
    load_model(net, stored(source))
    weight = net[1].weight
    assert isinstance(weight, Marked)
    assert torch.equal(weight.as_subclass(torch.Tensor), source[1].weight)


@pytest.mark.parametrize("is_contiguous", [True, False])
@pytest.mark.parametrize("is_inside", [True, False])
def test_inference_tensors(is_contiguous: bool, is_inside: bool) -> None:
    with torch.inference_mode():
        net = two_layers()
        if not is_contiguous:
            net[0].weight = nn.Parameter(torch.zeros(3, 3).t(), requires_grad=False)
    source = two_layers()
    place = net[0].weight.data_ptr()
    with torch.inference_mode(is_inside):
        load_model(net, stored(source))
    assert all(map(torch.equal, net.state_dict().values(), source.state_dict().values()))
    assert net[0].weight.data_ptr() == place
    load_model(net, stored(source), dtype=torch.float64)
    assert net[0].weight.dtype == torch.float64


# What compiling imports takes seconds.
@pytest.mark.parametrize(
    "kind",
    [
        "scripted",
        "frozen",
        pytest.param("compiled", marks=pytest.mark.slow),
        pytest.param("compiled in place", marks=pytest.mark.slow),
    ],
)
def test_modules_of_other_makes(kind: str) -> None:
    source, net = two_layers(), two_layers()
    loaded: Any = net
    if kind == "scripted":
        loaded = torch.jit.script(net)
    elif kind == "frozen":
        net.requires_grad_(False)
    elif kind == "compiled":
        loaded = torch.compile(net, backend="eager")
    else:
        net.compile(backend="eager")
    inputs = torch.ones(1, 3)
    loaded(inputs)
    if kind == "compiled":
        with pytest.raises(OptionError, match=r"prefix '_orig_mod\.' in the module"):
            load_model(loaded, stored(source))
        load_model(loaded, stored(source), rename=lambda name: "_orig_mod." + name)
    else:
        load_model(loaded, stored(source))
    assert torch.equal(loaded(inputs), source(inputs))


def test_errors_of_a_tensor_s_own_methods_name_what_changed() -> None:
    class Stubborn(torch.Tensor):
        @classmethod
        def __torch_function__(
            cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is torch.Tensor.copy_:
                raise ZeroDivisionError("not me")
            return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]

    net = with_weight(torch.zeros(3, 3).as_subclass(Stubborn))
    with pytest.raises(libtz.Error, match="ZeroDivisionError: not me") as caught:
        load_model(net, stored(two_layers()))
    assert set(caught.value.changed) == {"0.weight", "0.bias", "1.weight", "1.bias"}


def test_a_device_that_holds_no_values() -> None:
    for device in ("meta", "nonsense"):
        with pytest.raises(OptionError, match=device):
            load_model(two_layers(), stored(two_layers()), device=device)


# ---- Names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.vision.", "module._orig_mod."])
def test_a_prefix_is_reported_in_one_line(prefix: str) -> None:
    net = nn.Sequential(*[nn.Linear(1, 1) for _ in range(30)])
    prefixed = {prefix + name: tensor for name, tensor in net.state_dict().items()}
    target = io.BytesIO()
    save_file(prefixed, target)
    with pytest.raises(OptionError, match=f"60 names have the prefix '{prefix}' in the file") as e:
        load_model(net, target)
    assert len(str(e.value).splitlines()) == 2
    way = str(e.value).rpartition("rename=")[2]
    assert load_model(net, target, rename=eval(way)) == ([], [])
    wrapped = nn.Module()
    parent = wrapped
    *parts, last = prefix.rstrip(".").split(".")
    for part in parts:
        parent.add_module(part, nn.Module())
        parent = parent.get_submodule(part)
    parent.add_module(last, net)
    target = stored(net)
    with pytest.raises(OptionError, match=f"60 names have the prefix '{prefix}' in the module"):
        load_model(wrapped, target)
    assert load_model(wrapped, target, rename=lambda name: prefix + name) == ([], [])


def test_what_checkpoint_wrappers_put_into_names() -> None:
    net, target = two_layers(), io.BytesIO()
    state = net.state_dict()
    inner = {name.replace(".", "._checkpoint_wrapped_module."): t for name, t in state.items()}
    save_file(inner, target)
    with pytest.raises(OptionError, match=r"replace\('_checkpoint_wrapped_module.', ''\)"):
        load_model(net, target)


def test_long_lists_are_cut() -> None:
    net, target = nn.Sequential(*[nn.Linear(1, 1) for _ in range(300)]), io.BytesIO()
    save_file({f"other{number}": torch.ones(1) for number in range(700)}, target)
    with pytest.raises(OptionError, match=r"(?s)… and 592 more.*… and 692 more") as caught:
        load_model(net, target)
    assert len(str(caught.value).splitlines()) == 19
    save_file({name: torch.ones(7) for name in net.state_dict()}, target := io.BytesIO())
    with pytest.raises(OptionError, match="… and 592 more") as caught:
        load_model(net, target)
    assert len(str(caught.value).splitlines()) == 10
    missing, unexpected = load_model(net, stored(nn.Linear(1, 1)), strict=False)
    assert (len(missing), unexpected) == (600, ["weight", "bias"])


def test_renaming() -> None:
    source, net = nn.Linear(2, 2), nn.Linear(2, 2)
    target = io.BytesIO()
    save_file({"w": source.weight, "bias": source.bias}, target)
    assert load_model(net, target, rename={"w": "weight"}) == ([], [])
    assert torch.equal(net.weight, source.weight)
    names = {"w": "weight", "bias": "bias"}
    with no_init():
        net = nn.Linear(2, 2)
    assert load_model(net, target, rename=names.__getitem__) == ([], [])
    assert torch.equal(net.weight, source.weight)


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        ({"w": "bias"}, "both 'w' and 'bias' to 'bias'"),
        ({"x": "weight"}, "'x', which is not in the file"),
        (lambda name: None, "returns None for 'w'"),
        ("weight", "a function or mapping"),
    ],
)
def test_renaming_that_makes_no_sense(rename: Any, message: str) -> None:
    target = io.BytesIO()
    save_file({"w": torch.ones(2, 2), "bias": torch.ones(2)}, target)
    with pytest.raises(OptionError, match=message):
        load_model(nn.Linear(2, 2), target, rename=rename)


# ---- Types on the meta device --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_modules_without_memory_take_the_type_of_the_file(dtype: torch.dtype) -> None:
    source = two_layers().to(dtype)
    for context in (no_init(), torch.device("meta")):
        with context:
            net = two_layers()
        assert load_model(net, stored(source)) == ([], [])
        assert {tensor.dtype for tensor in net.state_dict().values()} == {dtype}
        assert all(map(torch.equal, net.state_dict().values(), source.state_dict().values()))
    with no_init():
        net = two_layers()
    load_model(net, stored(source), dtype=torch.float32)
    assert net[0].weight.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.complex64])
def test_other_types_are_no_weights_of_the_same_kind(dtype: torch.dtype) -> None:
    target = io.BytesIO()
    save_file({"weight": torch.ones(2, 2).to(dtype), "bias": torch.ones(2)}, target)
    with no_init():
        net = nn.Linear(2, 2)
    with pytest.raises(OptionError, match="'weight' has dtype"):
        load_model(net, target)
    assert net.weight.is_meta
