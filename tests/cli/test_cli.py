"""The tz command: output, exit codes, conversions in both directions."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import tz_vectors

import libtz
import libtz.torch
from libtz.cli import options as cli_options
from libtz.cli.digest import sha256_of
from libtz.cli.main import main
from libtz.cli.options import make_options, parse_size
from libtz.cli.output import size_text
from libtz.errors import OptionError
from libtz.fields import fields_of
from libtz.format import TensorInfo
from libtz.options import HttpOptions, ReadOptions, RetryPolicy, S3Options, WriteOptions
from libtz.text import printable

VECTORS = tz_vectors.VECTORS / "v1"

TENSORS = {
    "b": torch.arange(12.0).view(3, 4),
    "a": torch.arange(5, dtype=torch.int8),
    "c": torch.randn(300, 300, dtype=torch.float64).to(torch.bfloat16),
    "scalar": torch.tensor(7),
    "empty": torch.empty(0, 3),
    "f8": torch.arange(8, dtype=torch.uint8).view(torch.float8_e4m3fn),
}


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "model.tz"
    libtz.torch.save_file(TENSORS, path, metadata={"format": "pt", "note": "ü\n"})
    return str(path)


def succeed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out


def fail(capsys: pytest.CaptureFixture[str], status: int, *arguments: str) -> str:
    assert main(arguments) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tz: ")
    assert err.count("\n") == 1
    return err


# ---- inspect, digest, verify, load ---------------------------------------------------------------


def test_inspect_is_a_table(capsys: pytest.CaptureFixture[str], model: str) -> None:
    lines = succeed(capsys, "inspect", model).splitlines()
    assert lines[0].split() == ["NAME", "DTYPE", "SHAPE", "SIZE", "STORED"]
    assert lines[1].split() == ["b", "f32", "3x4", "48", "B", "48", "B"]
    assert [line.split()[0] for line in lines[1:7]] == list(TENSORS)
    assert "metadata        note = ü\\n" in lines
    with libtz.open(model) as file:
        assert any(line.split()[:2] == ["digest", file.digest] for line in lines)


def test_inspect_for_programs(capsys: pytest.CaptureFixture[str], model: str) -> None:
    found = json.loads(succeed(capsys, "inspect", model, "--json"))
    with libtz.open(model) as file:
        assert found["digest"] == file.digest
        assert found["content_digest"] == file.content_digest
        assert found["metadata"] == file.metadata
        for tensor in found["tensors"]:
            info = TensorInfo(**tensor | {"shape": tuple(tensor["shape"])})
            assert info == file.info(info.name)
    assert [tensor["name"] for tensor in found["tensors"]] == list(TENSORS)


def test_inspect_shows_ties_and_structure(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = str(tmp_path / "x.tz")
    tensor = torch.ones(2)
    libtz.torch.save({"z": tensor, "y": [tensor]}, path)
    out = succeed(capsys, "inspect", path)
    assert "tied to y/0" in out
    assert "2 tensors in a nested object, 8 B" in out.replace(", in", " in")


def test_names_cannot_move_the_cursor() -> None:
    assert printable("a\x1b[2Jb\u202ec\nß") == "a\\x1b[2Jb\\u202ec\\nß"


def test_digest(capsys: pytest.CaptureFixture[str], model: str, tmp_path: Path) -> None:
    with libtz.open(model) as file:
        digest, content_digest = file.digest, file.content_digest
    assert succeed(capsys, "digest", model) == f"{digest}\n"
    assert succeed(capsys, "digest", model, "--content") == f"{content_digest}\n"
    both = {"digest": digest, "content_digest": content_digest}
    assert json.loads(succeed(capsys, "digest", model, "--json")) == both
    foreign = tmp_path / "x.safetensors"
    safetensors.torch.save_file({"a": torch.randn(3 << 20)}, foreign)
    sha256 = hashlib.sha256(foreign.read_bytes()).hexdigest()
    assert succeed(capsys, "digest", str(foreign)) == f"sha256:{sha256}\n"
    assert succeed(capsys, "digest", str(foreign), "--content").startswith("none")


def test_verify(capsys: pytest.CaptureFixture[str], model: str) -> None:
    digest = succeed(capsys, "digest", model).strip()
    assert succeed(capsys, "verify", model) == "ok\n"
    assert succeed(capsys, "verify", model, "--content") == "ok\n"
    assert succeed(capsys, "verify", model, "--digest", digest) == "ok\n"
    other = "blake3:" + "0" * 64
    assert "not the file that the digest pins" in fail(
        capsys, 1, "verify", model, "--digest", other
    )
    assert "pin it with its own digest" in fail(
        capsys, 2, "verify", model, "--digest", sha256_of(model, ReadOptions())
    )
    with Path(model).open("r+b") as file:
        file.seek(-1, io.SEEK_END)
        last = file.read(1)
        file.seek(-1, io.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    assert "'f8', chunk 0" in fail(capsys, 1, "verify", model)


def test_verify_of_a_tensor_that_decodes_to_something_else(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A file with right checksums and codes but wrong values, as from a faulty decoder."""
    bad = VECTORS / "invalid" / "tiered-other-elements.hex"
    path = tmp_path / "x.tz"
    path.write_bytes(tz_vectors.load(bad).data)
    assert succeed(capsys, "load", str(path))
    for arguments in ([], ["--content"]):
        message = fail(capsys, 1, "verify", str(path), *arguments)
        assert "'00'" in message
        assert "rule TZ1-46" in message


def test_verify_of_a_format_without_checksums(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file(TENSORS, path)
    digest = succeed(capsys, "digest", str(path)).strip()
    assert "no checksums" in succeed(capsys, "verify", str(path))
    assert "no content digests" in fail(capsys, 2, "verify", str(path), "--content")
    assert succeed(capsys, "verify", str(path), "--digest", digest) == "ok\n"
    path.write_bytes(path.read_bytes()[:-1] + b"~")
    fail(capsys, 1, "verify", str(path), "--digest", digest)


def test_load(capsys: pytest.CaptureFixture[str], model: str) -> None:
    out = succeed(capsys, "load", model)
    assert "6, 180 kB" in out
    assert "checksum" in out
    report = json.loads(succeed(capsys, "load", model, "--json", "--no-verify"))
    assert report["tensors"] == 6
    assert report["verified"] == "none"
    assert report["stats"]["bytes_wanted"] == sum(t.nbytes for t in TENSORS.values())


# ---- convert -------------------------------------------------------------------------------------


def assert_equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert sorted(left) == sorted(right)
    for name, tensor in left.items():
        other = right[name]
        assert (tensor.dtype, tensor.shape) == (other.dtype, other.shape)
        kind = torch.uint8
        assert torch.equal(
            tensor.contiguous().view(-1).view(kind), other.contiguous().view(-1).view(kind)
        ), name


def test_safetensors_and_back_is_the_same_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Our files are byte for byte those of the safetensors package, metadata included."""
    first, middle, last = (tmp_path / name for name in ("a.safetensors", "b.tz", "c.safetensors"))
    safetensors.torch.save_file(TENSORS, first, metadata={"format": "pt"})
    digest = succeed(capsys, "convert", str(first), str(middle)).strip()
    with libtz.open(middle, digest=digest) as file:
        assert file.metadata == {"format": "pt"}
        assert_equal(file.load(), TENSORS)
    pin = succeed(capsys, "convert", str(middle), str(last)).strip()
    assert last.read_bytes() == first.read_bytes()
    assert pin == "sha256:" + hashlib.sha256(first.read_bytes()).hexdigest()


def test_any_tz_file_becomes_safetensors(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Mixed sizes out of order, ties, an odd name, dtypes that count numbers instead of units."""
    source, target = tmp_path / "a.tz", tmp_path / "b.safetensors"
    tied = torch.randn(7)
    tensors = TENSORS | {
        "tie 2": tied,
        "bytes": torch.arange(3, dtype=torch.uint8),
        "tie 1": tied,
        'quote " ß': torch.ones(1, dtype=torch.complex64),
        "f4": torch.arange(6, dtype=torch.uint8).view(torch.float4_e2m1fn_x2).view(2, 3),
    }
    libtz.torch.save_file(tensors, source, metadata={"k": "v"})
    succeed(capsys, "convert", str(source), str(target))
    with libtz.open(target) as file:
        assert_equal(file.load(), tensors)
    with safetensors.safe_open(target, "pt") as file:
        assert file.metadata() == {"k": "v"}
        assert_equal({name: file.get_tensor(name) for name in file.keys()}, tensors)  # noqa: SIM118


def test_tz_to_tz_keeps_ties_structure_and_order(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    source, target = tmp_path / "a.tz", tmp_path / "b.tz"
    tied = torch.randn(200_000)
    value = {"z": [tied, 1.5, None], "a": (tied, {3: torch.arange(3)}), "b": b"\0"}
    libtz.torch.save(value, source, metadata={"k": "v"})
    arguments = ["--chunk-size", "64K", "--json"]
    report = json.loads(succeed(capsys, "convert", str(source), str(target), *arguments))
    with libtz.open(source) as before, libtz.open(target, digest=report["digest"]) as after:
        assert list(after) == list(before)
        assert after.content_digest == before.content_digest == report["content_digest"]
        assert after.digest != before.digest
    loaded = libtz.torch.load(target)
    assert loaded["z"][0].data_ptr() == loaded["a"][0].data_ptr()
    assert torch.equal(loaded["z"][0], tied)
    assert loaded["b"] == b"\0"


@pytest.mark.parametrize(
    ("make", "target", "message"),
    [
        (lambda p: libtz.torch.save({"a": 1}, p), "b.safetensors", "nested object"),
        (
            lambda p: libtz.torch.save_file({"a": torch.ones(1, dtype=torch.complex128)}, p),
            "b.safetensors",
            "cannot hold dtype c128",
        ),
        (
            lambda p: libtz.torch.save_file({"__metadata__": torch.ones(1)}, p),
            "b.safetensors",
            "__metadata__",
        ),
        (lambda p: libtz.torch.save_file({}, p), "b.pt", "must end with .tz, .safetensors"),
    ],
)
def test_what_cannot_be_converted(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, make: Any, target: str, message: str
) -> None:
    source = tmp_path / "a.tz"
    make(source)
    assert message in fail(capsys, 2, "convert", str(source), str(tmp_path / target))
    assert list(tmp_path.iterdir()) == [source]


def test_a_damaged_source_leaves_no_target(
    capsys: pytest.CaptureFixture[str], model: str, tmp_path: Path
) -> None:
    data = bytearray(Path(model).read_bytes())
    data[-1] ^= 1
    Path(model).write_bytes(data)
    for target in ("b.tz", "b.safetensors"):
        fail(capsys, 1, "convert", model, str(tmp_path / target))
    assert [path.name for path in tmp_path.iterdir()] == ["model.tz"]


# ---- usage, exit codes, options ------------------------------------------------------------------


def test_errors_have_their_status_and_no_traceback(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    nothing = tmp_path / "nothing"
    assert "No such file" in fail(capsys, 1, "inspect", str(nothing))
    nothing.write_bytes(b"not a file of ours")
    assert "not a tz, safetensors or" in fail(capsys, 1, "load", str(nothing))
    fail(capsys, 2, "inspect", "gopher://host/x")
    fail(capsys, 2, "load", str(nothing), "--connections-max", "0")


@pytest.mark.parametrize("arguments", [["frobnicate"], ["load"], ["inspect", "x", "--wrong"]])
def test_wrong_usage(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage: tz" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["inspect", "verify", "digest", "convert", "load"])
def test_help_teaches(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert f"\n  tz {command} " in out, "an example"
    assert "--s3-endpoint" in out
    assert "secret" not in out


@pytest.mark.parametrize("options", [ReadOptions, WriteOptions])
def test_every_option_is_described(options: Any) -> None:
    for field in fields_of(options):  # TypeError for a field without a description
        text = field.option.description
        assert len(text) > 10, field.path
        assert text[0] != text[0].upper() or text.split()[0].isupper(), f"{field.path}: {text}"
        assert not text.endswith("."), f"{field.path}: {text}"
        assert (field.option.unit == "seconds") == field.path.endswith("_s"), field.path


def test_only_secrets_and_mappings_have_no_flag() -> None:
    fields = [*fields_of(ReadOptions), *fields_of(WriteOptions)]
    assert {field.path for field in fields if not field.option.has_flag} == {
        "decryption.key",
        "decryption.passphrase",
        "http.headers",
        "http.proxies",
        "s3.access_key_id",
        "s3.secret_access_key",
        "s3.session_token",
        "s3.sse_customer_key",
    }


def test_an_option_without_a_description_is_refused() -> None:
    @dataclasses.dataclass
    class Undescribed:
        verify: bool = True

    with pytest.raises(TypeError, match=r"Undescribed\.verify has no description"):
        list(fields_of(Undescribed))


def test_docstrings_list_the_options() -> None:
    assert ReadOptions.__doc__
    for name in ("host_memory_max", "connections_max", "http", "decryption"):
        assert f"- `{name}`" in ReadOptions.__doc__


def test_flags_reach_the_options() -> None:
    parser = argparse.ArgumentParser()
    cli_options.add_options(parser, ReadOptions, WriteOptions)
    assert make_options(ReadOptions, parser.parse_args([])) == ReadOptions()
    given = (
        "--no-verify --local map --host-memory-max 1G --http-verify no --http-retry-attempts 3 "
        "--http-timeout-s 1.5 --s3-endpoint http://host:1 --s3-anonymous --chunk-size 128KiB "
        "--compress off"
    )
    arguments = parser.parse_args(given.split())
    http = HttpOptions(verify=False, timeout_s=1.5, retry=RetryPolicy(attempts=3))
    s3 = S3Options(endpoint="http://host:1", anonymous=True)
    assert make_options(ReadOptions, arguments) == ReadOptions(
        verify=False, local="map", host_memory_max=1 << 30, http=http, s3=s3
    )
    assert make_options(WriteOptions, arguments) == WriteOptions(
        compress="off", chunk_size=128 << 10, http=http, s3=s3
    )
    with pytest.raises(OptionError):
        make_options(WriteOptions, parser.parse_args(["--chunk-size", "65537"]))


def test_sizes() -> None:
    sizes = [parse_size(text) for text in ("7", "64K", "2 MiB", "1gb", "3T")]
    assert sizes == [7, 64 << 10, 2 << 20, 1 << 30, 3 << 40]
    for text in ("", "K", "-1", "1.5M", "1X"):
        with pytest.raises(argparse.ArgumentTypeError):
            parse_size(text)
    shown = [size_text(n) for n in (0, 999, 1000, 90_900_000, 999_400, 10**15)]
    assert shown == ["0 B", "999 B", "1 kB", "90.9 MB", "999 kB", "1000 TB"]


def tz(*arguments: str, **kwargs: Any) -> Any:
    command = [sys.executable, "-m", "libtz.cli.main", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process")
def test_more_than_there_is_memory_for_is_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "sparse.safetensors"
    size = 1 << 36
    text = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}})
    path.write_bytes(len(text).to_bytes(8, "little") + text.encode())
    os.truncate(path, 8 + len(text) + size)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (size // 2, size // 2))

    process = tz("load", str(path), preexec_fn=limit)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.decode().startswith("tz: ")
    assert "there is no memory for 68,719,476,736 bytes" in err.decode()


@pytest.mark.slow
def test_ctrl_c_is_clean(tmp_path: Path) -> None:
    """Interrupted while waiting for a server that never responds."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/model.tz"
        process = tz("convert", url, str(tmp_path / "x.tz"))
        connection, _ = server.accept()
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        connection.close()
    assert process.returncode == 130
    assert err.decode() == "tz: interrupted\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_error_message(tmp_path: Path) -> None:
    path = tmp_path / "many.tz"
    libtz.torch.save_file({f"tensor {i}": torch.ones(1) for i in range(5000)}, path)
    with tz("inspect", str(path)) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""


def _safetensors(path: Path, names: list[str], metadata: dict[str, str] | None = None) -> None:
    header: dict[str, Any] = {
        name: {"dtype": "U8", "shape": [1], "data_offsets": [at, at + 1]}
        for at, name in enumerate(names)
    }
    if metadata:
        header["__metadata__"] = metadata
    data = json.dumps(header, ensure_ascii=False).encode()
    path.write_bytes(len(data).to_bytes(8, "little") + data + bytes(len(names)))


HOSTILE = "\x9b31m\u202e\x7f\u200b\U000e0001"


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--json"]], ids=["text", "json"])
def test_what_a_file_says_is_escaped(flags: list[str], tmp_path: Path) -> None:
    _safetensors(tmp_path / "m.safetensors", ["a"], {f"k{HOSTILE}": f"v{HOSTILE}"})
    done = _tz("inspect", str(tmp_path / "m.safetensors"), *flags)
    assert done.returncode == 0
    assert done.stdout.replace("\n", "").isprintable()
    if flags:
        assert json.loads(done.stdout)["metadata"] == {f"k{HOSTILE}": f"v{HOSTILE}"}


@pytest.mark.slow
def test_messages_are_escaped(tmp_path: Path) -> None:
    """A line break in a name cannot start a new message."""
    path = tmp_path / f"e\x1b[31m{HOSTILE}\ntz: all is well"
    path.write_bytes(b"nothing")
    done = _tz("inspect", str(path))
    assert done.returncode == 1
    assert done.stderr.replace("\n", "").isprintable()
    assert not any(line.startswith("tz: all") for line in done.stderr.splitlines())
    done = _tz("inspect", str(path), "--\x1b[31m")
    assert done.returncode == 2
    assert done.stderr.replace("\n", "").isprintable()


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}], ids=str
)
@pytest.mark.parametrize("command", [["inspect"], ["inspect", "--json"], ["load", "--progress"]])
def test_terminals_without_letters(
    command: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    _safetensors(tmp_path / "m.safetensors", ["é", "模"])
    done = _tz(*command, str(tmp_path / "m.safetensors"), **environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    if "--json" in command:
        names = {tensor["name"] for tensor in json.loads(done.stdout)["tensors"]}
        assert names == {"é", "模"}


def test_alone_it_explains_itself() -> None:
    done = _tz()
    assert done.returncode == 0
    assert "tz inspect" in done.stdout


def _tz(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "libtz.cli.main", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        env={**os.environ, **environment},
    )
