"""Temporary keys and private certificate authorities, passed as in code for Tensorizer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tensorizer
from tests.faults.store import Answer, Call, error_answer, range_answer, scripted_store
from tests.servers import Certificate

from libtz.compat.tensorizer import serialization, stream_io
from libtz.compat.tensorizer.stream_io import CAInfo
from libtz.errors import Error
from libtz.sources.s3 import S3Origin

DATA = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in list(os.environ):
        if name.startswith("AWS_") or name.endswith(("_CA_BUNDLE", "_proxy", "_PROXY")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return tmp_path


@pytest.fixture
def store() -> Iterator[str]:
    """A store that accepts one session token."""

    def answer(call: Call) -> Answer:
        if call.headers.get("x-amz-security-token") != "a-token":
            return error_answer(403, "InvalidAccessKeyId")
        return range_answer(call, DATA)

    with scripted_store(answer) as (endpoint, _):
        yield endpoint


def read(**named: object) -> bytes:
    with stream_io.open_stream("s3://bucket/key", "rb", **named) as stream:  # type: ignore[arg-type]
        return stream.read()


def test_the_token_in_s3cmds_configuration_is_sent(store: str, home: Path) -> None:
    host = store.removeprefix("http://")
    lines = ["access_key = ASIAX", "secret_key = x", f"host_base = {host}", "use_https = False"]
    path = home / ".s3cfg"
    path.write_text("\n".join(["[default]", *lines]))
    with pytest.raises(Error, match="InvalidAccessKeyId"):
        read()
    path.write_text("\n".join(["[default]", *lines, "access_token = a-token"]))
    assert read() == DATA


def test_the_token_belongs_to_the_keys_beside_it(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"s3_access_key_id": "ASIAX", "s3_secret_access_key": "x", "s3_endpoint": store}
    assert read(**keys, s3_session_token="a-token") == DATA
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ASIAX")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-token")
    assert read(**keys) == DATA
    assert read(s3_endpoint=store) == DATA
    with pytest.raises(Error, match="InvalidAccessKeyId"):
        read(**{**keys, "s3_access_key_id": "ASIAOTHER"})  # the token belongs to other keys


def test_what_fails_while_keys_are_looked_for_is_an_error_of_ours(home: Path) -> None:
    (home / ".aws").mkdir()
    (home / ".aws" / "config").write_text("[default]\ncredential_process = /bin/false\n")
    with pytest.raises(Error, match="credential_process"):
        read()


def test_authorities_that_curl_would_trust_are_trusted(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = certificate.context()

    def answer(call: Call) -> Answer:
        return range_answer(call, DATA)

    with scripted_store(answer, tls=context) as (endpoint, _):

        def fetch(**named: Any) -> bytes:
            with stream_io.open_stream(f"{endpoint}/m", "rb", **named) as stream:
                return stream.read()

        with pytest.raises(Error, match="certificate was refused"):
            fetch()
        assert fetch(certificate_handling=CAInfo(cacert=certificate.path)) == DATA
        monkeypatch.setenv("SSL_CERT_FILE", certificate.path)
        assert fetch() == DATA


# ---- Endpoints -----------------------------------------------------------------------------------

READ, WRITE = "accel-object.ord1.coreweave.com", "object.ord1.coreweave.com"
KEYS: dict[str, Any] = {"s3_access_key_id": "an-id", "s3_secret_access_key": "a-secret"}


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> list[stream_io.RemoteObject]:
    """The source that would be read, without connecting."""
    seen: list[stream_io.RemoteObject] = []

    def record(place: stream_io.RemoteObject, *_: object) -> None:
        seen.append(place)

    monkeypatch.setattr(stream_io, "ObjectReader", record)
    return seen


def requested(place: stream_io.RemoteObject) -> tuple[str, bool]:
    """The host of the first request, and whether it is signed."""
    url, headers = S3Origin(place.url, place.s3, place.http).sign()
    return url.partition("?")[0], any(name.lower() == "authorization" for name in headers)


def test_without_configuration_coreweaves_objects_are_read_unsigned(
    places: list[stream_io.RemoteObject],
) -> None:
    read_place = partial(stream_io.open_stream, "s3://tensorized/a/model.tensors")
    read_place()
    assert requested(places[0]) == (f"https://{READ}/tensorized/a/model.tensors", False)
    read_place(s3_access_key_id="", s3_secret_access_key="")
    assert requested(places[1]) == (f"https://{READ}/tensorized/a/model.tensors", False)
    read_place(**KEYS)
    assert requested(places[2]) == (f"https://{READ}/tensorized/a/model.tensors", True)
    read_place(force_http=True)
    assert requested(places[3])[0].startswith(f"http://{READ}/")


def test_without_configuration_objects_are_written_to_coreweave() -> None:
    with stream_io.open_stream("s3://bucket/key", "wb", **KEYS) as stream:
        place = stream.take()  # type: ignore[attr-defined]
    assert requested(place) == (f"https://{WRITE}/bucket/key", True)


def test_programs_may_set_the_default_endpoints(
    places: list[stream_io.RemoteObject], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_io, "default_s3_read_endpoint", "read.example")
    monkeypatch.setattr(stream_io, "default_s3_write_endpoint", "http://write.example:81")
    stream_io.open_stream("s3://bucket/key")
    assert requested(places[0])[0] == "https://read.example/bucket/key"
    with stream_io.open_stream("s3://bucket/key", "wb", **KEYS) as stream:
        assert stream.take().s3.endpoint == "http://write.example:81"  # type: ignore[attr-defined]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "an-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    stream_io.open_stream("s3://bucket/key")
    assert requested(places[1]) == ("https://read.example/bucket/key", True)


def test_the_default_endpoint_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(call: Call) -> Answer:
        assert "authorization" not in {name.lower() for name in call.headers}
        return range_answer(call, DATA)

    with scripted_store(answer) as (endpoint, _):
        monkeypatch.setattr(stream_io, "default_s3_read_endpoint", endpoint)
        assert read() == DATA


@pytest.mark.parametrize(
    ("config", "environment"),
    [
        ("", {"AWS_ENDPOINT_URL_S3": "http://store.example", "AWS_ENDPOINT_URL": "http://other"}),
        ("", {"AWS_ENDPOINT_URL": "http://store.example"}),
        ("endpoint_url = http://store.example\n", {}),
        ("s3 =\n  endpoint_url = http://store.example\nendpoint_url = http://other\n", {}),
        ("services = ours\n[services ours]\ns3 =\n  endpoint_url = http://store.example\n", {}),
    ],
)
def test_an_endpoint_that_boto3_is_configured_for_wins(
    config: str,
    environment: dict[str, str],
    places: list[stream_io.RemoteObject],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (home / ".aws").mkdir()
    (home / ".aws" / "config").write_text(f"[default]\n{config}")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream_io.open_stream("s3://bucket/key")
    assert requested(places[0]) == ("http://store.example/bucket/key", False)


def test_keys_that_boto3_found_are_not_for_coreweave(
    places: list[stream_io.RemoteObject], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "an-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    stream_io.open_stream("s3://bucket/key")
    url, is_signed = requested(places[0])
    assert "amazonaws.com" in url
    assert is_signed


# ---- Arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("begin", "end"), [(5, 2), (5, 5), (None, 0), (0, 0)])
def test_ranges_that_end_before_they_begin_are_refused(begin: int | None, end: int) -> None:
    """No server runs, since they are refused before any request."""
    for make in (stream_io.CURLStreamFile, stream_io.open_stream):
        with pytest.raises(ValueError, match="end must be after begin"):
            make("http://127.0.0.1:9/m", begin=begin, end=end)
    with pytest.raises(ValueError, match="End marker"):
        tensorizer.stream_io.CURLStreamFile("http://127.0.0.1:9/m", begin=begin, end=end)


def test_certificates_are_a_cainfo() -> None:
    with pytest.raises(TypeError, match="CAInfo"):
        stream_io.CURLStreamFile("http://127.0.0.1:9/m", certificate_handling=False)  # type: ignore[arg-type]


def test_small_types_are_where_tensorizer_has_them() -> None:
    for name in ("TensorType", "HashType"):
        theirs = getattr(tensorizer.serialization, name)
        members = {member.name: member.value for member in getattr(serialization, name)}
        assert members == {member.name: member.value for member in theirs}
    made = serialization.TensorHash(serialization.HashType.SHA256, b"1")
    assert made == serialization.TensorHash(type=serialization.HashType.SHA256, hash=b"1")
    assert made > serialization.TensorHash(serialization.HashType.CRC32, b"2")
