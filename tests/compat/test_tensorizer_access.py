"""Temporary keys and private authorities, where code written for Tensorizer has them."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.faults.store import Answer, Call, error_answer, range_answer, scripted_store
from tests.servers import Certificate

from libtz.compat.tensorizer import stream_io
from libtz.compat.tensorizer.stream_io import CAInfo
from libtz.errors import Error

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
    """A store that knows one session token."""

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
        read(**{**keys, "s3_access_key_id": "ASIAOTHER"})  # the token is not of these


def test_what_fails_while_keys_are_looked_for_is_an_error_of_ours(home: Path) -> None:
    (home / ".aws").mkdir()
    (home / ".aws" / "config").write_text("[default]\ncredential_process = /bin/false\n")
    with pytest.raises(Error, match="credential_process"):
        read()


def test_authorities_that_curl_would_trust_are_trusted(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.path, certificate.key_path)

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
