"""Makes the same calls to the safetensors package and to libtz. Results must be equal, and the same
code must catch the errors."""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

from libtz.compat import safetensors as ours
from libtz.compat.safetensors import numpy as our_numpy
from libtz.compat.safetensors import torch as our_torch

THEIRS = SimpleNamespace(
    safe_open=safetensors.safe_open,
    TensorSpec=safetensors.TensorSpec,
    serialize=safetensors.serialize,
    torch=safetensors.torch,
    numpy=safetensors.numpy,
)
OURS = SimpleNamespace(
    safe_open=ours.safe_open,
    TensorSpec=ours.TensorSpec,
    serialize=ours.serialize,
    torch=our_torch,
    numpy=our_numpy,
)

Call = Callable[[Any, Any], Any]

# Exceptions that code catches. If the package raises one of these, so must libtz.
PYTHON_ERRORS = (IndexError, TypeError, ValueError, FileNotFoundError)


def outcome(call: Call, api: Any, path: Path) -> Any:
    """The result of a call, or the types of its error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch, about lists as indices
        try:
            result = call(api, path)
        except (safetensors.SafetensorError, ours.SafetensorError, *PYTHON_ERRORS) as error:
            plain = [kind for kind in PYTHON_ERRORS if isinstance(error, kind)]
            return plain or [safetensors.SafetensorError]
    if isinstance(result, (torch.Tensor, np.ndarray)):
        return tuple(result.shape), result.dtype, result.tolist()
    return result


def check_alike(call: Call, path: Path) -> None:
    assert outcome(call, OURS, path) == outcome(call, THEIRS, path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    tensors = {
        "matrix": torch.arange(12.0).view(3, 4),
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 3),
    }
    safetensors.torch.save_file(tensors, path)
    return path


# ---- Names and notes -----------------------------------------------------------------------------

SAVE: dict[str, Call] = {
    "torch": lambda api, name: api.torch.save({name: torch.ones(1)}),
    "numpy": lambda api, name: api.numpy.save({name: np.ones(1, np.float32)}),
    "raw": lambda api, name: api.serialize({name: raw_spec(api)}),
    "torch file": lambda api, name: api.torch.save_file({name: torch.ones(1)}, "m.safetensors"),
    "numpy file": lambda api, name: api.numpy.save_file({name: np.ones(1)}, "m.safetensors"),
}
RAW = np.ones(1, np.float32)


def raw_spec(api: Any) -> Any:
    return api.TensorSpec(dtype="float32", shape=[1], data_ptr=RAW.ctypes.data, data_len=4)


class Name(str):
    __slots__ = ()


@pytest.mark.parametrize("save", SAVE)
@pytest.mark.parametrize("name", [1, None, True, 1.5, b"a", ("a",), "\ud800", Name("a"), "", "ß"])
def test_names(save: str, name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert outcome(SAVE[save], OURS, name) == outcome(SAVE[save], THEIRS, name)


def test_a_name_that_is_no_str_is_refused_beside_others() -> None:
    shared = torch.ones(2)
    for tensors in ({"a": torch.ones(1), 1: torch.ones(1)}, {"a": shared, 1: shared}):
        with pytest.raises(TypeError, match="the name of a tensor must be a str; got 1") as caught:
            our_torch.save(tensors)  # type: ignore[arg-type]
        assert isinstance(caught.value, ours.SafetensorError)


@pytest.mark.parametrize("save", SAVE)
@pytest.mark.parametrize("name", ["a\tb", "a\nb", "\0", "\x7f", "\x85"])
def test_names_that_readers_refuse_are_not_written(
    save: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ours.SafetensorError, match="control character") as caught:
        SAVE[save](OURS, name)
    assert isinstance(caught.value, ValueError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "notes",
    [None, {}, {"a": "b"}, {"ß\t": "\n"}, {1: "a"}, {"a": 1}, {"a": None}, [], [("a", "b")], "ab"],
    ids=repr,
)
def test_notes_that_are_written(notes: Any, path: Path) -> None:
    check_alike(lambda api, _: api.torch.save({"a": torch.ones(1)}, notes), path)
    check_alike(lambda api, _: api.numpy.save({"a": np.ones(1)}, notes), path)


@pytest.mark.parametrize("notes", [None, {}, {"a": "b"}], ids=repr)
def test_notes_of_models(notes: Any, tmp_path: Path) -> None:
    model = torch.nn.Linear(1, 1)
    files = [tmp_path / "theirs", tmp_path / "ours"]
    safetensors.torch.save_model(model, str(files[0]), notes)
    our_torch.save_model(model, files[1], notes)
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("name", "notes"),
    [("w", None), ("w", {}), ("w", {"a": "b"}), ('"__metadata__"', None), ("__metadata__ ", None)],
)
def test_notes_that_are_read(name: str, notes: Any, tmp_path: Path) -> None:
    header: dict[str, Any] = {name: {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}
    if notes is not None:
        header["__metadata__"] = notes
    text = json.dumps(header).encode()
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\1")

    def read(api: Any, path: Path) -> Any:
        with api.safe_open(path, "pt") as file:
            return file.metadata()

    assert outcome(read, OURS, path) == notes
    check_alike(read, path)


# ---- Indices -------------------------------------------------------------------------------------

INDICES = [
    *[0, 2, 3, -1, -3, -4, 100, True, None, "a", 1.5, ..., (), np.int64(1), np.int64(9)],
    *[slice(None), slice(5, 9), slice(2, 1), slice(0, 3, 2), slice(-100, 100), slice(-2, None)],
    *[slice(None, None, -1), slice(None, None, 0), slice(1.5, 2), slice("a", None)],
    *[(0, 3), (0, 4), (0, -4), (0, -5), (3, 0), (0, 0, 0), (..., 0), (..., 4), (0, ...)],
    *[(..., ...), (None, 0), (slice(None), [0, 3]), ([0, 1], [0, 1]), (0, [1])],
    *[[0, 1], [5], [0, -1], range(2), np.array([0, 2]), np.array([1, 0, 1], bool)],
]


@pytest.mark.parametrize("name", ["matrix", "scalar", "empty"])
def test_indices(name: str, path: Path) -> None:
    def read(index: Any, api: Any, path: Path) -> Any:
        with api.safe_open(path, "pt") as file:
            return file.get_slice(name)[index]

    for index in INDICES:
        call = partial(read, index)
        assert outcome(call, OURS, path) == outcome(call, THEIRS, path), index


@pytest.mark.parametrize("index", [3, -4, (0, 4), (0, 0, 0), (slice(None), [5])], ids=repr)
@pytest.mark.parametrize("framework", ["pt", "np"])
def test_an_index_out_of_range_is_one_of_our_errors(index: Any, framework: str, path: Path) -> None:
    with ours.safe_open(path, framework) as file:
        part = file.get_slice("matrix")
        with pytest.raises(ours.SafetensorError, match="'matrix'") as caught:
            part[index]
    assert isinstance(caught.value, IndexError)


@pytest.mark.parametrize("name", ["matrix", "scalar", "empty"])
def test_indices_of_numpy(name: str, path: Path) -> None:
    """With NumPy, the package supports fewer indices, and fails on empty slices."""
    whole = safetensors.numpy.load_file(path)[name]
    with ours.safe_open(path, "np") as file, safetensors.safe_open(path, "np") as real:
        for index in (index for index in INDICES if index is not True):
            try:
                part = file.get_slice(name)[index]
            except ours.SafetensorError:
                with pytest.raises((safetensors.SafetensorError, TypeError, OverflowError)):
                    real.get_slice(name)[index]
                with pytest.raises((IndexError, TypeError, ValueError)):
                    whole[index]
            else:
                assert part.shape == whole[index].shape, index
                assert (part == whole[index]).all(), index


# ---- Open and closed files -----------------------------------------------------------------------

USES: dict[str, Callable[[Any], Any]] = {
    "keys": lambda file: file.keys(),
    "offset_keys": lambda file: sorted(file.offset_keys()),
    "metadata": lambda file: file.metadata(),
    "get_tensors": lambda file: sorted(file.get_tensors()),
    "get_tensor": lambda file: file.get_tensor("matrix"),
    "no such tensor": lambda file: file.get_tensor("nothing"),
    "no name of a tensor": lambda file: file.get_tensor(1),
    "get_slice": lambda file: file.get_slice("matrix")[1:],
    "no such slice": lambda file: file.get_slice("nothing"),
    "no name of a slice": lambda file: file.get_slice(None),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("framework", ["pt", "np"])
def test_open_files(use: str, framework: str, path: Path) -> None:
    def call(api: Any, path: Path) -> Any:
        with api.safe_open(path, framework) as file:
            return USES[use](file)

    check_alike(call, path)


@pytest.mark.parametrize("use", [use for use in USES if not use.startswith("no name")])
def test_closed_files(use: str, path: Path) -> None:
    for api, error in ((THEIRS, safetensors.SafetensorError), (OURS, ours.SafetensorError)):
        with api.safe_open(path, "pt") as file:
            pass
        with pytest.raises(error, match="is closed"):
            USES[use](file)
        file.__exit__(None, None, None)


def test_slices_of_closed_files(path: Path) -> None:
    with ours.safe_open(path, "pt") as file:
        part = file.get_slice("matrix")
    assert (part.get_shape(), part.get_dtype()) == ([3, 4], "F32")
    with pytest.raises(ours.SafetensorError, match="is closed"):
        part[0]


OPENING: dict[str, Call] = {
    "framework": lambda api, path: api.safe_open(path, "nothing"),
    "no framework": lambda api, path: api.safe_open(path, None),
    "device": lambda api, path: api.safe_open(path, "pt", device="nothing"),
    "backend": lambda api, path: api.safe_open(path, "pt", backend="nothing"),
    "missing": lambda api, path: api.safe_open(path.with_name("nothing"), "pt"),
    "name as bytes of a file": lambda api, path: api.torch.load(str(path)),
    "no bytes": lambda api, path: api.torch.load(b""),
    "short": lambda api, path: api.torch.load(b"a"),
    "cut": lambda api, path: api.torch.load(path.read_bytes()[:-1]),
}


@pytest.mark.parametrize("case", OPENING)
def test_what_cannot_be_opened(case: str, path: Path) -> None:
    check_alike(OPENING[case], path)


CONTENTS = [[torch.ones(1)], None, "ab", 3, {"a": 3}, {"a": None}, {"a": [1]}, {}]


@pytest.mark.parametrize("tensors", CONTENTS, ids=repr)
def test_what_is_no_dict_of_tensors(tensors: Any, path: Path) -> None:
    check_alike(lambda api, _: api.torch.save(tensors), path)
