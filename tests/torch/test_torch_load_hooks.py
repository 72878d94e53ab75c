"""Modules that customise loading. load_model must have the same effect as PyTorch's load_state_dict
with the same tensors."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn.utils import parametrizations

import libtz
from libtz.compat.safetensors import torch as compat
from libtz.errors import OptionError
from libtz.torch import load_file, load_model, no_init, save_file, save_model

pytestmark = pytest.mark.filterwarnings("ignore")


def untyped(module: nn.Module) -> Any:
    return module  # PyTorch's methods for hooks have no types


class Joined(nn.Module):
    """Accepts q, k and v of older files, and the older name of its scale."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Parameter(torch.zeros(6, 2))
        self.scale = nn.Parameter(torch.zeros(2))
        untyped(self).register_load_state_dict_pre_hook(self.translate)

    @staticmethod
    def translate(module: Any, state: Any, prefix: str, *rest: Any) -> None:
        if prefix + "q" in state:
            state[prefix + "qkv"] = torch.cat([state.pop(prefix + each) for each in "qkv"])
        if prefix + "gamma" in state:
            state[prefix + "scale"] = state.pop(prefix + "gamma")


class OwnMethod(nn.Linear):
    """Stores its weight transposed."""

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = destination[prefix + "weight"].t()

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        state[prefix + "weight"] = state[prefix + "weight"].t()
        super()._load_from_state_dict(state, prefix, *rest)


class Growing(nn.Module):
    """Its buffer gets the length in the file."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.register_buffer("seen", torch.zeros(0))

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        self.seen = state[prefix + "seen"].new_zeros(state[prefix + "seen"].shape)
        super()._load_from_state_dict(state, prefix, *rest)


class Forgiving(nn.Linear):
    """Can be loaded without a bias, and notes the loaded names."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        nn.init.zeros_(self.bias)
        self.total = 0.0
        untyped(self).register_load_state_dict_post_hook(self.finish)

    @staticmethod
    def finish(module: Any, keys: Any) -> None:
        module.total = float(module.weight.sum())
        keys.missing_keys[:] = [key for key in keys.missing_keys if "bias" not in key]


def old_weight_norm() -> nn.Module:
    return nn.utils.weight_norm(nn.Conv1d(2, 3, 3))


def state_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def random(**shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    return {name: torch.rand(shape) for name, shape in shapes.items()}


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], dict[str, torch.Tensor]]]] = {
    "old names of weight norm": (
        lambda: parametrizations.weight_norm(nn.Conv1d(2, 3, 3)),
        lambda: state_of(old_weight_norm()),
    ),
    "weight norm": (
        lambda: parametrizations.weight_norm(nn.Conv1d(2, 3, 3)),
        lambda: state_of(parametrizations.weight_norm(nn.Conv1d(2, 3, 3))),
    ),
    "parts": (Joined, lambda: random(q=(2, 2), k=(2, 2), v=(2, 2), gamma=(2,))),
    "whole": (Joined, lambda: random(qkv=(6, 2), scale=(2,))),
    "a method": (lambda: OwnMethod(2, 3), lambda: state_of(OwnMethod(2, 3))),
    "growing": (Growing, lambda: random(weight=(2,), seen=(5,))),
    "a post-hook": (Forgiving, lambda: random(weight=(2, 2))),
    "no counter": (
        lambda: nn.BatchNorm1d(2),
        lambda: random(weight=(2,), bias=(2,), running_mean=(2,), running_var=(2,)),
    ),
    "old spectral norm": (
        lambda: nn.utils.spectral_norm(nn.Linear(2, 2)),
        lambda: state_of(nn.utils.spectral_norm(nn.Linear(2, 2))),
    ),
    "lazy": (lambda: nn.LazyLinear(3), lambda: random(weight=(3, 2), bias=(3,))),
}


@pytest.mark.parametrize("is_inner", [False, True], ids=["root", "inner"])
@pytest.mark.parametrize("kind", CASES)
def test_hooks_see_what_pytorch_shows_them(kind: str, is_inner: bool, tmp_path: Path) -> None:
    make, tensors = CASES[kind]
    stored = tensors()
    if is_inner:
        stored = {"0." + name: tensor for name, tensor in stored.items()}
        stored["1.weight"] = torch.rand(1, 1)

    def fresh() -> nn.Module:
        return nn.Sequential(make(), nn.Linear(1, 1, bias=False)) if is_inner else make()

    expected, ours, theirs = fresh(), fresh(), fresh()
    keys = expected.load_state_dict(stored)
    native, foreign = tmp_path / "x.tz", tmp_path / "x.safetensors"
    save_file(stored, native)
    safetensors.torch.save_file({n: t.contiguous() for n, t in stored.items()}, foreign)
    places = {name: t.data_ptr() for name, t in ours.named_parameters() if kind != "lazy"}
    assert load_model(ours, native) == compat.load_model(theirs, foreign) == tuple(keys)
    for net in (ours, theirs):
        assert_same_states(net, expected)
    for name, parameter in ours.named_parameters():
        assert places.get(name, parameter.data_ptr()) == parameter.data_ptr()
    if kind == "a post-hook":
        assert (ours[0] if is_inner else ours).total != 0.0  # type: ignore[index]


def assert_same_states(net: nn.Module, expected: nn.Module) -> None:
    found, wanted = net.state_dict(), expected.state_dict()
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize(
    "kind", sorted(CASES.keys() - {"old spectral norm", "lazy", "a post-hook"})
)
def test_modules_without_memory_become_real_through_hooks(kind: str) -> None:
    make, tensors = CASES[kind]
    stored, target = tensors(), io.BytesIO()
    save_file(stored, target)
    expected = make()
    expected.load_state_dict(stored)
    with no_init():
        net = make()
    before = {name: p.requires_grad for name, p in net.named_parameters()}
    assert load_model(net, target) == ([], [])
    assert_same_states(net, expected)
    assert {name: p.requires_grad for name, p in net.named_parameters()} == before
    load_model(net, target, dtype=torch.float64)
    assert {p.dtype for p in net.parameters()} == {torch.float64}
    assert all(
        torch.equal(a, b.double())
        for a, b in zip(net.parameters(), expected.parameters(), strict=True)
    )


def test_what_hooks_do_not_mend_is_refused_before_anything_is_written() -> None:
    net = nn.Sequential(nn.Linear(2, 2), Joined())
    before = state_of(net)
    good = {**before, "1.q": torch.ones(2, 2), "1.k": torch.ones(2, 2), "1.v": torch.ones(2, 2)}
    good = {name: tensor + 1 for name, tensor in good.items() if name != "1.qkv"}
    for changes, message in (
        ({"1.v": torch.ones(3, 2)}, "size mismatch for 1.qkv"),
        ({"0.weight": torch.ones(3, 2)}, "size mismatch for 0.weight"),
        ({"extra": torch.ones(1)}, "not in the module: 'extra'"),
        ({"0.bias": None}, "missing in the file: '0.bias'"),
        ({"0.bias": torch.ones(2).double()}, "'0.bias' has dtype torch.float64 in the file"),
    ):
        tensors = {n: t for n, t in {**good, **changes}.items() if t is not None}
        target = io.BytesIO()
        save_file(tensors, target)
        with pytest.raises(OptionError, match=message) as caught:
            load_model(net, target)
        assert caught.value.changed == ()
        assert_same_as(net, before)
    save_file(good, target := io.BytesIO())
    assert load_model(net, target) == ([], [])


def assert_same_as(net: nn.Module, state: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


def test_hooks_that_raise_name_what_changed() -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("a hook")

    target = io.BytesIO()
    save_model(nn.Linear(2, 2), target)
    net = nn.Linear(2, 2)
    untyped(net).register_load_state_dict_pre_hook(fail)
    before = state_of(net)
    with pytest.raises(libtz.Error, match="ZeroDivisionError while loading: a hook") as caught:
        load_model(net, target)
    assert caught.value.changed == ()
    assert_same_as(net, before)
    net = nn.Linear(2, 2)
    untyped(net).register_load_state_dict_post_hook(fail)
    with pytest.raises(libtz.Error, match="ZeroDivisionError while loading: a hook") as caught:
        load_model(net, target)
    assert set(caught.value.changed) == {"weight", "bias"}


def test_ties_stay_when_hooks_run() -> None:
    def make() -> Any:
        net = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2), "hooked": Joined()})
        net["b"].weight = net["a"].weight
        return net

    source, target = make(), io.BytesIO()
    save_model(source, target)
    once = io.BytesIO()
    save_file({n: t for n, t in source.state_dict().items() if n != "b.weight"}, once)
    for file in (target, once):
        with no_init():
            meta = make()
        for net in (make(), meta):
            assert load_model(net, file) == ([], [])
            assert net["a"].weight is net["b"].weight
            assert_same_states(net, source)
    apart = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    apart["b.weight"] += 1
    save_file(apart, file := io.BytesIO())
    with pytest.raises(OptionError, match="are tied in the module, but differ in the file"):
        load_model(make(), file)


def test_a_load_state_dict_of_the_module_s_own() -> None:
    class Own(nn.Linear):
        def load_state_dict(self, state: Any, strict: bool = True) -> Any:  # type: ignore[override]
            return super().load_state_dict({n.removeprefix("x."): t for n, t in state.items()})

    source, target = nn.Linear(2, 2), io.BytesIO()
    save_file({"x." + name: tensor for name, tensor in source.state_dict().items()}, target)
    net = Own(2, 2)
    assert load_model(net, target) == ([], [])
    assert_same_states(net, source)
    with no_init():
        net = Own(2, 2)
    with pytest.raises(OptionError, match="does not take assign=True"):
        load_model(net, target)


# ---- Custom state --------------------------------------------------------------------------------


class Scaled(nn.Module):
    def __init__(self, scale: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.scale = scale

    def get_extra_state(self) -> Any:
        return self.scale

    def set_extra_state(self, state: Any) -> None:
        if state.numel() > 3:
            raise ValueError("too long")
        self.scale = state


@pytest.mark.parametrize("before", [None, {"a": 1}, torch.zeros(3), torch.zeros(1)])
def test_extra_state_does_not_depend_on_what_is_there(before: Any, tmp_path: Path) -> None:
    save_model(Scaled(torch.ones(1)), tmp_path / "x.tz")
    compat.save_model(Scaled(torch.ones(1)), tmp_path / "x.safetensors")
    ours, theirs = Scaled(before), Scaled(before)
    assert load_model(ours, tmp_path / "x.tz") == ([], [])
    assert compat.load_model(theirs, tmp_path / "x.safetensors") == ([], [])
    assert torch.equal(ours.scale, torch.ones(1))
    assert torch.equal(theirs.scale, torch.ones(1))


def test_extra_state_that_is_no_tensor_cannot_be_saved(tmp_path: Path) -> None:
    for scale in (None, {"a": 1}):
        with pytest.raises(OptionError, match=r"'_extra_state' must be"):
            save_model(Scaled(scale), tmp_path / "x.tz")
        with pytest.raises(OptionError, match=r"'_extra_state' must be"):
            compat.save_model(Scaled(scale), tmp_path / "x.safetensors")


def test_extra_state_that_only_saves() -> None:
    class Telling(nn.Linear):
        def get_extra_state(self) -> torch.Tensor:
            return torch.ones(1)

    target = io.BytesIO()
    save_model(Telling(2, 2), target)
    with pytest.raises(OptionError, match="not in the module: '_extra_state'"):
        load_model(Telling(2, 2), target)
    assert load_model(Telling(2, 2), target, strict=False) == ([], ["_extra_state"])


def test_extra_state_that_the_module_does_not_want_names_what_changed() -> None:
    target = io.BytesIO()
    save_model(Scaled(torch.ones(4)), target)
    net = Scaled(torch.ones(1))
    with pytest.raises(libtz.Error, match="ValueError: too long") as caught:
        load_model(net, target)
    assert set(caught.value.changed) == {"weight", "_extra_state"}
    assert load_file(target).keys() == {"weight", "_extra_state"}


def test_no_warning_of_parameters_that_are_not_copied() -> None:
    target = io.BytesIO()
    save_file(random(qkv=(6, 2), scale=(2,)), target)
    with no_init():
        net = Joined()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(net, target)
