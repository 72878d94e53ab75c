"""Reads of single small tensors, without a plan but with the same checks."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import io
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import libtz
import libtz.torch
from libtz._native import lib
from libtz.arrays.torch_dtypes import TORCH_DTYPES
from libtz.checkpoint import loader
from libtz.checkpoint.small_reads import ENTRIES_SIZE, SmallReads

TENSORS = {
    "matrix": torch.randn(16, 16),
    "odd": torch.arange(7, dtype=torch.int16),
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "empty": torch.empty(0, 3),
    "large": torch.randn(300, 300),
}


@pytest.fixture
def no_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a small tensor was planned")

    monkeypatch.setattr(loader.Loader, "_load", refuse)


def saved(folder: Path, suffix: str) -> Path:
    path = folder / f"model{suffix}"
    if suffix == ".tz":
        options = libtz.WriteOptions(compress="off")
        libtz.torch.save_file(TENSORS, path, options=options)
    else:
        safetensors.torch.save_file(TENSORS, path)
    return path


@pytest.mark.parametrize("local", ["copy", "map"])
@pytest.mark.parametrize("suffix", [".tz", ".safetensors"])
@pytest.mark.parametrize("name", ["matrix", "odd", "scalar"])
def test_small_tensors(tmp_path: Path, suffix: str, local: Any, name: str, no_plans: None) -> None:
    options = libtz.ReadOptions(local=local)
    with libtz.open(saved(tmp_path, suffix), options=options) as file:
        found = file[name]
        assert torch.equal(found, TENSORS[name])
        assert found.untyped_storage().nbytes() == found.nbytes
        assert file.stats.bytes_wanted == found.nbytes
        assert file.stats.path == local
        assert next(iter(file.iter_tensors([name])))[0] == name


@pytest.mark.parametrize("suffix", [".tz", ".safetensors"])
def test_others_are_planned(tmp_path: Path, suffix: str) -> None:
    with libtz.open(saved(tmp_path, suffix)) as file:
        for name in ("empty", "large"):
            assert torch.equal(file[name], TENSORS[name])


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("local", ["copy", "map"])
def test_a_damaged_one_is_refused(tmp_path: Path, local: Any, pinned: bool) -> None:
    path = saved(tmp_path, ".tz")
    digest = None
    with libtz.open(path) as file:
        if pinned:
            digest = file.digest
    if pinned and local == "map":
        return  # the two cannot be combined
    data = bytearray(path.read_bytes())
    data[data.index(TENSORS["matrix"].numpy().tobytes())] ^= 1
    path.write_bytes(data)
    options = libtz.ReadOptions(local=local)
    with libtz.open(path, digest=digest, options=options) as file:
        with pytest.raises(libtz.IntegrityError) as caught:
            file["matrix"]
        assert caught.value.tensor == "matrix"


def test_a_tie_and_a_closed_file() -> None:
    target = io.BytesIO()
    shared = torch.randn(4)
    libtz.torch.save_file({"a": shared, "b": shared}, target)
    file = libtz.open(target.getvalue())
    assert torch.equal(file["b"], shared)
    file.close()
    with pytest.raises(libtz.OptionError, match="closed"):
        file["b"]


# ---- Small reads compared with plans ----


def weights(count: int, seed: int) -> torch.Tensor:
    """Bytes that compress like weights: every second one varies little."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 256, (count,), dtype=torch.uint8, generator=generator)
    values[1::2] = 0x3C + values[1::2] % 3
    return values


@functools.cache
def make_all(suffix: str) -> dict[str, torch.Tensor]:
    """A tensor of every dtype, and tensors that are not small or not plain."""
    tensors = {}
    for seed, (name, dtype) in enumerate(TORCH_DTYPES.items()):
        if suffix == ".safetensors" and name not in ("f32", "bf16", "i8", "bool", "f64", "f8_e5m2"):
            continue
        raw = weights(64 * 48 * dtype.itemsize, seed)
        tensors[name] = (raw % 2 if name == "bool" else raw).view(dtype).reshape(64, 48)
    tensors["odd"] = weights(14, 50).view(torch.bfloat16)
    tensors["scalar"] = torch.tensor(2.5, dtype=torch.float64)
    tensors["empty"] = torch.empty(0, 3)
    tensors["large"] = weights(600_000, 51).view(torch.bfloat16).reshape(600, 500)
    return tensors


FILES = [(".tz", "off"), (".tz", "auto"), (".safetensors", "off")]
INDICES: list[Any] = [
    ...,
    slice(None),
    slice(3, 9),
    slice(5, 5),
    (slice(1, 60, 7), slice(2, 5)),
    (5, -1),
    -2,
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    folder = tmp_path_factory.mktemp("files")
    paths = {}
    for suffix, compress in FILES:
        path = paths[suffix, compress] = folder / f"{compress}{suffix}"
        tensors = make_all(suffix)
        if suffix == ".tz":
            options = libtz.WriteOptions(compress=compress)  # type: ignore[arg-type]
            libtz.torch.save_file(tensors, path, options=options)
        else:
            safetensors.torch.save_file(tensors, path)
    return paths


def outcome(read: Callable[[], torch.Tensor]) -> Any:
    """The result of a read: its bytes, or all fields of its error."""
    try:
        tensor = read()
    except (libtz.Error, MemoryError) as error:
        return type(error), str(error), vars(error)
    assert tensor.is_contiguous()
    data = ctypes.string_at(tensor.data_ptr(), tensor.nbytes) if tensor.nbytes else b""
    return data, tensor.dtype, tensor.shape, tensor.untyped_storage().nbytes()


def noted(file: libtz.Checkpoint[Any], *, is_mapped: bool) -> dict[str, Any]:
    """The statistics that are equal with and without a plan."""
    stats = dataclasses.asdict(file.stats)
    other = {name for name in stats if name.startswith("seconds")} | {"host_memory"}
    if is_mapped:  # a plan copies from the file, a small read from the mapping
        other |= {"requests", "bytes_read"}
    return {name: stats[name] for name in stats.keys() - other}


def both_ways(
    monkeypatch: pytest.MonkeyPatch, path: Path, name: str, index: Any = None, **options: Any
) -> Any:
    """The result of a read. Requires the same result with and without a plan."""
    found = []
    is_mapped = "options" in options and options["options"].local == "map"
    for is_short in (True, False):
        with monkeypatch.context() as patch, libtz.open(path, **options) as file:
            if not is_short:
                patch.setattr(SmallReads, "can_read", lambda *_: False)
            if index is None:
                result = outcome(lambda file=file: file[name])  # type: ignore[misc]
            else:
                result = outcome(
                    lambda file=file: file.get_slice(name)[index]  # type: ignore[misc]
                )
            found.append((result, noted(file, is_mapped=is_mapped), file.closed))
    assert found[0] == found[1]
    return found[0][0]


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("options", [{}, {"verify": False}, {"local": "map"}])
def test_both_ways_give_the_same(
    files: dict[Any, Path], kind: Any, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_options = libtz.ReadOptions(**options)
    for name, tensor in make_all(kind[0]).items():
        data = both_ways(monkeypatch, files[kind], name, options=read_options)
        assert data == outcome(lambda tensor=tensor: tensor)  # type: ignore[misc]
    for name in ("bf16", "f32", "large"):
        for index in INDICES:
            data = both_ways(monkeypatch, files[kind], name, index, options=read_options)
            assert data == outcome(
                lambda name=name, index=index: make_all(kind[0])[name][index].clone()  # type: ignore[misc]
            )


@pytest.mark.parametrize("compress", ["off", "auto"])
def test_both_ways_of_pinned_files(
    files: dict[Any, Path], compress: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = files[".tz", compress]
    with libtz.open(path) as file:
        digest = file.digest
    for name in ("bf16", "odd", "scalar", "u8"):
        both_ways(monkeypatch, path, name, digest=digest)


@pytest.mark.parametrize("compress", ["off", "auto"])
@pytest.mark.parametrize("how", ["checksum", "pinned", "mapped", "not verified"])
def test_damage_is_the_same_error_both_ways(
    files: dict[Any, Path],
    compress: str,
    how: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "damaged.tz"
    data = bytearray(files[".tz", compress].read_bytes())
    with libtz.open(bytes(data)) as file:
        begin = file.contents.tensor("bf16").data_offset  # type: ignore[attr-defined]
        digest = file.digest if how == "pinned" else None
    data[begin] ^= 0x80
    path.write_bytes(data)
    options = libtz.ReadOptions(
        verify=how != "not verified", local="map" if how == "mapped" else "copy"
    )
    for index in (None, slice(3, 9)):
        found = both_ways(monkeypatch, path, "bf16", index, options=options, digest=digest)
        if how != "not verified":
            kind, _, fields = found
            assert kind is libtz.IntegrityError
            rule = "TZ1-85" if how == "pinned" else "TZ1-43"
            assert (fields["code"], fields["rule"]) == ("checksum", rule)
            assert (fields["tensor"], fields["chunk"], fields["offset"]) == ("bf16", 0, begin)
        both_ways(monkeypatch, path, "f32", index, options=options, digest=digest)


def test_damaged_entries_fail_only_their_own_tensor(
    files: dict[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytearray(files[".tz", "off"].read_bytes())
    with libtz.open(bytes(data)) as file:
        header = file.contents.header  # type: ignore[attr-defined]
        entries = header.info.open_size
        names = list(file)
    assert header.info.header_size - entries < ENTRIES_SIZE  # so that they are checked at once
    data[entries + 2 * 48] ^= 1
    path = tmp_path / "damaged.tz"
    path.write_bytes(data)
    for name in names:
        found = both_ways(monkeypatch, path, name)
        assert (found[0] is libtz.IntegrityError) == (name == names[2]), name
    with libtz.open(path) as file:
        for name in names[:2] + names[3:]:
            file[name]


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("local", ["copy", "map"])
@pytest.mark.parametrize("size_max", [64, 600, 100_000])
def test_both_ways_decode_no_more_than_allowed(
    files: dict[Any, Path], kind: Any, local: Any, size_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = libtz.ReadOptions(local=local, decoded_size_max=size_max)
    for index in (None, slice(None), slice(3, 9), (slice(1, 60, 7), 3)):
        both_ways(monkeypatch, files[kind], "bf16", index, options=options)


@pytest.mark.parametrize("kind", FILES)
def test_many_threads_read_small_tensors(files: dict[Any, Path], kind: Any) -> None:
    tensors = make_all(kind[0])
    expected = {name: outcome(lambda t=tensor: t) for name, tensor in tensors.items()}  # type: ignore[misc]
    with libtz.open(files[kind]) as file, ThreadPoolExecutor(4) as pool:
        for name, found in pool.map(lambda name: (name, file[name]), list(tensors) * 5):
            assert outcome(lambda found=found: found) == expected[name]  # type: ignore[misc]


def test_a_name_that_is_none() -> None:
    target = io.BytesIO()
    libtz.torch.save_file({"a": torch.randn(4)}, target)
    with libtz.open(target.getvalue()) as file:
        for name in ("b", 3, None, "\ud800"):
            with pytest.raises(KeyError):
                file[name]  # type: ignore[index]


def test_statistics_keep_no_tensor_alive(tmp_path: Path) -> None:
    options = libtz.ReadOptions(local="map")
    with libtz.open(saved(tmp_path, ".tz"), options=options) as file:
        mapping = weakref.ref(file._loader.source._mapping)  # type: ignore[attr-defined]
        tensor = file["matrix"]
    assert mapping() is not None  # the tensor is a view of it
    del tensor
    assert mapping() is None
    assert file.stats.bytes_wanted == TENSORS["matrix"].nbytes


@pytest.mark.parametrize("listed", [True, False])
def test_descriptions_are_read_alone_only_at_first(
    listed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = io.BytesIO()
    tensors = {f"t{number}": torch.full((3,), number) for number in range(200)}
    libtz.torch.save_file(tensors, target)
    alone: list[int] = []
    read = lib.Header.tensor

    def count(header: lib.Header, index: int) -> lib.Tensor:
        alone.append(index)
        return read(header, index)

    monkeypatch.setattr(lib.Header, "tensor", count)
    with libtz.open(target.getvalue()) as file:
        for name in list(file) if listed else tensors:
            assert torch.equal(file[name], tensors[name])
    assert len(alone) <= 200 // 8


@pytest.mark.parametrize("damaged", [False, True])
def test_chunk_entries_of_many_tensors_take_few_requests(tmp_path: Path, damaged: bool) -> None:
    count, path = 2500, tmp_path / "many.tz"
    prefix = "long" * 100  # so that the header is larger than what is read at first
    tensors = {f"{prefix}{number:05}": torch.full((2,), number) for number in range(count)}
    libtz.torch.save_file(tensors, path)
    with libtz.open(path) as file:
        header = file.contents.header  # type: ignore[attr-defined]
        assert len(file._loader.front) < header.info.header_size  # type: ignore[attr-defined]
    bad = f"{prefix}{count - 50:05}"
    if damaged:
        data = bytearray(path.read_bytes())
        data[header.info.open_size + (count - 50) * 48 + 2] ^= 1
        path.write_bytes(data)
    with libtz.open(path) as file:
        for name, tensor in tensors.items():
            if damaged and name == bad:
                with pytest.raises(libtz.IntegrityError) as caught:
                    file[name]
                assert caught.value.tensor == name
            else:
                assert torch.equal(file[name], tensor)
        requests = file._loader.source.stats.requests  # type: ignore[attr-defined]
    assert requests < count + 20
