"""Writing to failing disks and stores, and the memory that writing takes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.raising import raises
from tests.servers import Seaweed

import libtz
from libtz import Writer
from libtz.errors import SourceError, SourceNotFoundError, SourcePermissionError
from libtz.options import HttpOptions, RetryPolicy, S3Options, WriteOptions
from libtz.writing.base import TensorSpec

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
BUCKET = "writer"

# These scripts run in processes of their own, so that limits and peaks end with them.
PRELUDE = """
import resource, sys
from pathlib import Path
import libtz
from libtz import TensorSpec, Writer

MIB = 1024 * 1024

def peak():
    (line,) = (x for x in open("/proc/self/status") if x.startswith("VmHWM:"))
    return int(line.split()[1]) // 1024

def reset_peak():
    Path("/proc/self/clear_refs").write_text("5")
    return peak()
"""


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, "-c", PRELUDE + script, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


FULL_DISK = """
path, limit = Path(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    specs = [TensorSpec("a", "u8", (30 * MIB,)), TensorSpec("b", "u8", (9,))]
    with Writer(path, specs, options=libtz.WriteOptions(compress="off")) as writer:
        writer.write("a", bytes(30 * MIB))
        writer.write("b", bytes(9))
except libtz.SourceError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
@pytest.mark.parametrize("limit", [0, 5000, 20 * MIB, 30 * MIB])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, limit: int) -> None:
    """A limit on the size of files simulates a full disk."""
    path = tmp_path / "model.tz"
    path.write_bytes(b"old")
    message = run(FULL_DISK, str(path), str(limit))
    assert str(path) in message
    assert "cannot be written" in message
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_a_typed_error(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "no" / "model.tz", [TensorSpec("a", "u8", (3,))])
    with raises(SourceNotFoundError, url=str(tmp_path / "no" / "model.tz")), writer:
        writer.write("a", b"abc")


@pytest.fixture(scope="module")
def store(seaweed: Seaweed) -> Any:
    with seaweed.bucket(BUCKET) as client:
        yield client


@pytest.fixture
def options(seaweed: Seaweed) -> WriteOptions:
    key, secret = seaweed.keys
    s3 = S3Options(endpoint=seaweed.endpoint, access_key_id=key, secret_access_key=secret)
    http = HttpOptions(retry=RetryPolicy(attempts=2), proxies={})
    # Not compressed, since zeros would become a file of a few bytes, with one part.
    return WriteOptions(compress="off", s3=s3, http=http)


SPECS = [TensorSpec("a", "u8", (30 * MIB + 5,)), TensorSpec("b", "f32", (2, 2))]


def data_of_a() -> Iterator[bytes]:
    for number in range(30):
        yield bytes([number]) * MIB
    yield b"12345"


def write(target: Any, options: WriteOptions) -> str:
    with Writer(target, SPECS, options=options) as writer:
        writer.write("a", data_of_a())
        writer.write("b", bytes(16))
    return writer.digest


def test_an_object_is_the_same_as_a_file(tmp_path: Path, store: Any, options: WriteOptions) -> None:
    path = tmp_path / "model.tz"
    assert write(path, options) == write(f"s3://{BUCKET}/model.tz", options)
    body = store.get_object(Bucket=BUCKET, Key="model.tz")["Body"].read()
    assert body == path.read_bytes()


def test_an_exception_in_the_middle_aborts_the_upload(store: Any, options: WriteOptions) -> None:
    store.put_object(Bucket=BUCKET, Key="broken.tz", Body=b"old")

    def broken() -> Iterator[bytes]:
        assert store.list_multipart_uploads(Bucket=BUCKET)["Uploads"]
        yield bytes(8)
        raise KeyboardInterrupt

    def attempt() -> None:
        with Writer(f"s3://{BUCKET}/broken.tz", SPECS, options=options) as writer:
            writer.write("a", data_of_a())
            writer.write("b", broken())

    with pytest.raises(KeyboardInterrupt):
        attempt()
    assert "Uploads" not in store.list_multipart_uploads(Bucket=BUCKET)
    assert store.get_object(Bucket=BUCKET, Key="broken.tz")["Body"].read() == b"old"


def test_a_bucket_that_refuses_is_a_typed_error(seaweed: Seaweed) -> None:
    s3 = S3Options(endpoint=seaweed.endpoint, access_key_id="who", secret_access_key="knows")
    with raises(SourcePermissionError, url=f"s3://{BUCKET}/model.tz") as error:
        write(f"s3://{BUCKET}/model.tz", WriteOptions(s3=s3))
    assert "knows" not in str(error.value)


def test_no_server_at_all_is_a_typed_error() -> None:
    s3 = S3Options(endpoint="http://127.0.0.1:9", access_key_id="k", secret_access_key="secret")
    http = HttpOptions(retry=RetryPolicy(attempts=1), connect_timeout_s=1, proxies={})
    with pytest.raises(SourceError) as error:
        write("s3://bucket/model.tz", libtz.WriteOptions(s3=s3, http=http))
    assert "secret" not in str(error.value)


STREAM = """
size = 512 * MIB
block = bytes(range(256)) * (MIB // 256)
before = reset_peak()
with Writer(sys.argv[1], [TensorSpec("a", "bf16", (size // 2,))]) as writer:
    writer.write("a", (block for _ in range(size // MIB)))
print(peak() - before)
"""

SAVE = """
import torch, libtz.torch
tensors = {str(i): torch.ones(16 * MIB) for i in range(6)}      # 6 times 64 MiB
if sys.argv[2] == "transposed":
    tensors = {name: tensor.view(1024, -1).t() for name, tensor in tensors.items()}
libtz.torch.save_file({"warm": torch.ones(1)}, sys.argv[1])
before = reset_peak()
libtz.torch.save_file(tensors, sys.argv[1])
print(peak() - before)
"""

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@needs_proc
def test_streaming_a_tensor_of_512_mib_takes_little_memory(tmp_path: Path) -> None:
    """At most ten batches of 8 MiB and their encoded bytes, for any size."""
    assert int(run(STREAM, str(tmp_path / "big.tz"))) < 180


@needs_proc
@pytest.mark.parametrize(
    ("layout", "limit"),
    [("contiguous", 90), ("transposed", 64 + 180)],  # one tensor's contiguous copy
)
def test_saving_does_not_copy_the_model(tmp_path: Path, layout: str, limit: int) -> None:
    assert int(run(SAVE, str(tmp_path / "model.tz"), layout)) < limit
