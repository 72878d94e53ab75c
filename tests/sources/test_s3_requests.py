"""Signatures and headers of S3 requests, and the errors for refusals."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.faults.store import Answer, Call, error_answer, range_answer, scripted_store

import libtz
from libtz.errors import Error, OptionError, SourceError
from libtz.options import HttpOptions, ReadOptions, RetryPolicy, S3Options
from libtz.sources import s3_errors
from libtz.sources.s3 import S3Origin, S3Source
from libtz.sources.s3_client import parse_s3_url

pytestmark = pytest.mark.usefixtures("aws")

DATA = bytes(range(256)) * 40
HTTP = HttpOptions(retry=RetryPolicy(attempts=2, backoff_s=0.01), timeout_s=10, proxies={})
KEYS: dict[str, Any] = {"access_key_id": "AKIAONE", "secret_access_key": "s3cret"}
SESSION = (
    b"<CreateSessionResult><Credentials><AccessKeyId>AKIASESSION</AccessKeyId>"
    b"<SecretAccessKey>s3cret</SecretAccessKey><SessionToken>express-token</SessionToken>"
    b"<Expiration>2100-01-01T00:00:00Z</Expiration></Credentials></CreateSessionResult>"
)


def read(endpoint: str, url: str = "s3://bucket/key", **options: Any) -> bytes:
    source = S3Source(url, S3Options(endpoint=endpoint, **{**KEYS, **options}), HTTP)
    return whole(source)


def whole(source: S3Source) -> bytes:
    front = memoryview(bytearray(100))
    try:
        source.open(front)
        data = bytearray(source.size)
        source.read_into(0, source.size, [memoryview(data)])
        return bytes(data)
    finally:
        source.close()


def refusal(answer: Callable[[Call], Answer], **options: Any) -> str:
    with scripted_store(answer) as (endpoint, _), pytest.raises(SourceError) as caught:
        read(endpoint, **options)
    assert "s3cret" not in str(caught.value)
    return str(caught.value)


def served(call: Call) -> Answer:
    return range_answer(call, DATA)


def test_signatures_and_tokens_go_into_headers_only() -> None:
    with scripted_store(served) as (endpoint, calls):
        assert read(endpoint, session_token="a-token") == DATA
    for call in calls:
        assert call.headers["x-amz-security-token"] == "a-token"
        assert call.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIAONE/")
        assert "amz-sdk-request" not in call.headers  # of an attempt that was not sent
        assert call.target == "/bucket/key?x-id=GetObject"


def test_directory_buckets_are_read_with_a_session() -> None:
    def answer(call: Call) -> Answer:
        if "session" in call.target.partition("?")[2]:
            return Answer(200, SESSION)
        if call.headers.get("x-amz-s3session-token") != "express-token":
            return error_answer(400, "InvalidRequest")
        assert "/s3express/aws4_request" in call.headers["authorization"]
        return served(call)

    with scripted_store(answer) as (endpoint, calls):
        url = "s3://fast--usw2-az1--x-s3/key"
        assert read(endpoint, url, region="us-west-2") == DATA
    assert sum("session" in call.target for call in calls) == 1


@pytest.mark.parametrize(
    ("url", "address"),
    [
        (
            "s3://arn:aws:s3:us-west-2:123456789012:accesspoint{}mine/dir/m.tz",
            "https://mine-123456789012.s3-accesspoint.us-west-2.amazonaws.com/dir/m.tz",
        ),
        (
            "s3://arn:aws:s3-object-lambda:eu-west-1:123456789012:accesspoint{}mine/m.tz",
            "https://mine-123456789012.s3-object-lambda.eu-west-1.amazonaws.com/m.tz",
        ),
        (
            "s3://arn:aws:s3-outposts:us-west-2:123456789012:outpost{0}op-1{0}accesspoint{0}my/m",
            "https://my-123456789012.op-1.s3-outposts.us-west-2.amazonaws.com/m",
        ),
        (
            "s3://arn:aws-cn:s3:cn-north-1:123456789012:accesspoint{}mine/m.tz",
            "https://mine-123456789012.s3-accesspoint.cn-north-1.amazonaws.com.cn/m.tz",
        ),
    ],
)
@pytest.mark.parametrize("separator", [":", "/"])
def test_access_points_are_named_by_their_arn(url: str, address: str, separator: str) -> None:
    origin = S3Origin(url.format(separator), S3Options(**KEYS), HTTP)
    assert origin.sign()[0].partition("?")[0] == address
    origin.close()


def test_what_only_another_signature_opens_is_not_signed_by_the_usual_one() -> None:
    origin = S3Origin("s3://arn:aws:s3::123456789012:accesspoint:a.mrap/m", S3Options(**KEYS), HTTP)
    with pytest.raises(OptionError, match="pip install awscrt"):
        origin.sign()


def test_requesters_may_pay_and_send_headers_of_their_own() -> None:
    with scripted_store(served) as (endpoint, calls):
        assert read(endpoint, requester_pays=True) == DATA
        headers = {"x-amz-request-payer": "requester", "X-Site": "a"}
        http = HttpOptions(headers=headers, proxies={})
        assert whole(S3Source("s3://b/k", S3Options(endpoint=endpoint, **KEYS), http)) == DATA
    for call in calls:
        assert call.headers["x-amz-request-payer"] == "requester"
        assert "x-amz-request-payer" in call.headers["authorization"]  # or stores ignore it
    assert calls[-1].headers["x-site"] == "a"


def test_a_key_of_ones_own_is_sent_over_tls_only() -> None:
    key = b"k" * 32
    origin = S3Origin("s3://bucket/key", S3Options(sse_customer_key=key, **KEYS), HTTP)
    headers = {name.lower(): value for name, value in origin.sign()[1].items()}
    assert headers["x-amz-server-side-encryption-customer-algorithm"] == "AES256"
    sent = headers["x-amz-server-side-encryption-customer-key"]
    assert base64.b64decode(sent) == key
    origin.close()
    with scripted_store(served) as (endpoint, calls), pytest.raises(OptionError, match="https"):
        read(endpoint, sse_customer_key=key)
    assert calls == []


@pytest.mark.parametrize("code", ["InvalidRequest", "InvalidArgument"])
def test_an_object_under_a_key_of_ones_own_says_so(code: str) -> None:
    assert "ReadOptions.s3.sse_customer_key" in refusal(lambda _: error_answer(400, code))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sse_customer_key": b"short"}, "32 bytes"),
        ({"sse_customer_key": b"k" * 32, "sse": "AES256"}, "cannot be combined"),
        ({"sse_kms_key_id": "id"}, "sse_kms_key_id needs"),
        ({"sse": "rot13"}, "S3Options.sse must be"),
    ],
)
def test_encryption_that_makes_no_sense_is_refused(options: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        S3Options(**options)
    assert "kkk" not in repr(S3Options(sse_customer_key=b"k" * 32))


def test_the_region_in_the_body_of_a_refusal_is_used() -> None:
    def answer(call: Call) -> Answer:
        if "/eu-west-3/" in call.headers["authorization"]:
            return served(call)
        more = "<Region>eu-west-3</Region>"
        return error_answer(400, "AuthorizationHeaderMalformed", more)

    with scripted_store(answer) as (endpoint, calls):
        assert read(endpoint, region="us-west-1") == DATA
    assert len(calls) == 3
    text = refusal(lambda _: error_answer(400, "AuthorizationHeaderMalformed"))
    assert "ReadOptions.s3.region" in text


@pytest.mark.parametrize(
    ("ahead_s", "words"), [(7200, "2 hours behind"), (-1200, "20 minutes ahead of"), (0, "")]
)
def test_a_clock_that_is_far_off_is_named(ahead_s: int, words: str) -> None:
    class Clock:
        @staticmethod
        def time() -> float:
            return time.time() - ahead_s

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3_errors, "time", Clock)
        text = refusal(lambda _: error_answer(403, "AccessDenied"))
    assert words in text
    assert ("clock" in text) == bool(words)


@pytest.mark.parametrize("code", ["RequestTimeTooSkewed", "ExpiredToken", "InvalidObjectState"])
def test_codes_come_with_advice(code: str) -> None:
    assert re.search(rf"\({code}\); \w+", refusal(lambda _: error_answer(403, code)))


# Missing credentials.


ROLE = "arn:aws:iam::123456789012:role/x"


@pytest.mark.parametrize(
    ("config", "environment"),
    [
        ("", {"AWS_ROLE_ARN": ROLE, "AWS_WEB_IDENTITY_TOKEN_FILE": "/nonexistent/token"}),
        ("", {"AWS_ROLE_ARN": ROLE, "AWS_WEB_IDENTITY_TOKEN_FILE": "/"}),
        ("[default]\ncredential_process = /nonexistent/tool\n", {}),
        ("[default]\ncredential_process = /etc/hostname\n", {}),
        ("[default]\ncredential_process = /bin/echo []\n", {}),
        ("[default]\ncredential_process = /bin/echo s3cret\n", {}),
        ("[default]\ncredential_process = /bin/false\n", {}),
        ("[default]\nsso_session = nosuch\nsso_account_id = 1\nsso_role_name = r\n", {}),
        (f"[default]\nrole_arn = {ROLE}\nsource_profile = nosuch\n", {}),
        (f"[default]\nrole_arn = {ROLE}\ncredential_source = Nonsense\n", {}),
        ("not a configuration\n", {}),
    ],
)
def test_credentials_that_cannot_be_had_are_typed_errors_at_once(
    config: str, environment: dict[str, str], aws: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (aws / "config").write_text(config)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    options = ReadOptions(s3=S3Options(endpoint="http://127.0.0.1:9"))  # with 8 tries
    with pytest.raises(Error) as caught:
        libtz.open("s3://bucket/key", options=options)
    assert "tries" not in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_credentials_that_go_away_end_the_load_with_a_typed_error(aws: Path) -> None:
    token = aws / "tool"
    token.write_text(
        '#!/bin/sh\necho \'{"Version": 1, "AccessKeyId": "A", "SecretAccessKey": "s3cret",'
        ' "SessionToken": "t", "Expiration": "\'$(date -u -d +60sec +%FT%TZ)\'"}\'\n'
    )
    token.chmod(0o755)
    (aws / "config").write_text(f"[default]\ncredential_process = {token}\n")
    with scripted_store(served) as (endpoint, _):
        source = S3Source("s3://bucket/key", S3Options(endpoint=endpoint), HTTP)
        source.open(memoryview(bytearray(10)))
        token.unlink()
        with pytest.raises(Error, match="cannot be read"):
            source.read_into(0, 100, [memoryview(bytearray(100))])
        source.close()


# Names.


def test_a_url_with_keys_in_it_is_refused_without_showing_them() -> None:
    for url in ("s3://AKIA:s3cret@bucket/k", "s3://AKIA:s3/cret@bucket/k", "s3://AKIA:s3cret"):
        with pytest.raises(OptionError) as caught:
            parse_s3_url(url)
        assert "s3cret" not in str(caught.value)
        assert "cret@" not in str(caught.value)


def test_a_mark_of_the_upload_is_no_coding_of_the_object() -> None:
    def answer(coding: str) -> Callable[[Call], Answer]:
        def marked(call: Call) -> Answer:
            plain = served(call)
            return Answer(206, plain.body, {**plain.headers, "Content-Encoding": coding})

        return marked

    for coding in ("aws-chunked", "AWS-Chunked", "aws-chunked, identity", "aws-chunked,"):
        with scripted_store(answer(coding)) as (endpoint, _):
            assert read(endpoint) == DATA
    assert "compresses" in refusal(answer("aws-chunked, gzip"))
