"""S3Source with SeaweedFS, and with a server that refuses on request."""

from __future__ import annotations

import io
import json
import random
import re
import stat
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import botocore.auth
import botocore.session
import numpy as np
import pytest
from tests.faults.server import Fault, FaultServer, Request
from tests.raising import raises
from tests.servers import Certificate, Seaweed

import libtz.numpy
from libtz.errors import OptionError, SourceError, SourcePermissionError
from libtz.options import HttpOptions, ReadOptions, RetryPolicy, S3Options
from libtz.sources import s3 as s3_module
from libtz.sources.http import HttpSource
from libtz.sources.s3 import S3Source

pytestmark = pytest.mark.usefixtures("aws")

DATA = random.Random(9).randbytes(3_000_000)
HTTP = HttpOptions(retry=RetryPolicy(attempts=3, backoff_s=0.01, backoff_max_s=0.02), proxies={})
BUCKET = "sources"


@pytest.fixture(scope="module")
def store(seaweed: Seaweed) -> Any:
    """A client of the store, with a new bucket."""
    with seaweed.bucket(BUCKET) as client:
        client.put_object(Bucket=BUCKET, Key="model.tz", Body=DATA)
        yield client


def options(seaweed: Seaweed, **changes: Any) -> S3Options:
    settings: dict[str, Any] = {
        "endpoint": seaweed.endpoint,
        "access_key_id": seaweed.keys[0],
        "secret_access_key": seaweed.keys[1],
    }
    return S3Options(**{**settings, **changes})


def check(source: HttpSource, data: bytes = DATA) -> None:
    """Open it and read all of it."""
    front = memoryview(bytearray(100))
    try:
        assert source.open(front) == min(100, len(data))
        assert source.size == len(data)
        rest = bytearray(len(data))
        half = len(data) // 2
        source.read_into(0, len(data), [memoryview(rest)[:half], memoryview(rest)[half:]])
        assert rest == data
    finally:
        source.close()


def refused(source: HttpSource) -> SourceError:
    with pytest.raises(SourceError) as caught:
        check(source)
    assert not re.search("s3cret|secret-", str(caught.value))
    assert "X-Amz" not in str(caught.value)
    return caught.value


# A real store.


def test_an_object_is_read_with_given_keys(seaweed: Seaweed, store: Any) -> None:
    source = S3Source(f"s3://{BUCKET}/model.tz", options(seaweed), HTTP)
    check(source)
    assert source.identity == store.head_object(Bucket=BUCKET, Key="model.tz")["ETag"]
    assert source.url == f"s3://{BUCKET}/model.tz"
    assert source.stats.connections == 1


def test_an_object_is_read_with_botocores_configuration(
    seaweed: Seaweed, store: Any, aws: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (aws / "config").write_text(
        f"[profile mine]\nregion = eu-central-1\nendpoint_url = {seaweed.endpoint}\n"
        "s3 =\n  addressing_style = path\n"
    )
    (aws / "credentials").write_text(
        f"[mine]\naws_access_key_id = {seaweed.keys[0]}\n"
        f"aws_secret_access_key = {seaweed.keys[1]}\n"
    )
    check(S3Source(f"s3://{BUCKET}/model.tz", S3Options(profile="mine"), HTTP))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    check(S3Source(f"s3://{BUCKET}/model.tz", None, HTTP))
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweed.other_keys[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweed.other_keys[1])
    monkeypatch.setenv("AWS_ENDPOINT_URL", seaweed.endpoint)
    check(S3Source(f"s3://{BUCKET}/model.tz", None, HTTP))


@pytest.mark.parametrize(
    "key",
    [
        "a b/ü%2F+c.tz",
        "100%/ä=&?x#y.tz",
        "~(tilde)'*!;,:@$.tz",
        "дом/模型/é.tz",
        "x\u2028y\u00a0z.tz",
    ],
)
def test_any_key_can_be_named(seaweed: Seaweed, store: Any, key: str) -> None:
    data = key.encode() * 3
    store.put_object(Bucket=BUCKET, Key=key, Body=data)
    check(S3Source(f"s3://{BUCKET}/{key}", options(seaweed), HTTP), data)


def test_what_a_store_kept_of_the_upload_is_no_coding(seaweed: Seaweed, store: Any) -> None:
    store.put_object(Bucket=BUCKET, Key="marked", Body=DATA, ContentEncoding="aws-chunked")
    assert store.head_object(Bucket=BUCKET, Key="marked")["ContentEncoding"] == "aws-chunked"
    check(S3Source(f"s3://{BUCKET}/marked", options(seaweed), HTTP))


@pytest.mark.parametrize("folder", ["plain", "run#3", "exp?lr=1", "a%20b"])
def test_a_set_is_found_by_its_index_under_any_key(
    seaweed: Seaweed, store: Any, folder: str
) -> None:
    tensors = {"a": np.arange(5.0), "b": np.ones(3)}
    for name, value in tensors.items():
        libtz.numpy.save_file({name: value}, file := io.BytesIO())
        store.put_object(Bucket=BUCKET, Key=f"{folder}/{name}.tz", Body=file.getvalue())
    index = json.dumps({"weight_map": {name: f"{name}.tz" for name in tensors}})
    key = f"{folder}/model.safetensors.index.json"
    store.put_object(Bucket=BUCKET, Key=key, Body=index.encode())
    settings = ReadOptions(s3=options(seaweed), http=HTTP)
    loaded = libtz.numpy.load_file(f"s3://{BUCKET}/{key}", options=settings)
    assert {name: list(value) for name, value in loaded.items()} == {
        name: list(value) for name, value in tensors.items()
    }


def test_a_clock_that_is_far_off_is_named_by_a_real_store(
    seaweed: Seaweed, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    auth: Any = botocore.auth
    now = auth.get_current_datetime

    def behind(*arguments: Any, **named: Any) -> Any:
        return now(*arguments, **named) - timedelta(hours=2)

    monkeypatch.setattr(auth, "get_current_datetime", behind)
    error = refused(S3Source(f"s3://{BUCKET}/model.tz", options(seaweed), HTTP))
    assert "clock" in str(error)


def test_refusals_say_what_to_do(seaweed: Seaweed, store: Any) -> None:
    url = f"s3://{BUCKET}/model.tz"
    error = refused(S3Source(url, options(seaweed, secret_access_key="s3cret-x"), HTTP))
    assert (error.status, error.retryable) == (403, False)
    assert "SignatureDoesNotMatch" in str(error)
    error = refused(S3Source(url, options(seaweed, access_key_id="AKIANOBODY"), HTTP))
    assert "InvalidAccessKeyId" in str(error)
    error = refused(S3Source(url, S3Options(endpoint=seaweed.endpoint, anonymous=True), HTTP))
    assert error.status == 403
    error = refused(S3Source(f"s3://{BUCKET}/none", options(seaweed), HTTP))
    assert (error.status, error.url) == (404, f"s3://{BUCKET}/none")
    assert "NoSuchKey" in str(error)
    assert refused(S3Source("s3://nosuchbucket/x", options(seaweed), HTTP)).status == 404


def test_a_tampered_signature_is_refused(seaweed: Seaweed, store: Any) -> None:
    url = store.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "model.tz"})
    check(HttpSource(url, HTTP))
    changed = url.replace("model.tz", "other.tz")
    error = refused(HttpSource(changed, HTTP))
    assert error.status == 403


def test_an_object_replaced_during_the_load_stops_it(seaweed: Seaweed, store: Any) -> None:
    store.put_object(Bucket=BUCKET, Key="changing", Body=DATA)
    source = S3Source(f"s3://{BUCKET}/changing", options(seaweed), HTTP)
    source.open(memoryview(bytearray(10)))
    store.put_object(Bucket=BUCKET, Key="changing", Body=DATA[::-1])
    with pytest.raises(SourceError, match="changed"):
        source.read_into(0, 100, [memoryview(bytearray(100))])
    source.close()


def test_a_version_can_be_named(seaweed: Seaweed, store: Any) -> None:
    store.create_bucket(Bucket="versioned")
    store.put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
    old = store.put_object(Bucket="versioned", Key="k", Body=b"old")["VersionId"]
    store.put_object(Bucket="versioned", Key="k", Body=b"newer")
    check(S3Source("s3://versioned/k", options(seaweed), HTTP), b"newer")
    check(S3Source("s3://versioned/k", options(seaweed, version_id=old), HTTP), b"old")


# Refusals on request.


@pytest.fixture
def fake() -> Iterator[FaultServer]:
    with FaultServer(DATA) as server:
        yield server


def signer(request: Request) -> tuple[str, str]:
    """Access key and region that a request was signed with."""
    scope = request.headers["authorization"].partition("Credential=")[2].split("/")
    return scope[0], scope[2]


def with_keys(fake: FaultServer, **changes: Any) -> S3Options:
    keys = {"access_key_id": "AKIAONE", "secret_access_key": "s3cret"}
    return S3Options(endpoint=fake.url(""), **{**keys, **changes})


def error_body(code: str) -> bytes:
    return (
        f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>s3cret</Message>"
        "<AWSAccessKeyId>s3cret</AWSAccessKeyId></Error>"
    ).encode()


def test_credentials_that_expire_are_renewed_during_the_load(fake: FaultServer, aws: Path) -> None:
    # botocore renews credentials that are about to expire, as these always are.
    expiration = (datetime.now(timezone.utc) + timedelta(seconds=60)).isoformat()
    script = aws / "credentials.py"
    script.write_text(
        f"import json, pathlib\ncount = pathlib.Path({str(aws / 'count')!r})\n"
        "number = len(count.read_text()) if count.exists() else 0\n"
        "count.write_text('x' * (number + 1))\n"
        "print(json.dumps({'Version': 1, 'AccessKeyId': f'AKIA{number}',"
        f" 'SecretAccessKey': 's3cret', 'SessionToken': 's3cret', 'Expiration': {expiration!r}}}))"
    )
    (aws / "config").write_text(f"[default]\ncredential_process = {sys.executable} {script}\n")
    check(S3Source("s3://bucket/key", S3Options(endpoint=fake.url("")), HTTP))
    first, last = (signer(request)[0] for request in fake.requests)
    assert first != last


def test_credentials_replaced_in_a_file_are_found_after_a_refusal(
    fake: FaultServer, aws: Path
) -> None:
    def write(key: str) -> None:
        (aws / "credentials").write_text(
            f"[default]\naws_access_key_id = {key}\naws_secret_access_key = s3cret\n"
        )

    write("AKIAOLD")
    source = S3Source("s3://bucket/key", S3Options(endpoint=fake.url("")), HTTP)
    source.open(memoryview(bytearray(10)))
    write("AKIANEW")
    fake.faults.append(Fault(status=400, body=error_body("ExpiredToken")))
    source.read_into(0, 100, [memoryview(bytearray(100))])
    source.read_into(0, 100, [memoryview(bytearray(100))])
    keys = [signer(request)[0] for request in fake.requests]
    assert keys == ["AKIAOLD", "AKIAOLD", "AKIANEW", "AKIANEW"]
    fake.faults.append(Fault(status=403, body=error_body("AccessDenied")))
    with raises(SourcePermissionError, status=403):
        source.read_into(0, 100, [memoryview(bytearray(100))])
    assert len(fake.requests) == 5  # the same credentials are not tried again
    source.close()


def test_signatures_are_renewed_with_age(
    fake: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = S3Source("s3://bucket/key", with_keys(fake), HTTP)
    source.open(memoryview(bytearray(10)))
    for used_s in (3600, 0):
        monkeypatch.setattr(s3_module, "SIGNATURE_USED_S", used_s)
        monkeypatch.setattr(source._s3_origin, "_signed_s", time.monotonic() - 70)
        # The signature shows whether the request was signed again.
        monkeypatch.setattr(source._s3_origin, "_object", {"Bucket": "bucket", "Key": "other"})
        source.read_into(0, 100, [memoryview(bytearray(100))])
    targets = [request.target.partition("?")[0] for request in fake.requests]
    assert targets == ["/bucket/key", "/bucket/key", "/bucket/other"]
    source.close()


def test_the_authority_that_aws_configuration_names_is_trusted(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultServer(DATA, tls=certificate.context()) as secure:
        error = refused(S3Source("s3://bucket/key", with_keys(secure), HTTP))
        assert "certificate was refused" in str(error)
        monkeypatch.setenv("AWS_CA_BUNDLE", certificate.path)
        check(S3Source("s3://bucket/key", with_keys(secure), HTTP))


def test_many_threads_that_are_refused_together_all_go_on(fake: FaultServer, aws: Path) -> None:
    def write(key: str) -> None:
        (aws / "credentials").write_text(
            f"[default]\naws_access_key_id = {key}\naws_secret_access_key = s3cret\n"
        )

    def refuse_the_old(request: Request) -> Fault | None:
        if signer(request)[0] == "AKIANEW":
            renewed.set()
            return None
        refusals.append(request)
        # The others are refused long after the first has renewed the credentials.
        act = renewed.wait if len(refusals) > 1 else None
        return Fault(status=403, body=error_body("ExpiredToken"), act=act)

    write("AKIAOLD")
    source = S3Source("s3://bucket/key", S3Options(endpoint=fake.url("")), HTTP)
    source.open(memoryview(bytearray(10)))
    write("AKIANEW")
    renewed = threading.Event()
    refusals: list[Request] = []
    fake.decide = refuse_the_old
    with ThreadPoolExecutor(4) as pool:
        buffers = [memoryview(bytearray(100)) for _ in range(4)]
        for read in [pool.submit(source.read_into, 0, 100, [buffer]) for buffer in buffers]:
            read.result()
    assert all(buffer == DATA[:100] for buffer in buffers)
    source.close()


def test_the_region_the_store_names_is_used(fake: FaultServer) -> None:
    wrong = Fault(
        status=301,
        body=error_body("PermanentRedirect"),
        headers={"x-amz-bucket-region": "eu-west-3"},
    )
    fake.faults.append(wrong)
    check(S3Source("s3://bucket/key", with_keys(fake, region="us-west-1"), HTTP))
    regions = [signer(request)[1] for request in fake.requests]
    assert regions == ["us-west-1", "eu-west-3", "eu-west-3"]
    fake.always = wrong
    source = S3Source("s3://bucket/key", with_keys(fake, region="us-west-1"), HTTP)
    with raises(SourceError, status=301):
        source.open(memoryview(bytearray(10)))
    source.close()


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (400, "RequestTimeout")])
def test_a_store_that_asks_for_patience_gets_it(fake: FaultServer, status: int, code: str) -> None:
    fake.faults.extend([Fault(status=status, body=error_body(code))] * 2)
    source = S3Source("s3://bucket/key", with_keys(fake), HTTP)
    check(source)
    assert source.stats.retries == 2
    fake.always = Fault(status=status, body=error_body(code))
    error = refused(S3Source("s3://bucket/key", with_keys(fake), HTTP))
    assert code in str(error)
    assert error.retryable


def test_an_error_page_without_sense_adds_nothing(fake: FaultServer) -> None:
    for body in (
        b"",
        b"<Code>\x1b[0m</Code>",
        b"<Code>" + b"A" * 65 + b"</Code>",
        b"\xff" * 99_999,
    ):
        fake.always = Fault(status=409, body=body)
        error = refused(S3Source("s3://bucket/key", with_keys(fake), HTTP))
        assert str(error) == "s3://bucket/key cannot be read: the store answered 409 Conflict"


def test_addressing_style_and_anonymity(fake: FaultServer) -> None:
    check(S3Source("s3://bucket/a/b", with_keys(fake, addressing_style="path"), HTTP))
    assert fake.requests[-1].target.startswith("/bucket/a/b?")
    check(S3Source("s3://bucket/a/b", S3Options(endpoint=fake.url(""), anonymous=True), HTTP))
    assert fake.requests[-1].target.partition("?")[0] == "/bucket/a/b"
    assert "authorization" not in fake.requests[-1].headers


def test_keys_are_not_normalised(fake: FaultServer) -> None:
    check(S3Source("s3://bucket/a/../b//./c", with_keys(fake, addressing_style="path"), HTTP))
    assert fake.requests[-1].target.startswith("/bucket/a/../b//./c?")


def test_encryption_is_used_unless_the_endpoint_says_http(aws: Path) -> None:
    source = S3Source("s3://bucket/key", S3Options(access_key_id="A", secret_access_key="s3cret"))
    url, headers = source._s3_origin.sign()
    assert url.startswith("https://bucket.s3.amazonaws.com/key?")
    assert headers["Authorization"].startswith("AWS4-HMAC-SHA256 Credential=A/")
    source.close()


# Invalid configuration.


def test_without_credentials_there_is_advice(fake: FaultServer) -> None:
    source = S3Source("s3://bucket/key", S3Options(endpoint=fake.url("")), HTTP)
    with pytest.raises(OptionError, match=r"S3Options\.anonymous"):
        source.open(memoryview(bytearray(10)))
    source.close()


def test_a_credential_process_that_fails_is_not_quoted(fake: FaultServer, aws: Path) -> None:
    script = aws / "fail.sh"
    script.write_text("#!/bin/sh\necho s3cret >&2\nexit 1\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    (aws / "config").write_text(f"[default]\ncredential_process = {script}\n")
    error = refused(S3Source("s3://bucket/key", S3Options(endpoint=fake.url("")), HTTP))
    assert "credential_process" in str(error)
    assert not error.retryable
    assert fake.requests == []


def test_a_profile_that_does_not_exist_is_an_option_error() -> None:
    source = S3Source("s3://bucket/key", S3Options(profile="nosuch"), HTTP)
    with pytest.raises(OptionError, match="nosuch"):
        source.open(memoryview(bytearray(10)))
    source.close()


def test_without_boto3_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    source = S3Source("s3://bucket/key")
    with pytest.raises(OptionError, match=r"pip install libtz\[s3\]"):
        source.open(memoryview(bytearray(10)))
    source.close()


@pytest.mark.parametrize("url", ["s3://", "s3://bucket", "s3://bucket/", "s3:///key", "http://b/k"])
def test_what_names_no_object_is_an_option_error(url: str) -> None:
    with pytest.raises(OptionError):
        S3Source(url)


@pytest.mark.parametrize("bucket", ["not a bucket", "a!", "arn:aws:s3:nowhere", "b\n"])
def test_a_bucket_name_that_cannot_be_is_an_option_error(bucket: str) -> None:
    with pytest.raises(OptionError, match="not the name of a bucket"):
        S3Source(f"s3://{bucket}/key", S3Options(anonymous=True), HTTP)
