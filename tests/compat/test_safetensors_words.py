"""What callers look for in the safetensors package's messages is in ours, and tensors that share
memory are grouped alike."""

from __future__ import annotations

import errno
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
from torch import nn

from libtz.compat import safetensors as ours
from libtz.compat.safetensors import torch as our_torch

APIS = [
    pytest.param(SimpleNamespace(top=safetensors, torch=safetensors.torch), id="theirs"),
    pytest.param(SimpleNamespace(top=ours, torch=our_torch), id="ours"),
]


class Part(nn.Module):
    """A weight that covers only a part of its storage."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(8.0)[:3])


class Sideways(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, 4).t())


def load_other(api: Any, **state: torch.Tensor) -> None:
    """Loads a file with this state into a linear layer."""
    safetensors.torch.save_file(state, "other.safetensors")
    api.torch.load_model(nn.Linear(2, 3), "other.safetensors")


WHOLE = torch.arange(12.0).view(3, 4)
SHARED = (
    "Some tensors share memory, this will lead to duplicate memory on disk and potential"
    " differences when loading them again: "
)
MESSAGES: dict[str, tuple[Callable[[Any], Any], str, type[Exception]]] = {
    "no such file": (
        lambda api: api.top.safe_open("nothing.safetensors", "pt"),
        "No such file or directory: nothing.safetensors",
        FileNotFoundError,
    ),
    "no tensor": (
        lambda api: api.torch.save({"a": [1.0]}),
        "Key `a` is invalid, expected torch.Tensor but received <class 'list'>",
        ValueError,
    ),
    "no dict": (
        lambda api: api.torch.save("a"),
        "Expected a dict of [str, torch.Tensor] but received <class 'str'>",
        ValueError,
    ),
    "sparse": (
        lambda api: api.torch.save({"a": torch.eye(2).to_sparse(), "b": torch.ones(1)}),
        "You are trying to save a sparse tensors: `['a']` which this library does not support."
        " You can make it a dense tensor before saving with `.to_dense()`",
        ValueError,
    ),
    "shared": (lambda api: api.torch.save({"a": WHOLE, "b": WHOLE}), SHARED, RuntimeError),
    "not contiguous": (
        lambda api: api.torch.save({"a": WHOLE.t()}),
        "You are trying to save a non contiguous tensor: `a` which is not allowed.",
        ValueError,
    ),
    "a model that is not contiguous": (
        lambda api: api.torch.save_model(Sideways(), "m.safetensors", force_contiguous=False),
        "use save_model(..., force_contiguous=True)",
        ValueError,
    ),
    "a part of a storage": (
        lambda api: api.torch.save_model(Part(), "m.safetensors"),
        "None is covering the entire storage.",
        RuntimeError,
    ),
    "missing": (
        lambda api: load_other(api, other=torch.ones(1)),
        'Error(s) in loading state_dict for Linear:\n    Missing key(s) in state_dict: "bias",'
        ' "weight"\n    Unexpected key(s) in state_dict: "other"',
        RuntimeError,
    ),
    "unexpected": (
        lambda api: load_other(
            api, weight=torch.ones(3, 2), bias=torch.ones(3), b=WHOLE, a=WHOLE + 1
        ),
        'Error(s) in loading state_dict for Linear:\n    Unexpected key(s) in state_dict: "a", "b"',
        RuntimeError,
    ),
    "another shape": (
        lambda api: load_other(api, weight=torch.ones(3, 2), bias=torch.ones(4)),
        "size mismatch for bias: copying a param with shape torch.Size([4]) from checkpoint, the"
        " shape in current model is torch.Size([3]).",
        RuntimeError,
    ),
}


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("case", MESSAGES)
def test_messages(case: str, api: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    call, words, kind = MESSAGES[case]
    with pytest.raises(kind) as caught:
        call(api)
    assert words in str(caught.value)


def test_a_missing_file_has_the_systems_error() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        ours.safe_open("nothing.safetensors", "pt")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, "nothing.safetensors")


def shorter(tensor: torch.Tensor, count: int) -> torch.Tensor:
    """A tensor over a storage of its own object, at the same address."""
    storage = tensor.untyped_storage()[: count * tensor.element_size()]
    return torch.empty(0, dtype=tensor.dtype).set_(storage)


GROUPS: dict[str, dict[str, torch.Tensor]] = {
    "alone": {"a": torch.ones(2), "b": torch.ones(2)},
    "alike": {"b": WHOLE, "a": WHOLE, "c": WHOLE.view(4, 3)},
    "a part": {"b": WHOLE, "a": WHOLE[1:]},
    "two parts": {"a": WHOLE[:1], "b": WHOLE[1:]},
    "parts that overlap": {"a": WHOLE[:2], "b": WHOLE[1:]},
    "parts inside a whole": {"a": WHOLE, "b": WHOLE[0, 1:2], "c": WHOLE[1:2]},
    "storages of two sizes": {"a": WHOLE, "b": shorter(WHOLE, 4)},
    "only a part": {"a": torch.ones(4)[:2]},
    "no memory": {"a": torch.empty(0), "b": torch.empty(2, device="meta"), "c": WHOLE},
    "columns": {"a": torch.arange(16.0)[::4], "b": WHOLE.t()},
}


@pytest.mark.parametrize("case", GROUPS)
@pytest.mark.parametrize("names", [{}, {"preferred_names": ["c"]}, {"discard_names": ["a"]}])
def test_tensors_that_share_memory(case: str, names: dict[str, list[str]]) -> None:
    state = GROUPS[case]

    def removed(api: Any) -> Any:
        try:
            return api._remove_duplicate_names(state, **names)
        except RuntimeError:
            return RuntimeError

    assert removed(our_torch) == removed(safetensors.torch)


@pytest.mark.parametrize("case", sorted(GROUPS.keys() - {"columns"}))
def test_groups_of_tensors(case: str) -> None:
    state = GROUPS[case]
    found = [
        sorted(map(sorted, api._find_shared_tensors(state)))
        for api in (our_torch, safetensors.torch)
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "tensor", [torch.zeros(4), torch.zeros(16)[::4], torch.zeros(16).half()[::4], torch.empty(0)]
)
def test_the_end_of_a_tensor(tensor: torch.Tensor) -> None:
    assert our_torch._end_ptr(tensor) == safetensors.torch._end_ptr(tensor)


@pytest.mark.parametrize("api", [safetensors, ours], ids=["theirs", "ours"])
@pytest.mark.parametrize("mode", ["r", "rb"])
def test_a_file_object_is_opened_by_its_name(api: Any, mode: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    safetensors.numpy.save_file({"a": np.arange(3)}, path)
    with path.open(mode) as file, api._safe_open_handle(file, framework="np") as opened:
        assert opened.keys() == ["a"]
        assert opened.get_tensor("a").tolist() == [0, 1, 2]
    with pytest.raises(AttributeError):
        api._safe_open_handle(str(path), framework="np")
