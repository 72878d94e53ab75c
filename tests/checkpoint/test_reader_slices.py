"""Slices of files, compared with PyTorch's own indexing."""

from __future__ import annotations

import io
import json
import math
import operator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.files import Tensor, make_file, weights

import libtz
import libtz.torch
from libtz.errors import OptionError

SHAPES = [
    (),
    (0,),
    (5,),
    (0, 4),
    (3, 0, 2),
    (70_000,),
    (300, 400),
    (7, 11, 13),
    (2, 3, 4, 5),
    (1, 1),
]
ITEM = 2


def tensor(shape: tuple[int, ...], seed: int) -> Tensor:
    return Tensor("bf16", shape, weights(math.prod(shape), seed))


FILES = [
    make_file(
        {str(shape): tensor(shape, seed) for seed, shape in enumerate(SHAPES)},
        chunk_size=64 * 1024,
        compress=compress,
    )
    for compress in (False, True)
]


@st.composite
def indices(draw: st.DrawFn, shape: tuple[int, ...]) -> Any:
    given = draw(st.integers(0, len(shape)))
    dots = draw(st.none() | st.integers(0, given))
    parts: list[Any] = []
    axes = list(range(given))
    if dots is not None:  # those after the dots count from the end
        axes = list(range(dots)) + list(range(len(shape) - given + dots, len(shape)))
    for axis in axes:
        size = shape[axis]
        if size and draw(st.booleans()):
            parts.append(draw(st.integers(-size, size - 1)))
            continue
        bound = st.none() | st.integers(-size - 2, size + 2)
        parts.append(slice(draw(bound), draw(bound), draw(st.none() | st.integers(1, 4))))
    if dots is not None:
        parts.insert(dots, Ellipsis)
    if len(parts) == 1 and draw(st.booleans()):
        return parts[0]
    return tuple(parts)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_slices_are_those_of_torch(data: st.DataObject) -> None:
    file = data.draw(st.sampled_from(FILES))
    shape = data.draw(st.sampled_from(SHAPES))
    index = data.draw(indices(shape))
    whole = np.frombuffer(file.tensors[str(shape)].data, np.int16)
    expected = torch.from_numpy(whole.copy()).view(torch.bfloat16).view(shape)[index]
    with libtz.open(file.data) as f:
        got = f.get_slice(str(shape))[index]
        assert got.dtype == torch.bfloat16
        assert got.shape == expected.shape
        assert torch.equal(got.view(torch.int16), expected.view(torch.int16))
        assert got.is_contiguous()
        assert got.untyped_storage().nbytes() == got.nbytes


def test_a_slice_reads_its_share() -> None:
    size = 8 << 20
    file = make_file({"t": Tensor("u8", (1024, size // 1024), bytes(size))}, chunk_size=64 * 1024)
    with libtz.open(file.data) as f:
        part = f.get_slice("t")
        assert part.shape == (1024, size // 1024)
        assert part.dtype == "u8"
        for begin in range(0, 1024, 256):
            part[begin : begin + 256]
            assert f.stats.bytes_wanted == size // 4
            assert f.stats.bytes_read <= 1.05 * size / 4 + 64 * 1024
        part[3, 5]
        assert f.stats.bytes_read <= 64 * 1024 + 10_000


@pytest.mark.parametrize(
    "index", [(0, 0, 0), 300, -301, (Ellipsis, 400), (Ellipsis, Ellipsis)], ids=str
)
def test_indices_out_of_range(index: Any) -> None:
    with libtz.open(FILES[0].data) as f, pytest.raises(IndexError):
        f.get_slice("(300, 400)")[index]


@pytest.mark.parametrize(
    "index", [None, True, 1.5, [1, 2], slice(None, None, -1), slice(0, 2, 0), slice("a")], ids=str
)
def test_indices_of_other_kinds(index: Any) -> None:
    with libtz.open(FILES[0].data) as f, pytest.raises(OptionError):
        f.get_slice("(300, 400)")[index]


def test_integers_of_other_types() -> None:
    with libtz.open(FILES[0].data) as f:
        part = f.get_slice("(300, 400)")
        for index in (np.int64(3), torch.tensor(3)):
            assert operator.index(index) == 3
            assert torch.equal(part[index].view(torch.int16), part[3].view(torch.int16))


def test_slices_of_names_that_are_not_there() -> None:
    with libtz.open(FILES[0].data) as f, pytest.raises(KeyError):
        f.get_slice("nothing")


# ---- Several in one plan -------------------------------------------------------------------------


def set_of_files(folder: Path) -> str:
    """All shapes, in three .safetensors files."""
    weight_map: dict[str, str] = {}
    for number in range(3):
        part = {str(shape): values(str(shape)) for shape in SHAPES[number::3]}
        name = f"{number}.safetensors"
        safetensors.torch.save_file(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": weight_map}))
    return str(path)


def values(name: str) -> torch.Tensor:
    tensor = FILES[0].tensors[name]
    flat = torch.from_numpy(np.frombuffer(tensor.data, np.int16).copy())
    return flat.view(torch.bfloat16).view(tensor.shape)


class Sources(list[Any]):
    def __repr__(self) -> str:  # Hypothesis shows it
        return "sources"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    folder = tmp_path_factory.mktemp("slices")
    single = safetensors.torch.save({str(shape): values(str(shape)) for shape in SHAPES})
    return Sources([*(file.data for file in FILES), single, set_of_files(folder)])


@st.composite
def named_indices(draw: st.DrawFn) -> tuple[str, Any]:
    shape = draw(st.sampled_from(SHAPES))
    return str(shape), draw(indices(shape))


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(number=st.integers(0, 3), wanted=st.lists(named_indices(), max_size=8))
def test_many_slices_are_those_of_torch(sources: Sources, number: int, wanted: Any) -> None:
    source = sources[number]
    with libtz.open(source) as f:
        got = f.load_slices(iter(wanted))
    assert len(got) == len(wanted)
    for (name, index), tensor in zip(wanted, got, strict=True):
        expected = values(name)[index]
        assert tensor.shape == expected.shape
        assert torch.equal(tensor.view(torch.int16), expected.view(torch.int16))
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
    places = [tensor.data_ptr() for tensor in got if tensor.numel()]
    assert len(places) == len(set(places))


@pytest.mark.parametrize("compress", [False, True])
def test_a_chunk_that_several_slices_need_is_read_once(compress: bool) -> None:
    shape = (512, 4096)
    file = make_file({"t": tensor(shape, 3)}, chunk_size=64 * 1024, compress=compress)
    stored = len(file.data)
    columns = [("t", (slice(None), slice(begin, begin + 256))) for begin in range(0, 4096, 256)]
    with libtz.open(file.data) as f:
        got = f.load_slices(reversed(columns))
        assert f.stats.bytes_wanted == 512 * 4096 * ITEM
        assert f.stats.bytes_read <= stored
        f.get_slice("t")[:, :256]
        assert f.stats.bytes_wanted == 512 * 256 * ITEM
        assert stored * 0.9 < f.stats.bytes_read <= stored  # required by row-major storage
    whole = torch.cat(list(reversed(got)), dim=1)
    expected = torch.from_numpy(np.frombuffer(file.tensors["t"].data, np.int16).copy())
    assert torch.equal(whole.view(torch.int16).view(-1), expected)


def test_slices_are_read_in_the_order_of_the_file() -> None:
    class Watched(io.BytesIO):
        offsets: list[int] = []  # noqa: RUF012

        def readinto(self, buffer: Any) -> int:
            self.offsets.append(self.tell())
            return super().readinto(buffer)

    names = [f"{number}" for number in range(6)]
    file = make_file({name: tensor((100, 4000), 1) for name in names}, chunk_size=64 * 1024)
    watched = Watched(file.data)
    with libtz.open(watched) as f:
        watched.offsets.clear()
        f.load_slices([(name, slice(10, 60)) for name in reversed(names)])
        assert f.stats.threads == 1 or watched.offsets
    # Two threads may read, but each of them reads forward.
    assert max(watched.offsets[:2]) < min(watched.offsets[-2:])


@pytest.mark.parametrize("kind", ["tz", "compressed", "safetensors", "set"])
@pytest.mark.parametrize("ranks", [2, 7])
def test_shards_along_the_first_dimension_read_their_share(
    kind: str, ranks: int, tmp_path: Path
) -> None:
    chunk = 64 * 1024
    shape = (600, 4000)
    data = tensor(shape, 5)
    file = make_file({"t": data, "u": data}, chunk_size=chunk, compress=kind == "compressed")
    source: Any = file.data
    if kind in ("safetensors", "set"):
        whole = torch.from_numpy(np.frombuffer(data.data, np.int16).copy()).view(shape)
        for number, name in enumerate(("t", "u"), start=1):
            path = tmp_path / f"model-{number:05}-of-00002.safetensors"
            safetensors.torch.save_file({name: whole.clone()}, path)
        source = (
            tmp_path / "model-00001-of-00002.safetensors" if kind == "safetensors" else tmp_path
        )
    with libtz.open(source) as f:
        stored = f.info("t").stored_nbytes
        for rank in range(ranks):
            begin, end = rank * shape[0] // ranks, (rank + 1) * shape[0] // ranks
            f.get_slice("t")[begin:end]
            share = stored * (end - begin) / shape[0]
            assert f.stats.bytes_wanted == (end - begin) * shape[1] * ITEM
            if kind in ("safetensors", "set"):  # no chunks that are checked as a whole
                assert f.stats.bytes_read == f.stats.bytes_wanted
            assert f.stats.bytes_read <= 1.05 * share + chunk


def test_tied_tensors_are_sliced_too() -> None:
    value = tensor((300, 400), 1)
    file = make_file({"b": value, "a": value}, ties={"b": "a"}, chunk_size=64 * 1024)
    with libtz.open(file.data) as f:
        a, b, again = f.load_slices([("a", 3), ("b", slice(2, 5)), ("a", slice(2, 5))])
        assert torch.equal(a, b[1])
        assert torch.equal(b, again)
        assert b.data_ptr() != again.data_ptr()
        assert f.load_slices([]) == []
        with pytest.raises(KeyError):
            f.load_slices([("a", 0), ("nothing", 0)])
        with pytest.raises(IndexError):
            f.load_slices([("a", 0), ("b", 300)])


# ---- Which tensors -------------------------------------------------------------------------------


def test_prefixes_and_predicates(tmp_path: Path) -> None:
    tensors = {name: torch.ones(2) for name in ("b.y", "a.x", "b.x", "c")}
    libtz.torch.save_file(tensors, tmp_path / "x.tz")
    safetensors.torch.save_file(tensors, tmp_path / "model-1.safetensors")
    for path in (tmp_path / "x.tz", tmp_path / "model-1.safetensors"):
        with libtz.open(path) as f:
            order = list(f)
            under_b = [name for name in order if name.startswith("b.")]
            assert list(f.load(libtz.prefix("b."))) == under_b
            assert list(f.load(libtz.prefix("c", "b."))) == [n for n in order if n != "a.x"]
            assert [name for name, _ in f.iter_tensors(lambda name: "x" in name)] == [
                name for name in order if "x" in name
            ]
            assert f.load(lambda name: False) == {}
        assert list(libtz.torch.load_file(path, names=libtz.prefix("b."))) == under_b
        assert list(libtz.torch.load_file(path, names=["c", "a.x"])) == ["c", "a.x"]
        assert list(libtz.numpy.load_file(path, names=libtz.prefix("b."))) == under_b
    for names in ((), (3,), (["b."],)):
        with pytest.raises(OptionError, match="one or more strings"):
            libtz.prefix(*names)
    with libtz.open(tmp_path / "x.tz") as f, pytest.raises(OptionError, match="string"):
        f.load("a.x")


def index_kinds() -> list[Any]:
    ones = [1, torch.tensor(1), np.array(1), np.int32(1), torch.tensor([1]), np.array([1])]
    masks = [True, torch.tensor(True), np.bool_(True), torch.tensor([True, False, True, False])]
    slices = [slice(torch.tensor(1), np.int64(3)), slice(None, None, -1), slice(1, None, 2)]
    lists = [[1], [0, 2], torch.tensor([[0], [1]]), None, "a", 1.0, torch.tensor(1.0)]
    parts = [*ones, *masks, *slices, *lists]
    return [*parts, *[(..., part) for part in parts], *[(part, 2) for part in parts]]


@pytest.mark.parametrize("number", range(len(index_kinds())))
def test_an_index_means_what_it_means_to_pytorch(number: int) -> None:
    """Or it is refused: an index of another type is never used as an integer."""
    tensor = torch.arange(24.0).view(4, 6)
    target = io.BytesIO()
    libtz.torch.save_file({"t": tensor}, target)
    index = index_kinds()[number]
    with libtz.open(target) as file:
        try:
            found = file.get_slice("t")[index]
        except libtz.OptionError:
            return
    expected = tensor[index]
    assert found.shape == expected.shape
    assert torch.equal(found, expected)
