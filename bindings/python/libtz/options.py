"""All options of libtz, as frozen dataclasses.

Values are checked on construction, so a mistake is an `OptionError` at the line that made it. No
`repr` shows a secret: header values, keys and proxy addresses are left out. The command line builds
its flags from these fields and their descriptions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from libtz.errors import OptionError
from libtz.fields import (
    documented,
    option,
    option_group,
    require_bool,
    require_choice,
    require_integer,
    require_not_empty,
    require_seconds,
    require_text,
    require_type,
)
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

# Limits of the format: a chunk size is a power of two in this range.
CHUNK_SIZE_MIN = 64 * KIB
CHUNK_SIZE_MAX = 64 * MIB

# Below this, latency costs more than the transfer, even on loopback.
REQUEST_SIZE_MIN = 64 * KIB
# The first request reads this much of every file.
OPEN_SIZE_MIN = MIB
# Room for a few chunks of the usual 1 MiB in flight; larger chunks may need more.
HOST_MEMORY_MIN = 8 * MIB
SSE_KEY_SIZE = 32  # AES-256, the only cipher that S3 offers for customer keys
# More than this is a load test; servers and file-descriptor limits object first.
CONNECTIONS_MAX = 1024

# The source sets these itself: other values would break exact ranges or the pinned identity.
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
        """The value, in clear."""
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


@documented
@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """When to retry a request. All counts start again after an attempt that made progress."""

    attempts: int = option(8, "attempts without progress before giving up; 1 means no retry")
    backoff_s: float = option(
        0.25, "wait before the first retry; it doubles each time, with jitter", unit="seconds"
    )
    backoff_max_s: float = option(15.0, "longest wait before a retry", unit="seconds")
    retry_after_max_s: float = option(60.0, "longest Retry-After that is honoured", unit="seconds")
    deadline_s: float = option(
        300.0, "give up when no data has arrived for this long", unit="seconds"
    )

    def __post_init__(self) -> None:
        require_integer(self.attempts, "RetryPolicy.attempts", 1)
        for name in ("backoff_s", "backoff_max_s", "retry_after_max_s"):
            require_seconds(getattr(self, name), f"RetryPolicy.{name}", zero_ok=True)
        require_seconds(self.deadline_s, "RetryPolicy.deadline_s")


@documented
@dataclass(frozen=True, kw_only=True)
class HttpOptions:
    """How to talk to an HTTP server or an S3 store."""

    headers: Mapping[str, str] = option(
        SecretMapping({}), "headers to send, only to the host of the URL", has_flag=False
    )
    timeout_s: float = option(
        30.0, "drop a connection that stalls for this long, and resume", unit="seconds"
    )
    connect_timeout_s: float = option(10.0, "give up connecting after this long", unit="seconds")
    open_deadline_s: float = option(
        600.0, "give up when reading a header or index takes longer than this", unit="seconds"
    )
    # Slower than a telephone modem: a gigabyte would take three days.
    rate_min: int = option(
        4 * KIB,
        "give up below this many bytes per second over all connections, averaged over"
        " HttpOptions.retry.deadline_s; 0: never",
        unit="bytes",
    )
    verify: bool | str = option(
        True, "check the server's certificate; or the path of a CA bundle to trust"
    )
    # A str, or a pair: certificate and key.
    cert: str | tuple[str, str] | None = option(
        None, "client certificate with its key, as one PEM file"
    )
    proxies: Mapping[str, str] | None = option(
        None, "proxies by scheme (default: from the environment; {}: none)", has_flag=False
    )
    retry: RetryPolicy = option_group(RetryPolicy, "retries")

    def __post_init__(self) -> None:
        headers = _secret_mapping(self.headers, "HttpOptions.headers")
        for name, value in headers.items():
            _check_header(name, value)
        if len({name.lower() for name in headers}) != len(headers):
            raise OptionError(
                "HttpOptions.headers names a header twice (names are case-insensitive)"
            )
        object.__setattr__(self, "headers", headers)
        require_seconds(self.timeout_s, "HttpOptions.timeout_s")
        require_seconds(self.connect_timeout_s, "HttpOptions.connect_timeout_s")
        require_seconds(self.open_deadline_s, "HttpOptions.open_deadline_s")
        require_integer(self.rate_min, "HttpOptions.rate_min", 0)
        require_not_empty(self.verify, "HttpOptions.verify")
        require_not_empty(self.cert, "HttpOptions.cert")
        if not isinstance(self.verify, (bool, str)):
            raise OptionError("HttpOptions.verify must be True, False or the path of a CA bundle")
        if not _is_certificate(self.cert):
            raise OptionError("HttpOptions.cert must be None, a path, or a (path, key path) tuple")
        if self.proxies is not None:
            proxies = _secret_mapping(self.proxies, "HttpOptions.proxies")
            object.__setattr__(self, "proxies", proxies)
        require_type(self.retry, "HttpOptions.retry", RetryPolicy)


def _check_header(name: str, value: str) -> None:
    if not _HEADER_NAME.fullmatch(name):
        raise OptionError(f"HttpOptions.headers: {name!r} is not a header name")
    if name.lower() in HEADERS_RESERVED:
        raise OptionError(f"HttpOptions.headers: libtz sets {name} itself; leave it out")
    if not _HEADER_VALUE.fullmatch(value):
        raise OptionError(
            f"HttpOptions.headers: the value of {name} contains a line break, another control"
            " character or a character outside latin-1"
        )


def _is_certificate(value: Any) -> bool:
    if value is None or isinstance(value, str):
        return True
    is_pair = isinstance(value, tuple) and len(value) == 2
    return is_pair and all(isinstance(part, str) and part for part in value)


@documented
@dataclass(frozen=True, kw_only=True)
class S3Options:
    """How to reach an S3 store. Options that are None come from boto3's own configuration."""

    # Plain HTTP is used only for an http:// endpoint.
    endpoint: str | None = option(
        None, "URL of an S3-compatible store (default: from boto3's configuration, or AWS)"
    )
    region: str | None = option(None, "the store's region")
    profile: str | None = option(
        None, "profile in the AWS configuration files to take credentials from"
    )
    anonymous: bool = option(False, "send unsigned requests")
    addressing_style: Literal["auto", "path", "virtual"] | None = option(
        None, "how bucket names go into URLs"
    )
    version_id: str | None = option(None, "read this version of the object")
    requester_pays: bool = option(False, "pay for requests to requester-pays buckets")
    sse: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = option(
        None, "server-side encryption of the files that are written", is_writing=True
    )
    sse_kms_key_id: str | None = option(None, "KMS key to encrypt with", is_writing=True)
    sse_customer_key: bytes | None = option(
        None,
        "a 32-byte key of your own, which the store uses and does not keep (SSE-C)",
        has_flag=False,
        repr=False,
    )
    access_key_id: str | None = option(
        None, "access key to sign requests with", has_flag=False, repr=False
    )
    secret_access_key: str | None = option(
        None, "the secret part of that key", has_flag=False, repr=False
    )
    session_token: str | None = option(
        None, "session token of temporary keys", has_flag=False, repr=False
    )

    def __post_init__(self) -> None:
        require_bool(self.anonymous, "S3Options.anonymous")
        require_bool(self.requester_pays, "S3Options.requester_pays")
        self._check_strings()
        self._check_encryption()
        if self.addressing_style is not None:
            choices = ("auto", "path", "virtual")
            require_choice(self.addressing_style, "S3Options.addressing_style", choices)
        if self.endpoint is not None and not _ENDPOINT.fullmatch(self.endpoint):
            raise OptionError(
                "S3Options.endpoint must be an http:// or https:// URL without credentials; set"
                " them up as for boto3, or name a profile in S3Options.profile"
            )
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise OptionError(
                "S3Options.access_key_id and S3Options.secret_access_key must be given together"
            )
        if self.session_token is not None and self.access_key_id is None:
            raise OptionError(
                "S3Options.session_token needs S3Options.access_key_id and"
                " S3Options.secret_access_key"
            )
        if self.anonymous and (self.access_key_id is not None or self.profile is not None):
            raise OptionError(
                "S3Options.anonymous cannot be combined with keys or S3Options.profile"
            )

    def _check_encryption(self) -> None:
        if self.sse is not None:
            require_choice(self.sse, "S3Options.sse", ("AES256", "aws:kms", "aws:kms:dsse"))
        if self.sse_kms_key_id is not None and not (self.sse or "").startswith("aws:kms"):
            raise OptionError(
                "S3Options.sse_kms_key_id needs aws:kms or aws:kms:dsse in S3Options.sse"
            )
        key = self.sse_customer_key
        if key is not None and (not isinstance(key, bytes) or len(key) != SSE_KEY_SIZE):
            raise OptionError(f"S3Options.sse_customer_key must be {SSE_KEY_SIZE} bytes")
        if key is not None and self.sse is not None:
            raise OptionError("S3Options.sse cannot be combined with S3Options.sse_customer_key")

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
            require_text(getattr(self, name), f"S3Options.{name}")


@documented
@dataclass(frozen=True, kw_only=True)
class DecryptionOptions:
    """How to decrypt .tensors files: with a key, or the passphrase that the key was derived from.
    Give one of the first four. Encryption detects changes to a tensor's values, but not their
    removal (the tensor is then all zeros) or that of the tensor: pin the file with
    `digest="sha256:…"` to detect both."""

    key: bytes | None = option(None, "the key, 32 bytes", has_flag=False, repr=False)
    passphrase: str | bytes | None = option(
        None, "the passphrase that the key was derived from", has_flag=False, repr=False
    )
    key_file: str | None = option(None, "file that holds the 32-byte key of an encrypted file")
    # One line break at the end of the file is not part of the passphrase.
    passphrase_file: str | None = option(
        None, "file that holds the passphrase that the key was derived from"
    )
    # A file that needs more is refused before any work is done.
    operations_max: int = option(4, "passes that key derivation may take")
    memory_max: int = option(1024 * MIB, "memory that key derivation may take", unit="bytes")

    @property
    def is_given(self) -> bool:
        """Whether a key or passphrase is set."""
        return bool(self.given)

    @property
    def given(self) -> list[str]:
        """The options that are set to a key or passphrase (at most one), as messages name them."""
        names = ("key", "passphrase", "key_file", "passphrase_file")
        return [f"DecryptionOptions.{name}" for name in names if getattr(self, name) is not None]

    def __post_init__(self) -> None:
        if self.key is not None and (not isinstance(self.key, bytes) or len(self.key) != KEY_SIZE):
            raise OptionError(f"DecryptionOptions.key must be {KEY_SIZE} bytes")
        if not isinstance(self.passphrase, (str, bytes, type(None))) or self.passphrase in (
            "",
            b"",
        ):
            raise OptionError("DecryptionOptions.passphrase must be a non-empty str or bytes")
        for name in ("key_file", "passphrase_file"):
            require_text(getattr(self, name), f"DecryptionOptions.{name}")
        if len(self.given) > 1:
            raise OptionError(f"give only one of {' and '.join(self.given)}")
        require_integer(self.operations_max, "DecryptionOptions.operations_max", 1)
        require_integer(self.memory_max, "DecryptionOptions.memory_max", 8192)


@documented
@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How to open and load a source."""

    verify: bool = option(
        True, "check every chunk's checksum; a pinned digest is always checked", is_loading=True
    )
    # "copy" reads around the page cache where the data is not in it; "map" fills the cache.
    local: Literal["copy", "map"] = option(
        "copy",
        "copy local files into memory, or map them (tensors then show later changes to the file)",
        is_loading=True,
    )
    host_memory_max: int = option(
        256 * MIB, "host memory to use on top of the tensors", unit="bytes", is_loading=True
    )
    # None: `libtz.machine.memory_size`, which knows control groups. Device loads have no default.
    decoded_size_max: int | None = option(
        None,
        "most bytes to decode in one load, or for one tensor of an iteration (default: this"
        " machine's memory)",
        unit="bytes",
        is_loading=True,
    )
    open_size_max: int = option(
        1024 * MIB, "most bytes of a header to read when opening", unit="bytes"
    )
    meta_size_max: int = option(
        1024 * MIB,
        "most memory to fill with zeros for tensors that a .tensors file stores no values for",
        unit="bytes",
        is_loading=True,
    )
    connections_max: int = option(32, "most parallel requests to a server", is_loading=True)
    request_size_max: int = option(
        64 * MIB, "most bytes to read in one request", unit="bytes", is_loading=True
    )
    progress: bool | None = option(None, "show a progress bar (default: on a terminal)")
    http: HttpOptions = option_group(HttpOptions, "HTTP (and S3)")
    s3: S3Options = option_group(S3Options, "S3")
    decryption: DecryptionOptions = option_group(DecryptionOptions, "encrypted .tensors files")

    def __post_init__(self) -> None:
        require_bool(self.verify, "ReadOptions.verify")
        require_choice(self.local, "ReadOptions.local", ("copy", "map"))
        require_integer(self.host_memory_max, "ReadOptions.host_memory_max", HOST_MEMORY_MIN)
        if self.decoded_size_max is not None:
            require_integer(self.decoded_size_max, "ReadOptions.decoded_size_max", 0)
        require_integer(self.open_size_max, "ReadOptions.open_size_max", OPEN_SIZE_MIN)
        require_integer(self.meta_size_max, "ReadOptions.meta_size_max", 0)
        require_integer(self.connections_max, "ReadOptions.connections_max", 1, CONNECTIONS_MAX)
        require_integer(self.request_size_max, "ReadOptions.request_size_max", REQUEST_SIZE_MIN)
        if self.progress is not None:
            require_bool(self.progress, "ReadOptions.progress")
        require_type(self.http, "ReadOptions.http", HttpOptions)
        require_type(self.s3, "ReadOptions.s3", S3Options)
        require_type(self.decryption, "ReadOptions.decryption", DecryptionOptions)


@documented
@dataclass(frozen=True, kw_only=True)
class WriteOptions:
    """How to write a file."""

    compress: Literal["auto", "off"] = option(
        "auto", "compress chunks where it saves space, or never"
    )
    chunk_size: int | None = option(
        None,
        "decoded bytes per chunk, a power of two from 64K to 64M (default: by file size)",
        unit="bytes",
    )
    http: HttpOptions = option_group(HttpOptions, "HTTP (and S3)")
    s3: S3Options = option_group(S3Options, "S3")

    def __post_init__(self) -> None:
        require_choice(self.compress, "WriteOptions.compress", ("auto", "off"))
        if self.chunk_size is not None:
            name = "WriteOptions.chunk_size"
            require_integer(self.chunk_size, name, CHUNK_SIZE_MIN, CHUNK_SIZE_MAX)
            if self.chunk_size & (self.chunk_size - 1):
                raise OptionError(f"{name} must be a power of two; got {self.chunk_size}")
        require_type(self.http, "WriteOptions.http", HttpOptions)
        require_type(self.s3, "WriteOptions.s3", S3Options)
