"""Uploads to stores that refuse keys, regions or checksums."""

from __future__ import annotations

import base64
import logging
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.faults.store import Answer, Call, error_answer, scripted_store

from libtz.errors import OptionError, SourceError
from libtz.options import MIB, HttpOptions, RetryPolicy, S3Options
from libtz.sinks.s3 import S3Sink

pytestmark = pytest.mark.usefixtures("aws")

HTTP = HttpOptions(retry=RetryPolicy(attempts=2), timeout_s=10, proxies={})
KEYS: dict[str, Any] = {"access_key_id": "AKIAONE", "secret_access_key": "s3cret"}
SESSION = (
    b"<CreateSessionResult><Credentials><AccessKeyId>AKIASESSION</AccessKeyId>"
    b"<SecretAccessKey>s3cret</SecretAccessKey><SessionToken>express-token</SessionToken>"
    b"<Expiration>2100-01-01T00:00:00Z</Expiration></Credentials></CreateSessionResult>"
)
LARGE = 20 * MIB  # three parts


def taken(call: Call) -> Answer:
    """The responses of a store that accepts everything."""
    if call.method == "POST":
        name = "Initiate" if "uploads" in call.target else "Complete"
        body = f"<{name}MultipartUploadResult><UploadId>u</UploadId><ETag>e</ETag>"
        return Answer(200, f"{body}</{name}MultipartUploadResult>".encode())
    return Answer(204 if call.method == "DELETE" else 200, headers={"ETag": '"1"'})


def upload(endpoint: str, size: int = 10, bucket: str = "bucket", **options: Any) -> None:
    s3 = S3Options(endpoint=endpoint, **(options or KEYS))
    url = f"s3://{bucket}/key"
    sink = S3Sink(url, s3, HTTP, header_size=1, file_size_max=size)
    sink.write_at(size - 1, memoryview(b"x"))
    sink.commit(size)


def refusal(answer: Callable[[Call], Answer], **options: Any) -> str:
    with scripted_store(answer) as (endpoint, _), pytest.raises(SourceError) as caught:
        upload(endpoint, **options)
    assert "s3cret" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("size", [10, LARGE])
def test_checksums_go_with_the_head_and_leave_no_coding(size: int) -> None:
    with scripted_store(taken) as (endpoint, calls):
        upload(endpoint, size)
    bodies = [call for call in calls if call.method == "PUT"]
    assert len(bodies) == (3 if size == LARGE else 1)
    for call in bodies:
        sum_ = zlib.crc32(call.body).to_bytes(4, "big")
        assert base64.b64decode(call.headers["x-amz-checksum-crc32"]) == sum_
        assert "content-encoding" not in call.headers
        assert "x-amz-trailer" not in call.headers


@pytest.mark.parametrize(
    ("status", "code", "size"),
    [
        (403, "SignatureDoesNotMatch", 10),
        (400, "XAmzContentSHA256Mismatch", 10),
        (501, "NotImplemented", 10),
        (501, "NotImplemented", LARGE),
        (400, "InvalidArgument", 10),
    ],
)
def test_stores_that_know_no_checksums_are_told_of(
    status: int, code: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(call: Call) -> Answer:
        known = any(name.startswith("x-amz-checksum") for name in call.headers)
        return error_answer(status, code) if known else taken(call)

    assert "AWS_REQUEST_CHECKSUM_CALCULATION=when_required" in refusal(answer, size=size)
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    with scripted_store(answer) as (endpoint, _):
        upload(endpoint, size)
    always = refusal(lambda _: error_answer(status, code))  # the checksum was not the reason
    assert "CHECKSUM" not in always


@pytest.mark.parametrize("size", [10, LARGE])
def test_encryption_that_a_bucket_wants_is_asked_for(size: int) -> None:
    wanted = {
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": "a-key",
    }

    def answer(call: Call) -> Answer:
        begins = call.method == "PUT" and "partNumber" not in call.target
        if (begins or "uploads" in call.target) and not wanted.items() <= call.headers.items():
            return error_answer(403, "AccessDenied")
        return taken(call)

    with scripted_store(answer) as (endpoint, _):
        upload(endpoint, size, sse="aws:kms", sse_kms_key_id="a-key", **KEYS)
    assert "WriteOptions.s3.sse" in refusal(answer, size=size)


def test_requesters_pay_for_all_of_an_upload() -> None:
    with scripted_store(taken) as (endpoint, calls):
        upload(endpoint, LARGE, requester_pays=True, **KEYS)
    assert all(call.headers["x-amz-request-payer"] == "requester" for call in calls)


def test_a_key_of_ones_own_is_not_sent_in_clear() -> None:
    with scripted_store(taken) as (endpoint, calls), pytest.raises(OptionError, match="https"):
        upload(endpoint, sse_customer_key=b"k" * 32, **KEYS)
    assert calls == []


@pytest.mark.parametrize("size", [10, LARGE])
def test_directory_buckets_are_written_with_a_session(size: int) -> None:
    def answer(call: Call) -> Answer:
        if call.target.partition("?")[2].startswith("session"):
            return Answer(200, SESSION)
        if call.headers.get("x-amz-s3session-token") != "express-token":
            return error_answer(400, "InvalidRequest")
        return taken(call)

    with scripted_store(answer) as (endpoint, _):
        upload(endpoint, size, "fast--usw2-az1--x-s3", region="us-west-2", **KEYS)


@pytest.mark.parametrize(
    ("code", "refused_at"),
    [
        ("ExpiredToken", "uploads"),
        ("ExpiredToken", "partNumber=2"),
        ("ExpiredToken", "partNumber=1"),
        ("ExpiredToken", "uploadId"),
        ("InvalidAccessKeyId", "partNumber=2"),
        ("AccessDenied", "partNumber=2"),
    ],
)
def test_keys_renewed_during_an_upload_are_taken(aws: Path, code: str, refused_at: str) -> None:
    def write(key: str) -> None:
        (aws / "credentials").write_text(
            f"[default]\naws_access_key_id = {key}\naws_secret_access_key = s3cret\n"
        )

    def answer(call: Call) -> Answer:
        operation = call.target.partition("?")[2]
        is_last = call.method == "POST" and operation.startswith("uploadId")
        is_refused = is_last if refused_at == "uploadId" else refused_at in operation
        if is_refused and "Credential=AKIAOLD/" in call.headers["authorization"]:
            write("AKIANEW")
            return error_answer(403, code)
        return taken(call)

    write("AKIAOLD")
    with scripted_store(answer) as (endpoint, calls):
        upload(endpoint, LARGE, region="us-east-1")
    assert "Credential=AKIANEW/" in calls[-1].headers["authorization"]
    assert not any(call.method == "DELETE" for call in calls)
    (aws / "credentials").unlink()
    assert code in refusal(lambda _: error_answer(403, code))  # the same keys are not tried again


@pytest.mark.parametrize("has_header", [False, True])
def test_the_region_that_a_store_names_is_used(has_header: bool) -> None:
    def answer(call: Call) -> Answer:
        if "/eu-west-3/" in call.headers["authorization"]:
            return taken(call)
        if has_header:
            return error_answer(301, "PermanentRedirect", x_amz_bucket_region="eu-west-3")
        more = "<Region>eu-west-3</Region>"
        return error_answer(400, "AuthorizationHeaderMalformed", more)

    with scripted_store(answer) as (endpoint, _):
        upload(endpoint, region="us-west-1", **KEYS)


def test_what_a_store_says_is_not_repeated_unless_it_is_a_code() -> None:
    for code in ("\x1b[0m", "s3cret with spaces", "A" * 65, "a&lt;b"):
        text = refusal(lambda _, code=code: error_answer(403, code))  # type: ignore[misc]
        assert "answered 403 to PutObject" in text
        assert re.fullmatch(r"[ -~]+", text)


def test_tries_that_fail_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="libtz")
    refused: list[Call] = []

    def answer(call: Call) -> Answer:
        if refused:
            return taken(call)
        refused.append(call)
        return error_answer(503, "SlowDown")

    with scripted_store(answer) as (endpoint, _):
        upload(endpoint)
    assert [record.getMessage() for record in caplog.records] == [
        "S3 PutObject, attempt 1 failed: the store answered 503"
    ]
