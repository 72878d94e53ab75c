"""Sharded sets: folders and indexes, from files, HTTP and S3, and wrong indexes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tests.raising import raises
from tests.servers import Nginx, Seaweed

import libtz
import libtz.numpy
import libtz.torch
from libtz import FormatError, OptionError, ReadOptions, S3Options, SourceError
from libtz.checkpoint.file import File
from libtz.checkpoint.sharded import Sharded
from libtz.errors import SourceNotFoundError

INDEX = "model.safetensors.index.json"
SHARDS = {
    "model-00001-of-00002.safetensors": {
        "b": torch.arange(12.0).view(3, 4),
        "a": torch.randn(300, 300).to(torch.bfloat16),
    },
    "model-00002-of-00002.safetensors": {"c": torch.arange(5, dtype=torch.int8)},
}
TENSORS = {name: tensor for part in SHARDS.values() for name, tensor in part.items()}
# Differs from the order of the files.
WEIGHT_MAP = {
    "c": "model-00002-of-00002.safetensors",
    "a": "model-00001-of-00002.safetensors",
    "b": "model-00001-of-00002.safetensors",
}


def write_set(folder: Path, weight_map: Any = WEIGHT_MAP) -> Path:
    folder.mkdir(exist_ok=True)
    for number, (name, tensors) in enumerate(SHARDS.items()):
        metadata = {"format": "pt", "shard": str(number)}
        safetensors.torch.save_file(tensors, folder / name, metadata=metadata)
    index = {"metadata": {"total_size": 180_053}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_set(tmp_path / "model")


def assert_equal(found: dict[str, torch.Tensor]) -> None:
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype


@pytest.mark.parametrize("local", ["copy", "map"])
def test_a_folder_is_one_file(folder: Path, local: Any) -> None:
    with libtz.open(folder, options=ReadOptions(local=local)) as f:
        assert isinstance(f, Sharded)
        assert list(f) == ["c", "a", "b"]
        assert len(f) == 3
        assert "a" in f
        assert "d" not in f
        nothing: Any = 1
        assert nothing not in f
        assert (f.format, f.verified, f.digest, f.content_digest) == (
            "safetensors",
            "none",
            None,
            None,
        )
        assert dict(f.metadata) == {"format": "pt"}
        assert f.structure() == []
        assert f.info("a").shape == (300, 300)
        assert_equal(f.load())
        assert f.stats.bytes_wanted == 180_053
        assert f.stats.bytes_read >= 180_053
        assert list(f.load(iter(["b", "c"]))) == ["b", "c"]
        assert_equal(dict(f.iter_tensors()))
        assert f.stats.bytes_wanted == 180_053
        assert [name for name, _ in f.iter_tensors()][-1] == "c"
        assert bytes(dict(f.iter_buffers(["c"]))["c"]) == bytes(range(5))
        assert torch.equal(f.get_slice("b")[1:, 2], TENSORS["b"][1:, 2])
        assert f.stats.bytes_wanted < 180_053
        with pytest.raises(OptionError, match="no checksums"):
            f.verify()
        with pytest.raises(KeyError):
            f["d"]
        with pytest.raises(OptionError, match="the string 'abc'"):
            f.load("abc")
    with pytest.raises(OptionError, match="closed"):
        f.load()


@pytest.mark.parametrize("as_url", [False, True])
def test_an_index_by_name(folder: Path, as_url: bool) -> None:
    path = (folder / INDEX).as_uri() if as_url else str(folder / INDEX)
    assert_equal(libtz.torch.load_file(path))
    assert_equal(libtz.torch.load_file(folder.as_uri() if as_url else str(folder)))


def test_an_index_in_the_working_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert_equal(libtz.torch.load_file(INDEX))
    assert_equal(libtz.torch.load_file("."))


def test_over_http(nginx: Nginx) -> None:
    folder = write_set(nginx.root / "set é")
    assert_equal(libtz.torch.load_file(f"{nginx.http}/set é/{INDEX}?download=true"))
    (folder / "model-00002-of-00002.safetensors").unlink()
    with raises(SourceNotFoundError, status=404) as caught:
        libtz.torch.load_file(f"{nginx.http}/set é/{INDEX}")
    assert caught.value.url.endswith("00002-of-00002.safetensors")


def test_over_s3(seaweed: Seaweed, folder: Path) -> None:
    options = S3Options(
        endpoint=seaweed.endpoint,
        region="us-east-1",
        access_key_id=seaweed.keys[0],
        secret_access_key=seaweed.keys[1],
    )
    with seaweed.bucket("sets") as client:
        for path in folder.iterdir():
            client.put_object(Bucket="sets", Key=f"m/{path.name}", Body=path.read_bytes())
    assert_equal(libtz.torch.load_file(f"s3://sets/m/{INDEX}", options=ReadOptions(s3=options)))


def test_files_are_opened_when_needed(folder: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").unlink()
    with libtz.open(folder) as f:
        assert torch.equal(f["a"], TENSORS["a"])
        with raises(SourceNotFoundError, url=str(folder / "model-00002-of-00002.safetensors")):
            f["c"]


def test_into_a_module_and_into_numpy(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 5))
    state = module.state_dict()
    names = list(state)
    for number, name in enumerate(names):
        path = tmp_path / f"model-{number + 1}-of-{len(names)}.safetensors"
        safetensors.torch.save_file({name: state[name]}, path)
    copy = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 5))
    assert libtz.torch.load_model(copy, tmp_path) == ([], [])
    for name, tensor in copy.state_dict().items():
        assert torch.equal(tensor, state[name])
    arrays = libtz.numpy.load_file(tmp_path)
    assert list(arrays) == names
    assert (arrays["0.weight"] == state["0.weight"].numpy()).all()


def test_tz_files_as_a_set_are_verified(tmp_path: Path) -> None:
    index: dict[str, str] = {}
    for number, tensors in enumerate(SHARDS.values()):
        libtz.torch.save_file(tensors, tmp_path / f"{number}.tz")
        index |= dict.fromkeys(tensors, f"{number}.tz")
    (tmp_path / "model.tz.index.json").write_text(json.dumps({"weight_map": index}))
    with libtz.open(tmp_path) as f:
        assert len(f) == len(index)
    with libtz.open(tmp_path / "model.tz.index.json") as f:
        assert (f.format, f.verified) == ("tz", "checksum")
        assert_equal(f.load())
        f.verify()


def test_which_files_of_a_folder(tmp_path: Path) -> None:
    def expect(pattern: str) -> None:
        with pytest.raises(OptionError, match=pattern):
            libtz.open(tmp_path)

    expect("contains no .safetensors or .tz file")
    safetensors.torch.save_file(TENSORS, tmp_path / "model.safetensors")
    with libtz.open(tmp_path) as f:
        assert isinstance(f, File)
        assert_equal(f.load())
    safetensors.torch.save_file(TENSORS, tmp_path / "other.safetensors")
    expect("files of different models and no index")
    (tmp_path / "model.safetensors").unlink()
    digest = libtz.torch.save_file(TENSORS, tmp_path / "model.tz")
    expect("two formats")
    (tmp_path / "other.safetensors").unlink()
    with libtz.open(tmp_path, digest=digest) as f:
        assert f.verified == "pinned"
    libtz.torch.save_file(TENSORS, tmp_path / "other.tz")
    expect("files of different models and no index")


@pytest.mark.parametrize("with_index", [True, False])
def test_a_missing_part_is_an_error(tmp_path: Path, with_index: bool) -> None:
    """A file is missing according to the names of the others, or to the index."""
    names = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    for number, name in enumerate(names):
        safetensors.torch.save_file({f"t{number}": torch.ones(1)}, tmp_path / name)
    if with_index:
        index = {f"t{number}": name for number, name in enumerate(names)}
        (tmp_path / INDEX).write_text(json.dumps({"weight_map": index}))
    assert sorted(libtz.torch.load_file(tmp_path)) == ["t0", "t1", "t2"]
    (tmp_path / names[1]).unlink()
    with pytest.raises((FormatError, SourceError), match=r"model-00002-of-00003\.safetensors"):
        libtz.torch.load_file(tmp_path)


def test_an_index_that_leaves_a_part_out(tmp_path: Path) -> None:
    index = {"a": "model-00001-of-00003.safetensors", "b": "model-00003-of-00003.safetensors"}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": index}))
    with pytest.raises(FormatError, match=r"model-00002-of-00003\.safetensors is missing"):
        libtz.open(tmp_path)


@pytest.mark.parametrize("count", [5_000, 999_999_999])
def test_a_part_of_very_many(tmp_path: Path, count: int) -> None:
    safetensors.torch.save_file(TENSORS, tmp_path / f"model-1-of-{count}.safetensors")
    with raises(FormatError, code="bad-set"):
        libtz.open(tmp_path)


@pytest.mark.parametrize(
    "other", ["adapter.safetensors", "adapter-00001-of-00002.safetensors", "model.safetensors"]
)
def test_different_models_in_a_folder_are_not_merged(folder: Path, other: str) -> None:
    safetensors.torch.save_file({"z": torch.ones(1)}, folder / other)
    assert_equal(libtz.torch.load_file(folder))  # according to the index
    (folder / INDEX).unlink()
    with pytest.raises(OptionError, match="different models and no index"):
        libtz.open(folder)


def test_hidden_files_are_ignored(folder: Path) -> None:
    for name in ("._model.safetensors", ".model-00001-of-00002.safetensors", f"._{INDEX}"):
        (folder / name).write_bytes(b"\0\5\x16\7")
    assert_equal(libtz.torch.load_file(folder))
    (folder / INDEX).unlink()
    assert_equal(libtz.torch.load_file(folder))


def test_the_main_index_is_first(folder: Path) -> None:
    (folder / INDEX).rename(folder / "a.safetensors.index.json")
    (folder / "b.safetensors.index.json").write_text("")
    with pytest.raises(OptionError, match="several indexes"):
        libtz.open(folder)
    (folder / "b.safetensors.index.json").unlink()
    assert_equal(libtz.torch.load_file(folder))
    (folder / INDEX).write_text((folder / "a.safetensors.index.json").read_text())
    (folder / "a.safetensors.index.json").write_text("")
    assert_equal(libtz.torch.load_file(folder))


def test_a_set_without_a_manifest_cannot_be_pinned(folder: Path) -> None:
    with pytest.raises(OptionError, match=r"model\.tz-set beside it"):
        libtz.open(folder, digest="sha256:" + "0" * 64)


@pytest.mark.parametrize(
    "name",
    [
        "../secret.safetensors",
        "..",
        "",
        "sub/x.safetensors",
        "sub\\x.safetensors",
        "C:x.safetensors",
        "https://other/x.safetensors",
        "x.safetensors\0",
        "x.safetensors\n.safetensors",
        "%2e%2e%2fx.safetensors",
        "x?y.safetensors",
        "x#y.safetensors",
        "x.bin",
        "x" * 255 + ".safetensors",
        "\ud800.safetensors",
        7,
        None,
        ["x.safetensors"],
    ],
)
def test_an_index_names_files_of_its_folder_only(tmp_path: Path, name: Any) -> None:
    (tmp_path / "secret.safetensors").write_bytes(safetensors.torch.save(TENSORS))
    folder = write_set(tmp_path / "model", {**WEIGHT_MAP, "a": name})
    with raises(FormatError, code="bad-index") as caught:
        libtz.open(folder)
    assert INDEX in str(caught.value)
    assert str(caught.value).isprintable()


def test_an_absolute_path_in_an_index(tmp_path: Path) -> None:
    secret = tmp_path / "secret.safetensors"
    secret.write_bytes(safetensors.torch.save(TENSORS))
    folder = write_set(tmp_path / "model", dict.fromkeys(TENSORS, os.fspath(secret)))
    with raises(FormatError, code="bad-index"):
        libtz.open(folder)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "not a JSON file"),
        (b"[]", "no 'weight_map'"),
        (b'{"weight_map": {}}', "no 'weight_map'"),
        (b'{"weight_map": ["a"]}', "no 'weight_map'"),
        (b'{"weight_map": {"a": "x.tz", "a": "y.tz"}}', "contains 'a' twice"),
        (
            b'{"weight_map": {"a": "x.tz"}, "weight_map": {"a": "x.tz"}}',
            "'weight_map' twice",
        ),
        (b'{"metadata": {"x": NaN}, "weight_map": {"a": "x.tz"}}', "NaN is not JSON"),
        (b'{"weight_map": {"\xff": "x.tz"}}', "not a JSON file"),
        (b'\xef\xbb\xbf{"weight_map": {"a": "x.tz"}}', "not a JSON file"),
        (b'{"weight_map": {"\\ud800": "x.tz"}}', "not a name"),
        (b"[" * 200_000, "not a JSON file"),
        (b'{"x": ' + b"9" * 10_000 + b"}", "no 'weight_map'"),
        (b'{"x": [' + b"{}," * 1_000_001 + b"{}]}", "more than 1000000 items"),
        (b"[" * 1_000_001, "more than 1000000 items"),
    ],
)
def test_indexes_that_are_not_right(tmp_path: Path, text: bytes, reason: str) -> None:
    (tmp_path / INDEX).write_bytes(text)
    with pytest.raises(FormatError, match=reason) as caught:
        libtz.open(tmp_path)
    assert caught.value.code == "bad-index"


def test_an_index_that_is_too_large(tmp_path: Path) -> None:
    with (tmp_path / INDEX).open("wb") as file:
        file.truncate((64 << 20) + 1)
    with raises(FormatError, code="too-large"):
        libtz.open(tmp_path)


def test_an_index_that_promises_too_much(tmp_path: Path) -> None:
    folder = write_set(tmp_path, {**WEIGHT_MAP, "d": "model-00002-of-00002.safetensors"})
    with (
        libtz.open(folder) as f,
        raises(FormatError, code="bad-set", tensor="d") as caught,
    ):
        f.load()
    assert "model-00002-of-00002.safetensors" in str(caught.value)


def test_what_the_index_does_not_list_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_set(tmp_path, {"a": WEIGHT_MAP["a"], "c": WEIGHT_MAP["c"]})
    with libtz.open(folder) as f:
        assert list(f.load()) == ["a", "c"]
        assert f.storage_order() == ["a", "c"]
        with pytest.raises(KeyError):
            f["b"]
    assert "tensor 'b' is left out" in caplog.text


def test_a_tie_to_a_tensor_that_the_index_does_not_list(tmp_path: Path) -> None:
    tied = torch.arange(4.0)
    libtz.torch.save_file({"a": tied, "b": tied, "c": torch.ones(1)}, tmp_path / "one.tz")
    index = {"weight_map": {"b": "one.tz", "c": "one.tz"}}
    (tmp_path / "model.tz.index.json").write_text(json.dumps(index))
    with libtz.open(tmp_path) as f:
        assert f.info("b").tied_to is None
        assert torch.equal(f["b"], tied)


def test_a_tensor_that_two_files_hold(folder: Path) -> None:
    """The index selects one of them; without an index, the set is refused."""
    both = {"c": TENSORS["c"], "a": torch.zeros(2)}
    safetensors.torch.save_file(both, folder / "model-00002-of-00002.safetensors")
    assert_equal(libtz.torch.load_file(folder))
    (folder / INDEX).unlink()
    with raises(FormatError, code="bad-set", tensor="a"):
        libtz.open(folder)


def test_files_of_two_formats(folder: Path) -> None:
    libtz.torch.save_file({"c": TENSORS["c"]}, folder / "model-00002-of-00002.safetensors")
    with libtz.open(folder) as f, raises(FormatError, code="bad-set"):
        f.load()


def test_a_nested_object_in_a_set(folder: Path) -> None:
    libtz.torch.save({"c": TENSORS["c"]}, folder / "model-00002-of-00002.safetensors")
    with libtz.open(folder) as f, pytest.raises(FormatError, match="nested object"):
        f["c"]


def test_nothing_is_returned_of_a_damaged_set(folder: Path) -> None:
    shard = folder / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with libtz.open(folder) as f, pytest.raises(FormatError, match="00002-of-00002"):
        f.load()
