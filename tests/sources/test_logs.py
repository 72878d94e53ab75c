"""Messages and logs contain no secrets, but all events worth knowing."""

from __future__ import annotations

import logging
import pickle
import traceback
from pathlib import Path

import pytest
import urllib3
from tests.faults.server import Fault, FaultServer

import libtz
import libtz.numpy
from libtz.cli.main import main
from libtz.errors import Error
from libtz.options import HttpOptions, ReadOptions, RetryPolicy, S3Options
from libtz.sources.http import HttpSource
from libtz.sources.url import redacted

DATA = bytes(range(256)) * 4000
QUICK = HttpOptions(retry=RetryPolicy(attempts=3, backoff_s=0.01), proxies={})
S3 = S3Options(endpoint="http://127.0.0.1:1", access_key_id="AKIAONE", secret_access_key="other")

URLS = [
    "http://user:pa/S3CRET@host.invalid/m.tz",
    "http://user:S3CRET?x@host.invalid/m.tz",
    "http://user:S3CRET#x@host.invalid/m.tz",
    "http://user:p@/S3CRET@host.invalid/m.tz",
    "http://user:S3CRET@[::1/m.tz",
    "https://user:S3CRET@host.invalid:99999999/m.tz",
    "https://S3CRET@host.invalid:x/m.tz",
    "https://host.invalid:x/m.tz?token=S3CRET",
    "s3://AKIA:S3CRET@bucket/key.tz",
    "s3://AKIA:a/S3CRET@bucket/key.tz",
    "s3://AKIA:a#S3CRET@bucket/key.tz",
    "s3://AKIA:S3CRET@host:9000@bucket/key.tz",
    "s3://AKIA:S3CRET@bucket",
    "s3://AKIA:S3CRET",
    "s3://bucket/key.tz?X-Amz-Signature=S3CRET",
    "ftp://user:S3CRET@host/m.tz",
    "gs://user:a/S3CRET@host/m.tz",
    "file://user:S3CRET@host/m.tz",
    "file://user:a/S3CRET@host/m.tz",
    "file:///m.tz?S3CRET",
]


@pytest.mark.parametrize("url", URLS)
def test_urls_that_are_refused_are_shown_without_their_secrets(
    url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ReadOptions(http=QUICK, s3=S3)
    with pytest.raises(Error) as caught:
        libtz.open(url, options=options)
    error = caught.value
    assert "S3CRET" not in "".join(traceback.format_exception(error))
    assert "S3CRET" not in repr(error) + repr(vars(error)) + repr(pickle.loads(pickle.dumps(error)))
    own = tmp_path / "own.tz"
    libtz.numpy.save_file({}, own)
    fast = ["--http-retry-attempts", "1", "--s3-endpoint", "http://127.0.0.1:1", "--s3-anonymous"]
    for command in (["load", url], ["inspect", url], ["digest", url], ["convert", str(own), url]):
        assert main([*command, *fast]) != 0
    assert "S3CRET" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://host:8080/a/b", "https://host:8080/a/b"),
        ("https://host/models@v1/m.tz", "https://host/models@v1/m.tz"),
        ("https://u:p@host/m.tz", "https://host/m.tz"),
        ("https://[::1]:80/m.tz", "https://[::1]:80/m.tz"),
        ("s3://bucket/run#3/m.tz", "s3://bucket/run#3/m.tz"),
        ("s3://bucket/a@b/m.tz", "s3://bucket/a@b/m.tz"),
        ("s3://bucket/a?b/m.tz", "s3://bucket/a?***"),
        ("s3://arn:aws:s3:r:1:accesspoint/x/k@v", "s3://arn:aws:s3:r:1:accesspoint/x/k@v"),
    ],
)
def test_urls_without_secrets_are_shown_as_they_are(url: str, text: str) -> None:
    assert redacted(url) == text


@pytest.mark.parametrize("scheme", ["s3", "http"])
def test_no_library_logs_a_signature(scheme: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with FaultServer(b"") as server:
        # urllib3 logs a warning with the whole URL for a head that it cannot parse.
        server.always = Fault(raw=b"HTTP/1.1 404 N\r\nContent-Length: 0\r\n odd\r\n: x\r\n\r\n")
        s3 = S3Options(
            endpoint=server.url(""),
            access_key_id="AKIAONE",
            secret_access_key="S3CRET",
            session_token="S3CRET",
        )
        url = "s3://bucket/key" if scheme == "s3" else server.url("/m?X-Amz-Signature=S3CRET")
        with pytest.raises(Error):
            libtz.open(url, options=ReadOptions(s3=s3, http=QUICK))
        for record in caplog.records:
            text = record.getMessage() + str(record.args) + str(record.exc_info)
            assert "S3CRET" not in text
            assert "Signature" not in text
        # Other users of these libraries still get their logs.
        caplog.clear()
        with urllib3.PoolManager() as pool:
            pool.request("GET", server.url("/other"), retries=False)
        assert any("/other" in record.getMessage() for record in caplog.records)


def test_retries_resumes_and_redirects_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="libtz")
    with FaultServer(DATA) as server:
        server.faults.extend(
            [
                Fault(status=302, headers={"Location": "/there?token=S3CRET"}),
                Fault(status=503),
                None,
                Fault(drop_after=300_000),
            ]
        )
        source = HttpSource(server.url("/here?token=S3CRET"), QUICK)
        source.open(memoryview(bytearray(10)))
        source.read_into(0, len(DATA), [memoryview(bytearray(len(DATA)))])
        server.has_ranges = False
        source.read_into(0, len(DATA), [memoryview(bytearray(len(DATA)))])
        assert "ranges" in source.stats.trouble
        source.close()
    assert {record.name for record in caplog.records} == {"libtz"}
    assert "S3CRET" not in caplog.text
    for words in ("redirected to", "503", "resuming at byte", "try 2 of 3", "ignores ranges"):
        assert words in caplog.text


def test_a_log_is_shown_where_it_is_asked_for(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "m.tz"
    libtz.numpy.save_file({}, path)
    logger = logging.getLogger("libtz")
    before, level = list(logger.handlers), logger.level
    with FaultServer(path.read_bytes()) as server:
        flags = ["--http-retry-backoff-s", "0.01"]
        for arguments, is_shown in (
            (["load", server.url()], False),
            (["-v", "load", server.url()], True),
            (["load", server.url(), "-v"], True),
        ):
            server.faults.append(Fault(status=503))
            try:
                assert main([*arguments, *flags]) == 0
            finally:
                logger.handlers[:], logger.level = before, level
            assert ("trying again" in capsys.readouterr().err) == is_shown
