"""S3Sink against SeaweedFS."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from tests.raising import raises
from tests.servers import Seaweed

from libtz.errors import OptionError, SourceError, SourcePermissionError
from libtz.locations import resolve_sink
from libtz.options import MIB, HttpOptions, RetryPolicy, S3Options, WriteOptions
from libtz.sinks.s3 import S3Sink
from libtz.sources import s3_access
from libtz.sources.s3_client import make_client

DATA = random.Random(11).randbytes(8 * MIB)
HTTP = HttpOptions(retry=RetryPolicy(attempts=3), proxies={})
BUCKET = "written"
HEADER = 10_000


@pytest.fixture(scope="module")
def store(seaweed: Seaweed) -> Iterator[Any]:
    with seaweed.bucket(BUCKET) as client:
        yield client


@pytest.fixture
def s3(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> S3Options:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    return S3Options(
        endpoint=seaweed.endpoint,
        access_key_id=seaweed.keys[0],
        secret_access_key=seaweed.keys[1],
    )


def content(store: Any, key: str) -> bytes:
    data: bytes = store.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    return data


def is_there(store: Any, key: str) -> bool:
    return "Contents" in store.list_objects_v2(Bucket=BUCKET, Prefix=key)


def uploads(store: Any) -> list[Any]:
    answer = store.list_multipart_uploads(Bucket=BUCKET)
    return [upload["Key"] for upload in answer.get("Uploads", [])]


def write(sink: S3Sink, size: int, *, step: int = 3 * MIB + 17) -> bytes:
    """Write a file of about `size`: data with a gap, the header last, zeros at the end."""
    expected = bytearray(size)
    begin = HEADER + 5000
    while begin < size - 3000:
        end = min(begin + step, size - 3000)
        data = bytearray(DATA[: end - begin])
        sink.write_at(begin, memoryview(data))
        expected[begin:end] = data
        data[:] = bytes(len(data))  # the sink must not have kept it
        begin = end + 4096
    sink.write_at(0, memoryview(b"h" * HEADER))
    expected[:HEADER] = b"h" * HEADER
    return bytes(expected)


@pytest.mark.parametrize(
    "size", [20_000, 8 * MIB, 8 * MIB + 1, 16 * MIB, 16 * MIB + 1, 37 * MIB + 5]
)
def test_an_object_appears_complete(store: Any, s3: S3Options, size: int) -> None:
    key = f"a b/ü%2F+{size}.tz"
    sink = resolve_sink(
        f"s3://{BUCKET}/{key}",
        WriteOptions(s3=s3, http=HTTP),
        header_size=HEADER,
        file_size_max=size,
    )
    assert isinstance(sink, S3Sink)
    expected = write(sink, size)
    assert not is_there(store, key)
    sink.commit(size)
    assert content(store, key) == expected
    sink.abort()
    assert is_there(store, key)
    assert uploads(store) == []
    with pytest.raises(ValueError, match="committed"):
        sink.write_at(0, memoryview(b"x"))


def test_zeros_are_written_where_nothing_was(store: Any, s3: S3Options) -> None:
    sink = S3Sink(f"s3://{BUCKET}/zeros", s3, HTTP, header_size=1, file_size_max=40 * MIB)
    sink.write_at(20 * MIB, memoryview(b"x"))
    sink.commit(30 * MIB)
    data = content(store, "zeros")
    assert len(data) == 30 * MIB
    assert data.find(b"x") == 20 * MIB
    assert data.count(0) == 30 * MIB - 1


def test_an_aborted_upload_leaves_nothing(store: Any, s3: S3Options) -> None:
    sink = S3Sink(f"s3://{BUCKET}/aborted", s3, HTTP, header_size=HEADER, file_size_max=30 * MIB)
    write(sink, 30 * MIB)
    assert uploads(store) == ["aborted"]
    sink.abort()
    sink.abort()
    assert uploads(store) == []
    assert not is_there(store, "aborted")


def test_a_part_that_fails_ends_the_upload(store: Any, s3: S3Options) -> None:
    sink = S3Sink(f"s3://{BUCKET}/failed", s3, HTTP, header_size=HEADER, file_size_max=99 * MIB)
    write(sink, 17 * MIB)
    answers = answer_parts_with(sink, 403, b"<Error><Code>AccessDenied</Code></Error>")
    with raises(SourcePermissionError, status=403):
        write_on(sink, 17 * MIB, 90 * MIB)
    assert answers
    assert uploads(store) == []
    with pytest.raises(ValueError, match="aborted"):
        sink.commit(99 * MIB)
    assert not is_there(store, "failed")


def test_a_part_that_fails_at_the_end_is_not_passed_over(store: Any, s3: S3Options) -> None:
    sink = S3Sink(f"s3://{BUCKET}/late", s3, HTTP, header_size=HEADER, file_size_max=30 * MIB)
    write(sink, 30 * MIB)
    answer_parts_with(sink, 403, b"")
    with pytest.raises(SourceError):
        sink.commit(30 * MIB)
    assert uploads(store) == []
    assert not is_there(store, "late")


def test_parts_are_tried_again(store: Any, s3: S3Options) -> None:
    sink = S3Sink(f"s3://{BUCKET}/retried", s3, HTTP, header_size=HEADER, file_size_max=30 * MIB)
    expected = write(sink, 30 * MIB)
    answers = answer_parts_with(sink, 503, b"<Error><Code>SlowDown</Code></Error>", times=2)
    sink.commit(30 * MIB)
    assert len(answers) == 2
    assert content(store, "retried") == expected


def write_on(sink: S3Sink, begin: int, end: int) -> None:
    for offset in range(begin, end, len(DATA)):
        sink.write_at(offset, memoryview(DATA))


def answer_parts_with(sink: S3Sink, status: int, body: bytes, times: int = 10**6) -> list[int]:
    """Have the client get these answers to parts, instead of the store's."""
    answers: list[int] = []

    class Raw:
        def stream(self, **_: object) -> Iterator[bytes]:
            yield body

    def answer(request: Any, **_: object) -> AWSResponse | None:
        if len(answers) == times:
            return None
        answers.append(status)
        return AWSResponse(request.url, status, HTTPHeaders(), Raw())

    sink._calls._access.client().meta.events.register("before-send.s3.UploadPart", answer)
    return answers


def test_uploads_carry_checksums_as_configured(
    store: Any, s3: S3Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []

    def watched_client(*arguments: Any, **named: Any) -> Any:
        client = make_client(*arguments, **named)
        for operation in ("CreateMultipartUpload", "UploadPart", "PutObject"):
            client.meta.events.register(f"before-send.s3.{operation}", note)
        return client

    def note(request: Any, **_: object) -> None:
        sent.append({name.lower() for name in request.headers if "checksum" in name.lower()})

    monkeypatch.setattr(s3_access, "make_client", watched_client)
    for size in (20_000, 20 * MIB):
        sink = S3Sink(f"s3://{BUCKET}/sum", s3, HTTP, header_size=HEADER, file_size_max=size)
        finish(sink, size)
    put, create, *parts = sent
    assert create == {"x-amz-checksum-algorithm"}
    assert len(parts) == 3
    assert all("x-amz-checksum-crc32" in headers for headers in (put, *parts))
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    finish(S3Sink(f"s3://{BUCKET}/sum", s3, HTTP, header_size=1, file_size_max=20_000), 20_000)
    assert sent[-1] == set()


def test_refusals_are_typed(store: Any, s3: S3Options, seaweed: Seaweed) -> None:
    wrong = S3Options(
        endpoint=seaweed.endpoint, access_key_id=seaweed.keys[0], secret_access_key="s3cret"
    )
    for size in (20_000, 20 * MIB):
        sink = S3Sink(f"s3://{BUCKET}/x", wrong, HTTP, header_size=HEADER, file_size_max=size)
        with raises(SourcePermissionError, status=403) as caught:
            finish(sink, size)
        assert "s3cret" not in str(caught.value)
    nobody = S3Options(endpoint="http://127.0.0.1:1", **_keys(seaweed))
    http = HttpOptions(retry=RetryPolicy(attempts=1), proxies={})
    sink = S3Sink(f"s3://{BUCKET}/x", nobody, http, header_size=HEADER, file_size_max=20_000)
    with raises(SourceError, status=None, retryable=True):
        finish(sink, 20_000)


def finish(sink: S3Sink, size: int) -> None:
    write(sink, size)
    sink.commit(size)


def _keys(seaweed: Seaweed) -> Any:
    return {"access_key_id": seaweed.keys[0], "secret_access_key": seaweed.keys[1]}


def test_parts_grow_with_the_file() -> None:
    def part_size(header_size: int, file_size_max: int) -> int:
        sink = S3Sink("s3://b/k", header_size=header_size, file_size_max=file_size_max)
        return sink.part_size

    assert part_size(1, 1) == 8 * MIB
    assert part_size(100 * MIB + 1, 200 * MIB) == 101 * MIB
    two_tb = part_size(1, 2 * 10**12)
    assert two_tb * 9000 >= 2 * 10**12
    assert two_tb % MIB == 0
    with pytest.raises(OptionError, match="exceed the size of an S3 object"):
        part_size(1, 10**14)


def test_mistakes_of_the_caller(s3: S3Options) -> None:
    sink = S3Sink("s3://b/k", s3, HTTP, header_size=HEADER, file_size_max=30 * MIB)
    with pytest.raises(ValueError, match="not inside"):
        sink.write_at(30 * MIB, memoryview(b"x"))
    sink.write_at(9 * MIB, memoryview(b"xy"))
    with pytest.raises(ValueError, match="must ascend"):
        sink.write_at(9 * MIB, memoryview(b"x"))
    with pytest.raises(ValueError, match="were written to a file of"):
        sink.commit(9 * MIB)
    sink.abort()
    with pytest.raises(OptionError, match="version_id"):
        S3Sink("s3://b/k", S3Options(version_id="v"), header_size=1, file_size_max=1)
    with pytest.raises(OptionError, match="s3://bucket/key"):
        S3Sink("s3://b", header_size=1, file_size_max=1)
