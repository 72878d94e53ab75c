"""Sets of files pinned by one digest: their manifests, and the refusal of all changes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tests.raising import raises
from tests.servers import Nginx, Seaweed

import libtz
import libtz.torch
from libtz import (
    FormatError,
    IntegrityError,
    OptionError,
    ReadOptions,
    S3Options,
    SourceError,
    sets,
)
from libtz.cli.main import main
from libtz.errors import SourceNotFoundError
from libtz.locations import Location

INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
TENSORS = {
    "a": torch.arange(300_000, dtype=torch.float32).view(300, 1000),  # more than 1 MiB
    "b": torch.arange(300, dtype=torch.int16),
    "c": torch.arange(140_000, dtype=torch.float64).view(140, 1000),
}
OTHER_PIN = "blake3:" + "0" * 64
WEIGHT_MAP = {"a": SHARDS[0], "b": SHARDS[1], "c": SHARDS[1]}


def write_sharded(folder: Path) -> None:
    folder.mkdir(parents=True)
    for shard in SHARDS:
        part = {name: TENSORS[name] for name, file in WEIGHT_MAP.items() if file == shard}
        safetensors.torch.save_file(part, folder / shard)
    (folder / INDEX).write_text(json.dumps({"weight_map": WEIGHT_MAP}))


def write_safetensors(folder: Path) -> None:
    folder.mkdir(parents=True)
    safetensors.torch.save_file(TENSORS, folder / "model.safetensors")


def write_tz(folder: Path) -> None:
    folder.mkdir(parents=True)
    libtz.torch.save_file(TENSORS, folder / "model.tz")


def write_tz_shards(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number, name in enumerate(TENSORS, 1):
        libtz.torch.save_file({name: TENSORS[name]}, folder / f"model-{number}-of-3.tz")


FORMS = [write_sharded, write_safetensors, write_tz, write_tz_shards]


def make_set(write: Callable[[Path], None], folder: Path) -> str:
    write(folder)
    (folder / "config.json").write_text('{"hidden_size": 32}')
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.txt").write_text("a\nb\n")
    return sets.write_manifest(folder)


@pytest.fixture(
    scope="module", params=FORMS, ids=lambda write: write.__name__.removeprefix("write_")
)
def intact(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """A folder that tests must not change, and the digest of its set."""
    folder = tmp_path_factory.mktemp("intact") / "model"
    return folder, make_set(request.param, folder)


@pytest.fixture
def pinned(intact: tuple[Path, str], tmp_path: Path) -> tuple[Path, str]:
    """A copy of that folder for one test, and the digest of its set."""
    folder, digest = intact
    return shutil.copytree(folder, tmp_path / "model"), digest


def assert_equal(found: dict[str, torch.Tensor]) -> None:
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def load(source: Any, digest: str, options: ReadOptions | None = None) -> None:
    assert_equal(libtz.torch.load_file(source, digest=digest, options=options))


def iterate(source: Any, digest: str) -> None:
    with libtz.torch.open(source, digest=digest) as f:
        assert_equal(dict(f.iter_tensors()))


def cut(source: Any, digest: str) -> None:
    with libtz.torch.open(source, digest=digest) as f:
        assert all(torch.equal(f.get_slice(n)[3:], each[3:]) for n, each in TENSORS.items())


def look_up(source: Any, digest: str) -> None:
    with libtz.torch.open(source, digest=digest) as f:
        assert all(torch.equal(f[name], TENSORS[name]) for name in f)


def fill(source: Any, digest: str) -> None:
    module = torch.nn.Module()
    for name, tensor in TENSORS.items():
        module.register_buffer(name, torch.zeros_like(tensor))
    libtz.torch.load_model(module, source, digest=digest)
    assert_equal(dict(module.named_buffers()))


def verify(source: Any, digest: str) -> None:
    with libtz.open(source, digest=digest) as f:
        assert f.verified == "pinned"
        f.verify()


WAYS = [load, iterate, cut, look_up, fill, verify]


# Loading ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", WAYS)
def test_the_right_files_are_read_in_every_way(
    read: Callable[[Any, str], None], intact: tuple[Path, str]
) -> None:
    read(*intact)


def test_every_way_to_name_a_folder(intact: tuple[Path, str]) -> None:
    folder, digest = intact
    for source in (f"{folder}/", folder.as_uri(), folder / "model.tz-set"):
        load(source, digest)


def test_the_digest_of_a_set_of_several_files_is_known(tmp_path: Path) -> None:
    digest = make_set(write_sharded, tmp_path / "model")
    for source in ("", "model.tz-set", INDEX):
        with libtz.open(tmp_path / "model" / source, digest=digest) as f:
            assert f.digest == digest
    with libtz.open(tmp_path / "model") as f:
        assert f.digest is None


def test_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = make_set(write_sharded, tmp_path / "model")
    monkeypatch.chdir(tmp_path / "model")
    for source in (".", "model.tz-set", INDEX):
        assert_equal(libtz.torch.load_file(source, digest=digest))


@pytest.mark.parametrize("read", WAYS)
@pytest.mark.parametrize("offset", [30, -1])
def test_a_changed_byte_is_found_in_every_way_of_reading(
    read: Callable[[Any, str], None], pinned: tuple[Path, str], offset: int
) -> None:
    folder, digest = pinned
    for path in [*folder.glob("*.tz"), *folder.glob("*.safetensors")]:
        flip(path, offset)
    with pytest.raises(IntegrityError):
        read(folder, digest)


@pytest.mark.parametrize("name", ["model.tz-set", INDEX, SHARDS[1]])
def test_another_files_are_refused(name: str, tmp_path: Path) -> None:
    """Valid files, but not the pinned ones."""
    digest = make_set(write_sharded, tmp_path / "model")
    other = tmp_path / "other"
    make_set(write_sharded, other)
    (other / "config.json").write_text("{}")
    (other / INDEX).write_text(json.dumps({"weight_map": WEIGHT_MAP, "metadata": {}}))
    tensors = {"b": TENSORS["b"] + 1, "c": TENSORS["c"]}
    safetensors.torch.save_file(tensors, other / SHARDS[1])
    sets.write_manifest(other)
    shutil.copy(other / name, tmp_path / "model" / name)
    with pytest.raises(IntegrityError):
        libtz.torch.load_file(tmp_path / "model", digest=digest)
    with pytest.raises(IntegrityError):
        sets.verify(tmp_path / "model", digest=digest)


def test_an_index_that_the_manifest_does_not_list_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    digest = make_set(write_safetensors, folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "evil-1-of-1.safetensors"}}))
    safetensors.torch.save_file({"a": TENSORS["a"] + 1}, folder / "evil-1-of-1.safetensors")
    assert_equal(libtz.torch.load_file(folder, digest=digest))
    with raises(SourceNotFoundError, url=str(folder / INDEX)):
        libtz.open(folder / INDEX, digest=digest)


def test_files_that_are_gone(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    digest = make_set(write_sharded, folder)
    (folder / SHARDS[0]).unlink()
    with pytest.raises(SourceNotFoundError):
        libtz.torch.load_file(folder, digest=digest)
    with pytest.raises(SourceNotFoundError):
        sets.verify(folder, digest=digest)


def test_a_manifest_without_a_pin_is_a_checksum(pinned: tuple[Path, str]) -> None:
    folder, _ = pinned
    with libtz.torch.open(folder / "model.tz-set") as f:
        assert f.verified == "checksum"
        assert_equal(f.load())
        f.verify()
    for path in [*folder.glob("*.tz"), *folder.glob("*.safetensors")]:
        flip(path, -1)
    with pytest.raises(IntegrityError), libtz.open(folder / "model.tz-set") as f:
        f.load()


def test_pins_that_do_not_fit(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write_sharded(folder)
    digest = sets.digest(folder)
    with pytest.raises(OptionError, match="tz digest --set"):
        libtz.open(folder, digest=digest)  # there is no manifest
    assert sets.write_manifest(folder) == digest
    with raises(IntegrityError, code="digest", expected=OTHER_PIN):
        libtz.open(folder, digest=OTHER_PIN)
    with pytest.raises(OptionError, match="begins with blake3:"):
        libtz.open(folder / "model.tz-set", digest="sha256:" + "0" * 64)
    with pytest.raises(OptionError, match=r"ReadOptions\.local"):
        libtz.open(folder, digest=digest, options=ReadOptions(local="map"))
    (folder / "model.tz-set").write_text("tz-set 2\n")
    with raises(FormatError, code="version"):
        libtz.open(folder / "model.tz-set")


def test_the_digest_of_the_only_file_still_pins_it(tmp_path: Path) -> None:
    write_tz(tmp_path / "model")
    digest = libtz.torch.save_file(TENSORS, tmp_path / "model" / "model.tz")
    assert_equal(libtz.torch.load_file(tmp_path / "model", digest=digest))


# HTTP and S3 --------------------------------------------------------------------------------------


BUCKET = "folders"


@pytest.fixture(scope="module")
def bucket(seaweed: Seaweed) -> Iterator[Any]:
    with seaweed.bucket(BUCKET) as client:
        yield client


@pytest.fixture
def store(seaweed: Seaweed, bucket: Any, aws: Path) -> ReadOptions:
    key, secret = seaweed.keys
    s3 = S3Options(endpoint=seaweed.endpoint, access_key_id=key, secret_access_key=secret)
    return ReadOptions(s3=s3)


def upload(client: Any, folder: Path, prefix: str) -> str:
    """The URL of a prefix with the files of a folder, and with other objects beside them."""
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        key = f"{prefix}/{path.relative_to(folder)}"
        client.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
    client.put_object(Bucket=BUCKET, Key=f"{prefix}/._model.safetensors", Body=b"x")
    client.put_object(Bucket=BUCKET, Key=f"{prefix}/onnx/model.safetensors", Body=b"x")
    client.put_object(Bucket=BUCKET, Key=f"{prefix}-old/model.safetensors", Body=b"x")
    return f"s3://{BUCKET}/{prefix}/"


@pytest.mark.parametrize("write", [write_sharded, write_tz])
def test_a_prefix_in_s3_opens_as_a_folder(
    write: Callable[[Path], None], bucket: Any, store: ReadOptions, tmp_path: Path
) -> None:
    write(tmp_path / "model")
    url = upload(bucket, tmp_path / "model", f"plain {write.__name__}")
    assert_equal(libtz.torch.load_file(url, options=store))


@pytest.mark.parametrize("write", [write_sharded, write_tz])
def test_a_set_in_s3(
    write: Callable[[Path], None], bucket: Any, store: ReadOptions, tmp_path: Path
) -> None:
    digest = make_set(write, tmp_path / "model")
    url = upload(bucket, tmp_path / "model", f"set/{write.__name__}")
    for source in (url, f"{url}model.tz-set"):
        load(source, digest, store)
    sets.verify(url, digest=digest, options=store)
    for path in tmp_path.glob("model/*.*"):
        if path.suffix in (".tz", ".safetensors"):
            flip(path, -1)
    upload(bucket, tmp_path / "model", f"set/{write.__name__}")
    with pytest.raises(IntegrityError):
        load(url, digest, store)


def test_a_manifest_is_written_to_s3(bucket: Any, store: ReadOptions, tmp_path: Path) -> None:
    digest = make_set(write_sharded, tmp_path / "model")
    (tmp_path / "model" / "model.tz-set").unlink()
    (tmp_path / "model" / "onnx").mkdir()
    (tmp_path / "model" / "onnx" / "model.safetensors").write_bytes(b"x")
    digest = sets.digest(tmp_path / "model")
    url = upload(bucket, tmp_path / "model", "written")
    assert sets.digest(url, options=store) == digest
    assert sets.write_manifest(url, options=store) == digest
    load(url, digest, store)


def test_prefixes_that_are_no_model(bucket: Any, store: ReadOptions, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write_sharded(folder)
    (folder / INDEX).unlink()
    (folder / SHARDS[0]).unlink()
    missing = upload(bucket, folder, "missing")
    (folder / SHARDS[1]).unlink()
    libtz.torch.save_file(TENSORS, folder / "model.tz")
    safetensors.torch.save_file(TENSORS, folder / "model.safetensors")
    both = upload(bucket, folder, "both")
    empty = f"s3://{BUCKET}/nothing/"
    cases: list[tuple[str, type[Exception], str]] = [
        (missing, FormatError, r"00001-of-00002\.safetensors is missing"),
        (both, OptionError, "in two formats"),
        (empty, OptionError, r"contains no \.safetensors"),
        ("s3://no-such-bucket/model/", SourceError, "NoSuchBucket"),
        (both.removesuffix("/"), SourceError, "URL of a folder ends with a slash"),
    ]
    for source, kind, text in cases:
        with pytest.raises(kind, match=text):
            libtz.open(source, options=store)


def test_many_objects(bucket: Any, store: ReadOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listings are paged, here with five objects per page."""
    for number in range(12):
        bucket.put_object(Bucket=BUCKET, Key=f"many/{number:02}.txt", Body=b"x")
    monkeypatch.setattr("libtz.sources.s3_listing.object_parameters", lambda *given: {"MaxKeys": 5})
    location = Location.of(f"s3://{BUCKET}/many/")
    expected = [f"{number:02}.txt" for number in range(12)]
    assert location.files(store) == expected
    assert "many/11.txt" in (Location.of(f"s3://{BUCKET}/").files(store, is_recursive=True) or ())
    monkeypatch.setattr("libtz.sources.s3_listing.KEYS_MAX", 11)
    with pytest.raises(OptionError, match="more than 11 objects"):
        location.files(store)


def test_without_the_right_to_list(
    bucket: Any, store: ReadOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The usual names are looked for, as over HTTP."""
    digest = make_set(write_sharded, tmp_path / "model")
    url = upload(bucket, tmp_path / "model", "unlisted")

    def refuse(*_: Any, **__: Any) -> Any:
        raise SourceError("refused", url=url, status=403)

    monkeypatch.setattr("libtz.sources.s3_listing.S3Access.call", refuse)
    assert_equal(libtz.torch.load_file(url, options=store))
    load(url, digest, store)
    with pytest.raises(OptionError, match="cannot be listed, and has no manifest"):
        sets.write_manifest(url, options=store)


@pytest.mark.parametrize("write", FORMS)
def test_a_set_over_http(write: Callable[[Path], None], nginx: Nginx) -> None:
    folder = nginx.root / "pinned" / write.__name__
    digest = make_set(write, folder)
    url = f"{nginx.http}/pinned/{write.__name__}"
    for source in (f"{url}/", f"{url}/model.tz-set"):
        load(source, digest)
    load(f"{url}/model.tz-set?download=true", digest)  # with a query, a URL is that of a file
    assert_equal(libtz.torch.load_file(f"{url}/"))  # the manifest lists the files
    for path in [*folder.glob("*.tz"), *folder.glob("*.safetensors")]:
        flip(path, -1)
    with pytest.raises(IntegrityError):
        load(f"{url}/", digest)


def test_folders_over_http(nginx: Nginx) -> None:
    write_sharded(nginx.root / "index")
    assert_equal(libtz.torch.load_file(f"{nginx.http}/index/"))
    write_tz(nginx.root / "one file")
    assert_equal(libtz.torch.load_file(f"{nginx.http}/one file/"))
    write_safetensors(nginx.root / "two formats")
    libtz.torch.save_file(TENSORS, nginx.root / "two formats" / "model.tz")
    with pytest.raises(OptionError, match="in two formats"):
        libtz.open(f"{nginx.http}/two formats/")
    with pytest.raises(SourceNotFoundError, match="cannot be listed"):
        libtz.open(f"{nginx.http}/nothing/")


# Writing ------------------------------------------------------------------------------------------


def test_what_belongs_to_a_set(tmp_path: Path) -> None:
    digest = make_set(write_tz, tmp_path / "model")
    folder = tmp_path / "model"
    listed = [
        line.split(" ", 2)[2] for line in (folder / "model.tz-set").read_text().splitlines()[1:]
    ]
    assert listed == ["config.json", "model.tz", "tokenizer/vocab.txt"]
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x").write_text("x")
    (folder / "._config.json").write_text("x")
    (folder / "old.tz-set").write_text("x")
    (folder / "empty").mkdir()
    assert sets.write_manifest(folder) == digest
    (folder / "readme.md").symlink_to(folder / "config.json")
    assert sets.write_manifest(folder) != digest


def make_fifo(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


REFUSED: list[tuple[Callable[[Path], object], type[Exception], str]] = [
    (
        lambda folder: (folder / "a:b").write_text(""),
        OptionError,
        "a character that is not allowed",
    ),
    (lambda folder: (folder / "caf\xe9").write_text(""), OptionError, "a character that is not"),
    (lambda folder: (folder / "a\x1b[2J").write_text(""), OptionError, "a character that is not"),
    (lambda folder: (folder / "a.").write_text(""), OptionError, "ends with a dot"),
    (lambda folder: (folder / "Config.json").write_text(""), FormatError, "two names collide"),
    (lambda folder: (folder / "bad.tz").write_text("x"), FormatError, "bad.tz"),
    (lambda folder: (folder / "link").symlink_to(folder), OptionError, "neither a file nor"),
    (lambda folder: (folder / "gone").symlink_to("nowhere"), OptionError, "neither a file nor"),
    (make_fifo, OptionError, "neither a file nor a folder"),
]


@pytest.mark.parametrize(("add", "kind", "text"), REFUSED)
def test_folders_that_are_no_set(
    add: Callable[[Path], object], kind: type[Exception], text: str, tmp_path: Path
) -> None:
    make_set(write_tz, tmp_path / "model")
    before = (tmp_path / "model" / "model.tz-set").read_bytes()
    add(tmp_path / "model")
    with pytest.raises(kind, match=text):
        sets.write_manifest(tmp_path / "model")
    assert (tmp_path / "model" / "model.tz-set").read_bytes() == before


def test_folders_without_files(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="holds no files"):
        sets.write_manifest(tmp_path)
    with pytest.raises(SourceNotFoundError):
        sets.write_manifest(tmp_path / "nowhere")


# The command line ---------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    status = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return status, printed.out.strip() or printed.err.strip()


def test_tz_digest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model"
    write_sharded(folder)
    status, digest = run(capsys, "digest", folder)
    assert (status, (folder / "model.tz-set").exists()) == (0, False)
    assert digest == sets.digest(folder)
    assert run(capsys, "digest", "--set", folder) == (0, digest)
    assert (folder / "model.tz-set").exists()
    assert run(capsys, "digest", folder / "model.tz-set") == (0, digest)
    # The digest of the manifest, until it is rewritten.
    (folder / "config.json").write_text("{}")
    assert run(capsys, "digest", folder) == (0, digest)
    status, other = run(capsys, "digest", "--set", folder)
    assert (status, other == digest) == (0, False)
    assert run(capsys, "digest", folder) == (0, other)
    status, text = run(capsys, "digest", "--json", folder)
    assert json.loads(text) == {"digest": other, "content_digest": None}
    status, text = run(capsys, "digest", folder / INDEX)
    assert (status, "give its folder" in text) == (2, True)


def test_commands_take_the_digest_of_a_set(
    intact: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, digest = intact
    wrong = "blake3:" + "0" * 64
    target = tmp_path / "all.tz"
    for command in (
        ("load", folder),
        ("inspect", folder),
        ("verify", folder),
        ("convert", folder, target),
    ):
        assert run(capsys, *command, "--digest", digest)[0] == 0
        status, text = run(capsys, *command, "--digest", wrong)
        assert (status, "pinned by its set digest" in text) == (1, True)


def test_tz_verify_reads_every_file(
    pinned: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, digest = pinned
    assert run(capsys, "verify", folder) == (0, "ok")
    flip(folder / "tokenizer" / "vocab.txt", 0)
    for pin in ((), ("--digest", digest)):
        status, text = run(capsys, "verify", folder, *pin)
        assert (status, "vocab.txt" in text) == (1, True)
