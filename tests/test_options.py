"""Options are checked on construction and show no secrets; errors survive pickling."""

from __future__ import annotations

import dataclasses
import io
import pickle
from typing import Any

import pytest

import libtz
import libtz.sets
import libtz.signatures
from libtz.errors import OptionError
from libtz.options import HttpOptions, ReadOptions, RetryPolicy, S3Options, WriteOptions

KEYS: dict[str, Any] = {"access_key_id": "AKIA", "secret_access_key": "s3cret"}


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        (RetryPolicy, {"attempts": 0}),
        (RetryPolicy, {"attempts": 1.5}),
        (RetryPolicy, {"attempts": True}),
        (RetryPolicy, {"backoff_s": -1}),
        (RetryPolicy, {"backoff_max_s": "1"}),
        (RetryPolicy, {"retry_after_max_s": float("nan")}),
        (RetryPolicy, {"deadline_s": 0}),
        (RetryPolicy, {"deadline_s": float("inf")}),
        (HttpOptions, {"timeout_s": 0}),
        (HttpOptions, {"connect_timeout_s": None}),
        (HttpOptions, {"verify": ""}),
        (HttpOptions, {"verify": 1.0}),
        (HttpOptions, {"cert": ("a", "b", "c")}),
        (HttpOptions, {"cert": ("a", None)}),
        (HttpOptions, {"proxies": "http://proxy"}),
        (HttpOptions, {"proxies": {"http": None}}),
        (HttpOptions, {"retry": None}),
        (HttpOptions, {"headers": None}),
        (HttpOptions, {"headers": [("a", "b")]}),
        (HttpOptions, {"headers": {"X": 1}}),
        (HttpOptions, {"headers": {"X Y": "1"}}),
        (HttpOptions, {"headers": {"": "1"}}),
        (HttpOptions, {"headers": {"X": "s3cret\r\nY: 2"}}),
        (HttpOptions, {"headers": {"X": "s3cret\N{SNOWMAN}"}}),
        (HttpOptions, {"headers": {"X": "s3cret", "x": "s3cret"}}),
        (HttpOptions, {"headers": {"Range": "bytes=0-1"}}),
        (HttpOptions, {"headers": {"accept-encoding": "gzip"}}),
        (HttpOptions, {"headers": {"IF-MATCH": "*"}}),
        (S3Options, {"endpoint": "host:9000"}),
        (S3Options, {"endpoint": "http://AKIA:s3cret@host"}),
        (S3Options, {"endpoint": "http://host?x=s3cret"}),
        (S3Options, {"region": ""}),
        (S3Options, {"profile": 7}),
        (S3Options, {"anonymous": 1}),
        (S3Options, {"addressing_style": "dns"}),
        (S3Options, {"access_key_id": "AKIA"}),
        (S3Options, {"secret_access_key": "s3cret"}),
        (S3Options, {"session_token": "s3cret"}),
        (S3Options, {"anonymous": True, **KEYS}),
        (S3Options, {"anonymous": True, "profile": "p"}),
        (ReadOptions, {"verify": None}),
        (ReadOptions, {"local": "mmap"}),
        (ReadOptions, {"host_memory_max": 1000}),
        (ReadOptions, {"connections_max": 0}),
        (ReadOptions, {"connections_max": 100_000}),
        (ReadOptions, {"request_size_max": 1}),
        (ReadOptions, {"progress": "yes"}),
        (ReadOptions, {"http": {}}),
        (ReadOptions, {"s3": None}),
        (WriteOptions, {"compress": True}),
        (WriteOptions, {"chunk_size": 1 << 15}),
        (WriteOptions, {"chunk_size": 1 << 27}),
        (WriteOptions, {"chunk_size": 3 << 16}),
        (WriteOptions, {"s3": HttpOptions()}),
    ],
)
def test_mistakes_are_found_where_they_are_made(options: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(OptionError) as caught:
        options(**arguments)
    assert options.__name__ in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_what_is_valid_is_accepted() -> None:
    HttpOptions(headers={"X-Token": "a b\tc\xe9"}, verify="/ca", cert=("a", "b"), proxies={})
    S3Options(endpoint="https://host:9000/storage/s3", addressing_style="virtual", **KEYS)
    S3Options(endpoint="http://[::1]:9000", anonymous=True, region="eu-west-3")
    ReadOptions(local="map", connections_max=1, progress=False)
    WriteOptions(chunk_size=1 << 20)


def options_with_secrets() -> ReadOptions:
    http = HttpOptions(
        headers={"Authorization": "Bearer s3cret"}, proxies={"http": "http://u:s3cret@proxy"}
    )
    s3 = S3Options(session_token="s3cret", **KEYS)
    return ReadOptions(http=http, s3=s3)


def test_no_repr_shows_a_secret() -> None:
    text = repr(options_with_secrets())
    assert "s3cret" not in text
    assert "AKIA" not in text
    assert "Authorization" in text


def test_options_are_values() -> None:
    options = options_with_secrets()
    assert options == options_with_secrets()
    assert hash(options) == hash(options_with_secrets())
    assert pickle.loads(pickle.dumps(options)) == options
    assert dataclasses.replace(options, verify=False).http == options.http
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.verify = False  # type: ignore[misc]
    headers = {"X": "1"}
    kept = HttpOptions(headers=headers)
    headers["X"] = "2"
    assert kept.headers == {"X": "1"}


@pytest.mark.parametrize("wrong", [{}, 7, "fast", WriteOptions()])
def test_other_things_than_options_are_refused(wrong: Any) -> None:
    for use in (
        lambda: libtz.open(b"", options=wrong),
        lambda: libtz.sets.digest("folder", options=wrong),
        lambda: libtz.signatures.write_pin("model.tz", options=wrong),
    ):
        with pytest.raises(OptionError, match="options must be a ReadOptions"):
            use()
    if isinstance(wrong, WriteOptions):
        wrong = libtz.ReadOptions()
    with pytest.raises(OptionError, match="options must be a WriteOptions"):
        libtz.Writer(io.BytesIO(), [], options=wrong)


@pytest.mark.parametrize("specs", [[("a", "f32", (2,))], ["a"], [None]])
def test_other_things_than_specs_are_refused(specs: Any) -> None:
    with pytest.raises(OptionError, match="must be a TensorSpec"):
        libtz.Writer(io.BytesIO(), specs)
