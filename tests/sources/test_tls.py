"""Wrong certificates, keys, proxies and ports: clear errors at once, without retries."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.faults.server import Fault, FaultServer
from tests.faults.store import Answer, Call, range_answer, scripted_store
from tests.servers import Certificate, Nginx, make_certificate

from libtz.errors import Error, OptionError, SourceError
from libtz.options import HttpOptions, RetryPolicy, S3Options
from libtz.sinks.s3 import S3Sink
from libtz.sources.http import HttpSource
from libtz.sources.s3_client import make_client, make_session
from libtz.sources.tls import authorities, proxies_for

DATA = bytes(range(256)) * 40
AUTHORITY_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name in AUTHORITY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAONE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")


@pytest.fixture
def secure(certificate: Certificate) -> Iterator[FaultServer]:
    with FaultServer(DATA, tls=certificate.context()) as server:
        yield server


def read(url: str, **options: Any) -> bytes:
    source = HttpSource(url, HttpOptions(**options))
    try:
        front = memoryview(bytearray(len(DATA)))
        return bytes(front[: source.open(front)])
    finally:
        source.close()


def refusal(url: str, kind: type[Error] = SourceError, **options: Any) -> str:
    """The message of the error, which is raised after the first attempt."""
    with pytest.raises(kind) as caught:
        read(url, **options)
    assert "tries" not in str(caught.value)
    return str(caught.value)


def upload(endpoint: str, **options: Any) -> None:
    http = HttpOptions(**options)
    sink = S3Sink("s3://b/k", S3Options(endpoint=endpoint), http, header_size=1, file_size_max=9)
    sink.write_at(0, memoryview(b"x"))
    sink.commit(1)


# Local files.


def test_a_key_that_needs_a_passphrase_is_refused_without_asking(
    secure: FaultServer, certificate: Certificate, tmp_path: Path
) -> None:
    openssl = str(shutil.which("openssl"))
    encrypted, both = tmp_path / "key.pem", tmp_path / "both.pem"
    command = [openssl, "pkey", "-aes128", "-passout", "pass:s3cret", "-in", certificate.key_path]
    subprocess.run([*command, "-out", str(encrypted)], check=True, capture_output=True)
    both.write_text(Path(certificate.path).read_text() + encrypted.read_text())
    for cert in (str(both), (certificate.path, str(encrypted))):
        text = refusal(secure.url(), OptionError, verify=certificate.path, cert=cert)
        assert "encrypted" in text
        with pytest.raises(OptionError, match="encrypted"):
            upload(secure.url(""), verify=certificate.path, cert=cert)


def test_files_that_hold_no_certificates_are_named(
    secure: FaultServer, certificate: Certificate, tmp_path: Path
) -> None:
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("hello\n")
    for options in (
        {"verify": str(nothing)},
        {"verify": str(tmp_path / "none.pem")},
        {"verify": certificate.path, "cert": certificate.path},
        {"verify": certificate.path, "cert": str(tmp_path / "none.pem")},
        {"verify": certificate.path, "cert": (certificate.path, str(nothing))},
    ):
        cert = options.get("cert", options["verify"])
        text = refusal(secure.url(), OptionError, **options)
        assert (cert if isinstance(cert, str) else cert[1]) in text
        with pytest.raises(OptionError):
            upload(secure.url(""), **options)
    other = make_certificate(tmp_path)
    text = refusal(secure.url(), OptionError, cert=(certificate.path, other.key_path))
    assert "does not belong" in text


@pytest.mark.slow
@pytest.mark.parametrize("variable", AUTHORITY_VARIABLES)
def test_the_environment_names_authorities_for_reading_and_writing(
    certificate: Certificate, variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = certificate.path
    if variable == "SSL_CERT_DIR":
        folder = tmp_path / "authorities"
        folder.mkdir()
        command = ["openssl", "x509", "-noout", "-subject_hash", "-in", path]
        name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        shutil.copy(path, folder / f"{name}.0")
        path = str(folder)
    context = certificate.context()
    with scripted_store(stored, tls=context) as (endpoint, calls):
        assert "authority" in refusal(f"{endpoint}/k")
        with pytest.raises(SourceError, match="certificate was refused"):
            upload(endpoint)
        monkeypatch.setenv(variable, path)
        assert read(f"{endpoint}/k") == DATA
        upload(endpoint)
    assert [call.method for call in calls] == ["GET", "PUT"]


def stored(call: Call) -> Answer:
    return range_answer(call, DATA) if call.method == "GET" else Answer(headers={"ETag": '"1"'})


def test_an_option_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert authorities(True) is True
    monkeypatch.setenv("SSL_CERT_FILE", "/a")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/b")
    assert authorities(True) == "/b"
    assert authorities(True, "/aws") == "/aws"
    assert authorities("/c") == "/c"
    assert authorities(False) is False


def test_nothing_warns_of_what_was_asked_for(certificate: Certificate) -> None:
    context = certificate.context()
    with warnings.catch_warnings(), scripted_store(stored, tls=context) as (endpoint, _):
        warnings.simplefilter("error")
        assert read(f"{endpoint}/k", verify=False) == DATA
        upload(endpoint, verify=False)


# Ports with another protocol.


def test_schemes_that_a_port_does_not_speak(nginx: Nginx, secure: FaultServer) -> None:
    (nginx.root / "m").write_bytes(b"x")
    assert "use http://" in refusal(nginx.http.replace("http:", "https:") + "/m")
    assert "https://" in refusal(nginx.https.replace("https:", "http:") + "/m")  # a page says it
    with pytest.raises(SourceError, match="use http://"):
        upload(nginx.http.replace("http:", "https:"))


@pytest.mark.parametrize(
    ("greeting", "words"),
    [
        (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + bytes(18), "only speaks HTTP/2"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "use https://"),
    ],
)
def test_ports_that_answer_in_another_protocol(greeting: bytes, words: str) -> None:
    with FaultServer(DATA) as server:
        server.always = Fault(raw=greeting)
        assert words in refusal(server.url())
        assert len(server.requests) == 1


def test_a_client_certificate_that_is_wanted_is_asked_for(certificate: Certificate) -> None:
    context = certificate.context()
    context.load_verify_locations(certificate.path)
    context.verify_mode = ssl.CERT_REQUIRED
    # In later versions, the refusal follows the handshake, and may be lost with the connection.
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with FaultServer(DATA, tls=context) as server:
        assert "http.cert" in refusal(server.url(), verify=certificate.path)


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (b"<h1>400 Bad Request</h1>The plain HTTP request was sent to HTTPS port", "https://"),
        (b"Client sent an HTTP request to an HTTPS server.\n", "https://"),
        (b"<h1>400</h1>No required SSL certificate was sent", "http.cert"),
        (b"s3cret", "400 Bad Request"),
    ],
)
def test_pages_of_servers_that_say_what_is_wrong(page: bytes, words: str) -> None:
    with FaultServer(DATA) as server:
        server.always = Fault(status=400, body=page)
        text = refusal(server.url())
    assert words in text
    assert "s3cret" not in text


# Proxies.


@pytest.mark.parametrize(
    ("no_proxy", "is_direct"),
    [("", False), ("127.0.0.0/8", True), ("127.0.0.1", True), ("10.0.0.0/8", False), ("*", True)],
)
def test_proxies_are_left_out_alike_for_reading_and_writing(
    no_proxy: str, is_direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:s3cret@127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    with scripted_store(stored) as (endpoint, calls):
        assert bool(proxies_for(endpoint, HttpOptions())) != is_direct
        if is_direct:
            assert read(f"{endpoint}/k") == DATA
            upload(endpoint)
        else:
            http = HttpOptions()
            client = make_client(make_session(S3Options()), S3Options(endpoint=endpoint), http)
            proxy = client.meta.config.proxies["http"]
            assert proxy == "http://user:s3cret@127.0.0.1:9"
            client.close()
    assert len(calls) == (2 if is_direct else 0)


def test_a_connection_to_a_port_that_hangs_up_is_tried_again() -> None:
    """Only errors that are certain to repeat are final."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepted: list[int] = []

        def hang_up() -> None:
            for _ in range(3):
                connection, _address = listener.accept()
                accepted.append(1)
                connection.close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        retry = RetryPolicy(attempts=3, backoff_s=0.01)
        with pytest.raises(SourceError, match="3 tries"):
            read(f"http://127.0.0.1:{listener.getsockname()[1]}/k", retry=retry)
        thread.join(5)
    assert len(accepted) == 3
