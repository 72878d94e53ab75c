"""Every option of libtz as frozen values, defined once and passed whole.

Each is checked when it is made, so that a mistake is an `OptionError` at the line that made it. No
`repr` shows a secret: header values, keys and proxy addresses are left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from libtz.errors import OptionError
from libtz.sodium import KEY_SIZE

__all__ = [
    "DecryptionOptions",
    "HttpOptions",
    "ReadOptions",
    "RetryPolicy",
    "S3Options",
    "SecretMapping",
    "WriteOptions",
]

KIB = 1024
MIB = 1024 * KIB

# Bounds of the format (spec, limits): chunks are a power of two between these.
CHUNK_SIZE_MIN = 64 * KIB
CHUNK_SIZE_MAX = 64 * MIB

# Below this a request costs more in turn-around than in bytes, even on loopback.
REQUEST_SIZE_MIN = 64 * KIB
# Room for a few chunks of the usual 1 MiB on their way; larger chunks may need more than this.
HOST_MEMORY_MIN = 8 * MIB
SSE_KEY_SIZE = 32  # AES-256, the only cipher that S3 has for keys of its customers
# Past this a client is a load test; servers and file-descriptor limits object first.
CONNECTIONS_MAX = 1024

# The source sets these itself: a second opinion would break exact ranges or the pinned identity.
HEADERS_RESERVED = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "host",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "range",
        "transfer-encoding",
    }
)

_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# A header value holds visible latin-1, space and tab. A line break would start another header.
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_ENDPOINT = re.compile(r"https?://[^\s/@?#]+(/[^\s@?#]*)?")


class SecretMapping(Mapping[str, str]):
    """An immutable mapping whose values stay out of `repr`: they may be credentials."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, str]) -> None:
        self._items = dict(items)

    def __getitem__(self, key: str) -> str:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{key!r}: '***'" for key in self._items) + "}"


def _secret_mapping(value: Any, name: str) -> SecretMapping:
    if not isinstance(value, Mapping):
        raise OptionError(f"{name} must be a mapping of str to str, not {type(value).__name__}")
    for key, item in value.items():
        if not isinstance(key, str) or not isinstance(item, str):
            raise OptionError(f"{name}[{key!r}] must map a str to a str")
    return SecretMapping(value)


def _require_seconds(value: Any, name: str, *, zero_ok: bool = False) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0 or (value == 0 and not zero_ok):
        at_least = "at least 0" if zero_ok else "more than 0"
        raise OptionError(f"{name} must be a number of seconds, {at_least}; got {value!r}")


def _require_integer(value: Any, name: str, minimum: int, maximum: int | None = None) -> None:
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if not is_integer or value < minimum or (maximum is not None and value > maximum):
        upper = "" if maximum is None else f" and at most {maximum}"
        raise OptionError(f"{name} must be an integer, at least {minimum}{upper}; got {value!r}")


def _require_bool(value: Any, name: str) -> None:
    if not isinstance(value, bool):
        raise OptionError(f"{name} must be True or False; got {value!r}")


def _require_choice(value: Any, name: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise OptionError(f"{name} must be one of {listed}; got {value!r}")


def _require_type(value: Any, name: str, wanted: type) -> None:
    if not isinstance(value, wanted):
        raise OptionError(f"{name} must be a {wanted.__name__}, not {type(value).__name__}")


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """When to try a request again. Counts start anew whenever a try made progress."""

    attempts: int = 8  # tries without progress, the first one included; 1 means no retry
    backoff_s: float = 0.25  # the first wait; each further one is twice as long, with jitter
    backoff_max_s: float = 15.0
    retry_after_max_s: float = 60.0  # a server may ask for a longer wait by Retry-After, up to this
    deadline_s: float = 300.0  # give up when the last progress is this long ago

    def __post_init__(self) -> None:
        _require_integer(self.attempts, "RetryPolicy.attempts", 1)
        for name in ("backoff_s", "backoff_max_s", "retry_after_max_s"):
            _require_seconds(getattr(self, name), f"RetryPolicy.{name}", zero_ok=True)
        _require_seconds(self.deadline_s, "RetryPolicy.deadline_s")


@dataclass(frozen=True, kw_only=True)
class HttpOptions:
    """How to talk to an HTTP server, an S3 store included."""

    headers: Mapping[str, str] = field(default_factory=dict)  # sent to the URL's own host only
    timeout_s: float = 30.0  # a connection that stalls this long is dropped, and the range resumed
    connect_timeout_s: float = 10.0
    open_deadline_s: float = 600.0  # reading a header, an index or a configuration takes no longer
    # Give up when fewer bytes a second than this come over all connections, averaged over
    # retry.deadline_s; 0: never. A telephone modem brought more; a gigabyte would take three days.
    rate_min: int = 4 * KIB
    verify: bool | str = True  # False trusts any certificate; a path names a CA file or directory
    cert: str | tuple[str, str] | None = None  # client certificate: file, or (file, key file)
    proxies: Mapping[str, str] | None = None  # None: as the environment says; {}: no proxy
    retry: RetryPolicy = field(default_factory=RetryPolicy)

    def __post_init__(self) -> None:
        headers = _secret_mapping(self.headers, "HttpOptions.headers")
        for name, value in headers.items():
            _check_header(name, value)
        if len({name.lower() for name in headers}) != len(headers):
            raise OptionError("HttpOptions.headers names a header twice; case does not count")
        object.__setattr__(self, "headers", headers)
        _require_seconds(self.timeout_s, "HttpOptions.timeout_s")
        _require_seconds(self.connect_timeout_s, "HttpOptions.connect_timeout_s")
        _require_seconds(self.open_deadline_s, "HttpOptions.open_deadline_s")
        _require_integer(self.rate_min, "HttpOptions.rate_min", 0)
        if not isinstance(self.verify, (bool, str)) or self.verify == "":
            raise OptionError("HttpOptions.verify must be True, False or the path of a CA bundle")
        if not _is_certificate(self.cert):
            raise OptionError("HttpOptions.cert must be None, a path, or a (path, key path) tuple")
        if self.proxies is not None:
            proxies = _secret_mapping(self.proxies, "HttpOptions.proxies")
            object.__setattr__(self, "proxies", proxies)
        _require_type(self.retry, "HttpOptions.retry", RetryPolicy)


def _check_header(name: str, value: str) -> None:
    if not _HEADER_NAME.fullmatch(name):
        raise OptionError(f"HttpOptions.headers: {name!r} is not a header name")
    if name.lower() in HEADERS_RESERVED:
        raise OptionError(f"HttpOptions.headers: {name} is set by libtz itself; leave it out")
    if not _HEADER_VALUE.fullmatch(value):
        raise OptionError(
            f"HttpOptions.headers: the value of {name} holds a line break, another control"
            " character or a character outside latin-1"
        )


def _is_certificate(value: Any) -> bool:
    if value is None or (isinstance(value, str) and value):
        return True
    is_pair = isinstance(value, tuple) and len(value) == 2
    return is_pair and all(isinstance(part, str) and part for part in value)


@dataclass(frozen=True, kw_only=True)
class S3Options:
    """Where an S3 store is and who asks. Whatever is None, boto3's own configuration decides."""

    endpoint: str | None = None  # plain HTTP is used only when this says http://
    region: str | None = None
    profile: str | None = None
    anonymous: bool = False  # send unsigned requests
    addressing_style: Literal["auto", "path", "virtual"] | None = None
    version_id: str | None = None  # read this version of the object
    requester_pays: bool = False  # pay for requests to buckets whose owners do not
    # How the store is to encrypt what is written, and with which key of its key service.
    sse: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = None
    sse_kms_key_id: str | None = None
    # A key of your own (SSE-C), 32 bytes: the store encrypts with it, and keeps none of it.
    sse_customer_key: bytes | None = field(default=None, repr=False)
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _require_bool(self.anonymous, "S3Options.anonymous")
        _require_bool(self.requester_pays, "S3Options.requester_pays")
        self._check_strings()
        self._check_encryption()
        if self.addressing_style is not None:
            choices = ("auto", "path", "virtual")
            _require_choice(self.addressing_style, "S3Options.addressing_style", choices)
        if self.endpoint is not None and not _ENDPOINT.fullmatch(self.endpoint):
            raise OptionError(
                "S3Options.endpoint must be http:// or https://, a host, perhaps a port and a path;"
                " credentials belong into access_key_id and secret_access_key"
            )
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise OptionError("S3Options: give access_key_id and secret_access_key together")
        if self.session_token is not None and self.access_key_id is None:
            raise OptionError("S3Options.session_token needs the keys it belongs to")
        if self.anonymous and (self.access_key_id is not None or self.profile is not None):
            raise OptionError("S3Options: anonymous excludes keys and profile")

    def _check_encryption(self) -> None:
        if self.sse is not None:
            _require_choice(self.sse, "S3Options.sse", ("AES256", "aws:kms", "aws:kms:dsse"))
        if self.sse_kms_key_id is not None and not (self.sse or "").startswith("aws:kms"):
            raise OptionError('S3Options.sse_kms_key_id needs sse="aws:kms" or "aws:kms:dsse"')
        key = self.sse_customer_key
        if key is not None and (not isinstance(key, bytes) or len(key) != SSE_KEY_SIZE):
            raise OptionError(f"S3Options.sse_customer_key must be {SSE_KEY_SIZE} bytes")
        if key is not None and self.sse is not None:
            raise OptionError("S3Options: give sse or sse_customer_key, not both")

    def _check_strings(self) -> None:
        for name in (
            "endpoint",
            "region",
            "profile",
            "version_id",
            "sse_kms_key_id",
            "access_key_id",
            "secret_access_key",
            "session_token",
        ):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise OptionError(f"S3Options.{name} must be None or a non-empty str")


@dataclass(frozen=True, kw_only=True)
class DecryptionOptions:
    """How to decrypt .tensors files: with a key, or the passphrase that the key was derived from.
    Give one of the first four. Without the key nobody can change a tensor's values unseen, but take
    away all of them (it is zeros then), or the tensor: `digest="sha256:…"` stops that."""

    key: bytes | None = field(default=None, repr=False)
    passphrase: str | bytes | None = field(default=None, repr=False)
    key_file: str | None = None  # holds the key's 32 bytes
    passphrase_file: str | None = None  # without a line break at its end
    # What deriving a key may cost: a file that asks for more is refused before any work.
    operations_max: int = 4
    memory_max: int = 1024 * MIB

    @property
    def is_given(self) -> bool:
        return self._given() > 0

    def _given(self) -> int:
        sources = (self.key, self.passphrase, self.key_file, self.passphrase_file)
        return sum(source is not None for source in sources)

    def __post_init__(self) -> None:
        if self.key is not None and (not isinstance(self.key, bytes) or len(self.key) != KEY_SIZE):
            raise OptionError(f"DecryptionOptions.key must be {KEY_SIZE} bytes")
        if not isinstance(self.passphrase, (str, bytes, type(None))) or self.passphrase in (
            "",
            b"",
        ):
            raise OptionError("DecryptionOptions.passphrase must be a non-empty str or bytes")
        for name in ("key_file", "passphrase_file"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise OptionError(f"DecryptionOptions.{name} must be None or a path")
        if self._given() > 1:
            raise OptionError("DecryptionOptions: give one of key, passphrase and their files")
        _require_integer(self.operations_max, "DecryptionOptions.operations_max", 1)
        _require_integer(self.memory_max, "DecryptionOptions.memory_max", 8192)


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How to open and load a source."""

    verify: bool = True  # check every chunk's checksum; a pinned digest is checked regardless
    # "copy" reads what is not in the page cache past it; "map" fills it, and later changes show.
    local: Literal["copy", "map"] = "copy"
    host_memory_max: int = 256 * MIB  # beyond the result itself
    # Zeros to make for tensors of .tensors files that have a shape but no values.
    meta_size_max: int = 1024 * MIB
    connections_max: int = 32
    request_size_max: int = 64 * MIB
    progress: bool | None = None  # None: a bar on a terminal only
    http: HttpOptions = field(default_factory=HttpOptions)
    s3: S3Options = field(default_factory=S3Options)
    decryption: DecryptionOptions = field(default_factory=DecryptionOptions)

    def __post_init__(self) -> None:
        _require_bool(self.verify, "ReadOptions.verify")
        _require_choice(self.local, "ReadOptions.local", ("copy", "map"))
        _require_integer(self.host_memory_max, "ReadOptions.host_memory_max", HOST_MEMORY_MIN)
        _require_integer(self.meta_size_max, "ReadOptions.meta_size_max", 0)
        _require_integer(self.connections_max, "ReadOptions.connections_max", 1, CONNECTIONS_MAX)
        _require_integer(self.request_size_max, "ReadOptions.request_size_max", REQUEST_SIZE_MIN)
        if self.progress is not None:
            _require_bool(self.progress, "ReadOptions.progress")
        _require_type(self.http, "ReadOptions.http", HttpOptions)
        _require_type(self.s3, "ReadOptions.s3", S3Options)
        _require_type(self.decryption, "ReadOptions.decryption", DecryptionOptions)


@dataclass(frozen=True, kw_only=True)
class WriteOptions:
    """How to write a file."""

    compress: Literal["auto", "off"] = "auto"
    chunk_size: int | None = None  # decoded bytes per chunk; None lets the writer choose
    http: HttpOptions = field(default_factory=HttpOptions)  # time-outs, TLS and retries of S3
    s3: S3Options = field(default_factory=S3Options)

    def __post_init__(self) -> None:
        _require_choice(self.compress, "WriteOptions.compress", ("auto", "off"))
        if self.chunk_size is not None:
            name = "WriteOptions.chunk_size"
            _require_integer(self.chunk_size, name, CHUNK_SIZE_MIN, CHUNK_SIZE_MAX)
            if self.chunk_size & (self.chunk_size - 1):
                raise OptionError(f"{name} must be a power of two; got {self.chunk_size}")
        _require_type(self.http, "WriteOptions.http", HttpOptions)
        _require_type(self.s3, "WriteOptions.s3", S3Options)
