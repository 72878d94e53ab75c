"""HttpSource across hosts: redirects, credentials, proxies and TLS."""

from __future__ import annotations

import base64
import contextlib
import os
import random
import socket
import threading
from collections.abc import Iterator

import pytest
from tests.faults.server import Fault, FaultServer
from tests.servers import Certificate, Nginx

from libtz.errors import OptionError, SourceError
from libtz.options import HttpOptions, RetryPolicy
from libtz.sources.http import HttpSource
from libtz.sources.url import redacted

DATA = random.Random(8).randbytes(300_000)
QUICK = RetryPolicy(attempts=3, backoff_s=0.01, backoff_max_s=0.02)
OPTIONS = HttpOptions(retry=QUICK, timeout_s=5, proxies={})
SECRETS = {"Authorization": "Bearer s3cret", "Cookie": "id=s3cret", "X-Token": "s3cret"}
WITH_SECRETS = HttpOptions(retry=QUICK, timeout_s=5, proxies={}, headers=SECRETS)


@pytest.fixture
def first() -> Iterator[FaultServer]:
    with FaultServer(DATA) as server:
        yield server


@pytest.fixture
def second() -> Iterator[FaultServer]:
    with FaultServer(DATA) as server:
        yield server


@pytest.fixture
def secure(certificate: Certificate) -> Iterator[FaultServer]:
    with FaultServer(DATA, tls=certificate.context()) as server:
        yield server


def to(url: str, status: int = 302) -> Fault:
    return Fault(status=status, headers={"Location": url})


def opened(url: str, options: HttpOptions = OPTIONS) -> HttpSource:
    source = HttpSource(url, options)
    try:
        source.open(memoryview(bytearray(100)))
    except BaseException:
        source.close()
        raise
    return source


def refused(url: str, options: HttpOptions = OPTIONS) -> SourceError:
    with pytest.raises(SourceError) as caught:
        opened(url, options)
    assert "s3cret" not in str(caught.value)
    return caught.value


def check(source: HttpSource, offset: int = 0, size: int = len(DATA)) -> None:
    data = bytearray(size)
    source.read_into(offset, size, [memoryview(data)])
    assert data == DATA[offset : offset + size]


# Redirects.


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed_and_remembered(
    first: FaultServer, second: FaultServer, status: int
) -> None:
    first.always = to(second.url("/elsewhere?signature=1"), status)
    source = opened(first.url())
    check(source)
    check(source)
    source.close()
    assert len(first.requests) == 1
    assert [request.target for request in second.requests] == ["/elsewhere?signature=1"] * 3
    assert source.url == first.url()


def test_relative_redirects_keep_the_credentials(first: FaultServer) -> None:
    first.faults.extend([to("other%20name?a=b", 307), to("/third", 307)])
    source = opened(first.url("/x/model"), WITH_SECRETS)
    check(source)
    source.close()
    targets = [request.target for request in first.requests]
    assert targets == ["/x/model", "/x/other%20name?a=b", "/third", "/third"]
    assert all(request.headers["authorization"] == "Bearer s3cret" for request in first.requests)


def test_credentials_do_not_follow_to_another_host(first: FaultServer, second: FaultServer) -> None:
    first.always = to(second.url())
    source = opened(first.url(), WITH_SECRETS)
    check(source)
    source.close()
    assert first.requests[0].headers["x-token"] == "s3cret"
    for request in second.requests:
        assert "s3cret" not in str(request)
        assert request.headers["range"]


def test_credentials_do_not_come_back_with_a_redirect_that_leads_back(
    first: FaultServer, second: FaultServer
) -> None:
    first.faults.append(to(second.url()))
    second.faults.append(to(first.url("/admin")))
    opened(first.url(), WITH_SECRETS).close()
    assert first.requests[1].target == "/admin"
    assert "s3cret" not in str(first.requests[1])


def test_userinfo_becomes_basic_authorization_and_is_never_shown(
    first: FaultServer, second: FaultServer
) -> None:
    first.faults.extend([Fault(), Fault(), to(second.url())])
    url = first.url("/a?sig=s3cret#frag").replace("//", "//user%40x:s3cret@")
    source = opened(url)
    check(source)
    check(source)
    source.close()
    expected = "Basic " + base64.b64encode(b"user@x:s3cret").decode()
    assert all(request.headers["authorization"] == expected for request in first.requests)
    assert all(request.target == "/a?sig=s3cret" for request in first.requests)
    assert "authorization" not in second.requests[0].headers
    assert source.url == first.url("/a")
    second.always = Fault(status=401)
    first.always = to(second.url("/a?sig=s3cret").replace("//", "//user:s3cret@"))
    assert "where no credentials are sent" in str(refused(url))


def test_an_expired_target_is_asked_for_anew_once(first: FaultServer, second: FaultServer) -> None:
    for status in (400, 401, 403, 404, 410):
        first.requests.clear()
        first.always = to(second.url("/signed?1"))
        source = opened(first.url())
        second.faults.append(Fault(status=status))
        first.always = to(second.url("/signed?2"))
        check(source)
        assert second.requests[-1].target == "/signed?2"
        second.always = Fault(status=status)
        with pytest.raises(SourceError) as caught:
            check(source)
        assert caught.value.status == status
        assert f"redirects led to {second.url('/signed')}" in str(caught.value)
        assert len(first.requests) == 3
        second.always = None
        check(source)
        source.close()


def test_an_expired_target_is_not_asked_again(first: FaultServer, second: FaultServer) -> None:
    first.faults.append(to(second.url()))
    source = opened(first.url())
    second.always = Fault(status=403)
    check(source)
    check(source)
    source.close()
    assert len(second.requests) == 2
    assert len(first.requests) == 3


def test_a_location_in_raw_utf8_is_understood(first: FaultServer) -> None:
    first.faults.append(to("/modèle".encode().decode("latin-1")))
    opened(first.url()).close()
    assert first.requests[1].target == "/mod%C3%A8le"


def test_a_dead_target_is_left_for_a_new_one(first: FaultServer, second: FaultServer) -> None:
    first.always = to(second.url())
    source = opened(first.url())
    second.close()
    first.always = None
    check(source)
    source.close()
    assert source.stats.retries == 1


def test_a_target_must_serve_the_same_object(first: FaultServer, second: FaultServer) -> None:
    first.always = to(second.url("/1"))
    source = opened(first.url())
    second.etag = '"other"'
    with pytest.raises(SourceError, match="changed"):
        check(source)
    source.close()


@pytest.mark.parametrize(
    ("location", "message"),
    [
        (None, "without a Location"),
        ("ftp://host/x", "other than an HTTP URL"),
        ("file:///etc/passwd", "other than an HTTP URL"),
        ("http://[::1/x", "other than an HTTP URL"),
        ("http://host:port/", "other than an HTTP URL"),
    ],
)
def test_redirects_to_nowhere_are_refused(
    first: FaultServer, location: str | None, message: str
) -> None:
    first.always = Fault(status=302, headers={"Location": location})
    error = refused(first.url())
    assert message in str(error)
    assert not error.retryable
    assert len(first.requests) == 1


def test_redirects_in_a_circle_end(first: FaultServer, second: FaultServer) -> None:
    first.always = to(second.url())
    second.always = to(first.url())
    assert "more than 5 redirects" in str(refused(first.url()))
    assert len(first.requests) + len(second.requests) == 6


def test_leaving_https_for_http_is_refused(
    secure: FaultServer, first: FaultServer, certificate: Certificate
) -> None:
    secure.always = to(first.url("/x?s3cret"))
    options = HttpOptions(verify=certificate.path, proxies={}, retry=QUICK)
    assert "not encrypted" in str(refused(secure.url(), options))
    assert first.requests == []


def test_http_may_lead_to_https_without_credentials(
    secure: FaultServer, first: FaultServer, certificate: Certificate
) -> None:
    first.always = to(secure.url())
    options = HttpOptions(verify=certificate.path, proxies={}, headers=SECRETS)
    source = opened(first.url(), options)
    check(source)
    source.close()
    assert "s3cret" not in str(secure.requests)


# Requests and messages.


def test_urls_are_sent_quoted_and_shown_without_secrets(first: FaultServer) -> None:
    opened(first.url("/a b/ü%2Fc%20d?x=1 2")).close()
    assert first.requests[0].target == "/a%20b/%C3%BC%2Fc%20d?x=1%202"
    assert redacted("https://u:p@h:1/a/b?q#f") == "https://h:1/a/b"
    assert redacted("https://u:p@h?q@x") == "https://***@x"
    assert redacted("https://h/a\nb") == r"https://h/a\nb"


def test_own_headers_are_sent_once(first: FaultServer) -> None:
    opened(first.url(), HttpOptions(headers={"user-agent": "mine"}, proxies={})).close()
    opened(first.url()).close()
    assert [request.headers["user-agent"] for request in first.requests] == ["mine", "libtz"]


# Proxies.


def test_a_proxy_gets_the_whole_url_and_its_own_credentials(first: FaultServer) -> None:
    proxy = first.url("").replace("//", "//user:s3cret@")
    source = opened("http://far.invalid/model?a=b", HttpOptions(proxies={"http": proxy}))
    check(source)
    source.close()
    assert {request.target for request in first.requests} == {"http://far.invalid/model?a=b"}
    assert {request.headers["host"] for request in first.requests} == {"far.invalid"}
    expected = "Basic " + base64.b64encode(b"user:s3cret").decode()
    assert first.requests[0].headers["proxy-authorization"] == expected


def test_the_environment_names_proxies_unless_options_do(
    first: FaultServer, second: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", first.url(""))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    opened("http://far.invalid/model", HttpOptions()).close()
    assert len(first.requests) == 1
    opened(second.url(), HttpOptions(proxies={})).close()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    opened(second.url(), HttpOptions()).close()
    assert len(first.requests) == 1


def test_a_proxy_that_is_no_url_is_an_option_error(first: FaultServer) -> None:
    for proxy in ("http://", "http://user:s3cret@[x", "http://:s3cret@h:port"):
        with pytest.raises(OptionError) as caught:
            opened(first.url(), HttpOptions(proxies={"http": proxy}))
        assert "s3cret" not in str(caught.value)


@contextlib.contextmanager
def tunnel_proxy(answer: bytes) -> Iterator[str]:
    """A proxy that accepts CONNECT, and then forwards one connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                with client:
                    request = client.recv(65536).decode()
                    client.sendall(answer)
                    if b"200" in answer:
                        host, _, port = request.split(" ")[1].partition(":")
                        with socket.create_connection((host, int(port))) as server:
                            back = threading.Thread(target=pump, args=(server, client))
                            back.start()
                            pump(client, server)
                            back.join()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def test_https_goes_through_a_tunnel(secure: FaultServer, certificate: Certificate) -> None:
    with tunnel_proxy(b"HTTP/1.1 200 OK\r\n\r\n") as proxy:
        options = HttpOptions(verify=certificate.path, proxies={"https": proxy}, retry=QUICK)
        source = opened(secure.url(), options)
        check(source)
        source.close()


def test_a_tunnel_that_is_refused_is_final(secure: FaultServer, certificate: Certificate) -> None:
    with tunnel_proxy(b"HTTP/1.1 407 \x1b[0mno\r\n\r\n") as proxy:
        options = HttpOptions(verify=certificate.path, proxies={"https": proxy}, retry=QUICK)
        error = refused(secure.url(), options)
    assert "407" in str(error)
    assert str(error).isprintable()
    assert not error.retryable


# TLS.


def test_a_certificate_nobody_vouches_for_is_refused_at_once(secure: FaultServer) -> None:
    error = refused(secure.url())
    assert "certificate was refused" in str(error)
    assert "ReadOptions.http.verify" in str(error)
    assert not error.retryable


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_not_verifying_is_possible(secure: FaultServer) -> None:
    source = opened(secure.url(), HttpOptions(verify=False, proxies={}))
    check(source)
    source.close()


def test_a_missing_authority_file_is_an_option_error(secure: FaultServer) -> None:
    with pytest.raises(OptionError, match="no-such-file"):
        opened(secure.url(), HttpOptions(verify="/no-such-file.pem", proxies={}))


def test_closing_wakes_a_reader_in_a_tls_handshake() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        source = HttpSource(f"https://127.0.0.1:{listener.getsockname()[1]}/x", OPTIONS)
        caught: list[SourceError] = []

        def work() -> None:
            try:
                source.open(memoryview(bytearray(10)))
            except SourceError as error:
                caught.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        client, _ = listener.accept()
        with client:
            assert client.recv(10)  # the handshake has begun, and gets no response
            source.close()
            thread.join(3)
        assert not thread.is_alive()
        assert "closed" in str(caught[0])


# A real server.


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_nginx_serves_ranges(nginx: Nginx, scheme: str) -> None:
    path = nginx.root / "model.bin"
    path.write_bytes(DATA)
    base = nginx.http if scheme == "http" else nginx.https
    options = HttpOptions(verify=nginx.certificate.path, proxies={}, retry=QUICK)
    source = opened(f"{base}/model.bin", options)
    assert source.identity is not None
    assert source.identity.startswith('"')
    for offset in range(0, len(DATA), 50_000):
        check(source, offset, 50_000)
    assert source.stats.connections == 1
    path.write_bytes(DATA[::-1])
    os.utime(path, (1, 1))  # nginx makes its ETag from the size and the time in seconds
    with pytest.raises(SourceError, match="changed"):
        check(source)
    source.close()
    assert refused(f"{base}/none", options).status == 404
    (nginx.root / "empty").touch()
    empty = HttpSource(f"{base}/empty", options)
    assert empty.open(memoryview(bytearray(10))) == 0
    assert empty.size == 0
    empty.close()
