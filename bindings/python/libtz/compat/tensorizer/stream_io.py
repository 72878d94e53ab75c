"""`tensorizer.stream_io`, implemented with libtz's sources and sinks. See
`libtz.compat.tensorizer` for differences."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from libtz.compat._errors import TypeOptionError, ValueOptionError
from libtz.compat.tensorizer._credentials import COREWEAVE_READ, COREWEAVE_WRITE, s3_options
from libtz.compat.tensorizer._errors import translated
from libtz.errors import OptionError
from libtz.locations import Location, resolve_sink, resolve_source
from libtz.options import HttpOptions, ReadOptions, S3Options, WriteOptions
from libtz.sources.base import Source
from libtz.sources.s3_client import make_session
from libtz.sources.tls import authorities, system_authorities

__all__ = ["CAInfo", "CURLStreamFile", "RedisStreamFile", "open_stream"]

# The default endpoints. Programs may set them.
default_s3_read_endpoint = COREWEAVE_READ
default_s3_write_endpoint = COREWEAVE_WRITE

FRONT_SIZE = 64 * 1024
BUFFER_SIZE = 1 << 20

_NO_REDIS = (
    "libtz does not read redis:// URLs, for which Tensorizer uses neither passwords nor TLS; serve"
    " the file over HTTP or S3"
)


class CAInfo:
    """The certificates to trust: a PEM file, a directory of PEM files, or all certificates. Raises
    ValueError unless exactly one is given."""

    __slots__ = ("_verify",)

    def __init__(
        self,
        *,
        cacert: str | None = None,
        capath: str | None = None,
        allow_untrusted: bool = False,
    ) -> None:
        if (cacert is not None) + (capath is not None) + bool(allow_untrusted) != 1:
            raise ValueOptionError("pass exactly one of cacert, capath and allow_untrusted=True")
        if cacert is not None and not Path(cacert).is_file():
            raise ValueOptionError(f"cacert: there is no file {cacert}")
        if capath is not None and not Path(capath).is_dir():
            raise ValueOptionError(f"capath: there is no directory {capath}")
        self._verify: bool | str = str(cacert or capath) if cacert or capath else False

    @property
    def curl_flags(self) -> Any:
        """Always raises OptionError: libtz does not run curl."""
        raise OptionError("libtz does not run curl; use HttpOptions(verify=…)")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CAInfo) and other._verify == self._verify

    def __hash__(self) -> int:
        return hash(self._verify)


@dataclass(frozen=True)
class RemoteObject:
    """The object that a stream reads or writes, with the options to access it without the
    stream."""

    url: str = field(repr=False)
    http: HttpOptions
    s3: S3Options

    def read_options(self) -> ReadOptions:
        return ReadOptions(http=self.http, s3=self.s3, progress=False)

    def write_options(self) -> WriteOptions:
        return WriteOptions(http=self.http, s3=self.s3)


def open_stream(
    path_uri: Any,
    mode: str = "rb",
    s3_access_key_id: str | None = None,
    s3_secret_access_key: str | None = None,
    s3_endpoint: str | None = None,
    s3_config_path: Any = None,
    buffer_size: int | None = None,
    force_http: bool | None = None,
    *,
    begin: int | None = None,
    end: int | None = None,
    s3_region_name: str | None = None,
    s3_signature_version: str | None = None,
    s3_session_token: str | None = None,
    certificate_handling: CAInfo | None = None,
) -> BinaryIO:
    """Opens a file, or an object under an http(s):// or s3:// URL, as a binary file object.

    HTTP and S3 objects can be read ("rb"): the bytes from `begin` up to, but not including, `end`.
    S3 objects can also be written ("wb", "wb+"). Such an object appears when the stream is closed;
    if a `with` block ends with an error, it does not appear.

    Raises ValueError, TypeError and `libtz.SourceError`.
    """
    letters = frozenset(mode)
    if "b" not in letters or not letters <= set("rwaxb+"):
        raise ValueOptionError(f"mode must be binary, such as 'rb' or 'wb+'; got {mode!r}")
    location = _location(path_uri)
    is_read = letters == {"r", "b"}
    if end is not None and (location.is_local or not is_read):
        raise ValueOptionError("end can only be used for reading from HTTP and S3")
    with translated():
        if location.is_local:
            return _open_local(location.text, mode, buffer_size, begin)
        is_s3 = location.text.startswith("s3://")
        http = HttpOptions(verify=_trusted(certificate_handling, is_s3=is_s3))
        if not is_read and not (location.scheme.is_writable and {"w", "b"} <= letters):
            raise ValueOptionError(f"mode {mode!r}: {_modes(location)}")
        if not is_read and begin:
            raise ValueOptionError("begin can only be used for reading")
        s3 = S3Options()
        if is_s3:
            s3 = s3_options(
                access_key=s3_access_key_id,
                secret_key=s3_secret_access_key,
                endpoint=s3_endpoint,
                config_path=s3_config_path,
                region=s3_region_name,
                session_token=s3_session_token,
                signature=s3_signature_version,
                force_http=force_http,
                is_read=is_read,
                default_endpoint=default_s3_read_endpoint if is_read else default_s3_write_endpoint,
            )
        remote = RemoteObject(location.text, http, s3)
        if is_read:
            return ObjectReader(remote, begin, end, buffer_size or BUFFER_SIZE)
        return ObjectWriter(remote)


def _location(path_uri: Any) -> Location:
    text = path_uri if isinstance(path_uri, os.PathLike) else os.fsdecode(path_uri)
    if str(text).lower().startswith("redis://"):
        raise ValueOptionError(_NO_REDIS)
    try:
        return Location.of(text)
    except OptionError as error:
        raise ValueOptionError(str(error)) from None


def _trusted(certificate_handling: CAInfo | None, *, is_s3: bool = False) -> bool | str:
    """The authorities to trust. By default those that curl trusts."""
    if certificate_handling is not None:
        if not isinstance(certificate_handling, CAInfo):
            found = type(certificate_handling).__name__
            raise TypeOptionError(f"certificate_handling must be a CAInfo or None, not {found}")
        return certificate_handling._verify
    bundle = make_session(S3Options()).get_config_variable("ca_bundle") if is_s3 else None
    return True if authorities(True, bundle) is not True else system_authorities()


def _modes(location: Location) -> str:
    if location.scheme.is_writable:
        return f"{location} can be opened with 'rb', 'wb' or 'wb+'; appending is not possible"
    return f"{location} can only be read"


def _open_local(path: str, mode: str, buffer_size: int | None, begin: int | None) -> BinaryIO:
    if frozenset(mode) & set("wax"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    buffering = -1 if buffer_size is None else buffer_size
    file: Any = open(path, mode, buffering)  # noqa: SIM115, PTH123 - it is returned
    if begin:
        file.seek(begin)
    return file  # type: ignore[no-any-return]


# ---- Reading -------------------------------------------------------------------------------------


class _RawReader(io.RawIOBase):
    """Bytes [begin, end) of a source."""

    def __init__(self, source: Source, begin: int | None, end: int | None) -> None:
        self.source = source
        self._front = memoryview(bytearray(FRONT_SIZE))
        self._front = self._front[: source.open(self._front)]
        self._begin = min(begin or 0, source.size)
        self._end = source.size if end is None else max(self._begin, min(end, source.size))
        self._position = self._begin
        self.read_operations = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position - self._begin

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: self._begin, io.SEEK_CUR: self._position, io.SEEK_END: self._end}
        position = origin[whence] + offset
        if position < self._begin:
            raise ValueOptionError(f"seek to {offset}: before the beginning of the stream")
        self._position = position
        return self.tell()

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._end - self._position))
        if not count:
            return 0
        if self._position + count <= len(self._front):
            view[:count] = self._front[self._position : self._position + count]
        else:
            with translated():
                self.source.read_into(self._position, count, [view[:count]])
        self._position += count
        self.read_operations += 1
        return count

    def close(self) -> None:
        self.source.close()
        super().close()


class ObjectReader(io.BufferedReader):
    """An HTTP or S3 object as a file. A TensorDeserializer does not read this stream: it reads the
    object itself, over several connections."""

    def __init__(
        self, remote: RemoteObject, begin: int | None, end: int | None, buffer_size: int
    ) -> None:
        for name, value in (("begin", begin), ("end", end)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise TypeOptionError(f"{name} must be a number of bytes; got {value!r}")
            if value is not None and value < 0:
                raise ValueOptionError(f"{name} must not be negative; got {value}")
        if end is not None and end <= (begin or 0):
            raise ValueOptionError(f"end must be after begin; got bytes {begin or 0} to {end}")
        source = resolve_source(remote.url, remote.read_options())
        try:
            self._reader = _RawReader(source, begin, end)
        except BaseException:
            source.close()
            raise
        self._is_whole = not begin and end is None
        self._remote = remote
        super().__init__(self._reader, buffer_size)

    @property
    def remote(self) -> RemoteObject | None:
        """The object, if the stream covers all of it; else None."""
        return self._remote if self._is_whole else None

    @property
    def bytes_read(self) -> int:
        """The bytes received from the network."""
        return self._reader.source.stats.bytes

    @property
    def bytes_skipped(self) -> int:
        """Always 0: seeking forward requests another range."""
        return 0

    @property
    def read_operations(self) -> int:
        """The number of reads so far."""
        return self._reader.read_operations

    def __getattr__(self, name: str) -> Any:
        if name in _CURL_ATTRIBUTES:
            raise AttributeError(f"{name} belongs to a curl process, and libtz does not run curl")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


_CURL_ATTRIBUTES = (
    "popen_latencies",
    "http_response_latencies",
    "register_error_context",
    "response_headers",
)


class CURLStreamFile(ObjectReader):
    """An HTTP object as a file. Does not use curl."""

    def __init__(
        self,
        uri: str,
        begin: int | None = None,
        end: int | None = None,
        headers: dict[str, str] | None = None,
        *,
        buffer_size: int | None = None,
        certificate_handling: CAInfo | None = None,
    ) -> None:
        with translated():
            if not uri.lower().startswith(("http://", "https://")):
                raise ValueOptionError(f"{Location.of(uri)} is not an http:// or https:// URL")
            http = HttpOptions(verify=_trusted(certificate_handling), headers=headers or {})
            remote = RemoteObject(uri, http, S3Options())
            super().__init__(remote, begin, end, buffer_size or BUFFER_SIZE)


class RedisStreamFile:
    """Always raises OptionError: libtz does not read redis:// URLs."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise OptionError(_NO_REDIS)


# ---- Writing -------------------------------------------------------------------------------------


class ObjectWriter(io.BufferedRandom):
    """A temporary file that is uploaded when it is closed. A TensorSerializer does not use it: it
    uploads while it writes."""

    def __init__(self, remote: RemoteObject) -> None:
        self.url = remote.url
        self._remote: RemoteObject | None = remote
        super().__init__(tempfile.TemporaryFile(buffering=0))  # noqa: SIM115

    def take(self) -> RemoteObject | None:
        """The object, for a caller that writes it itself; then `close` uploads nothing. None if
        something was already written."""
        if self._remote is None or self.tell() or self.seek(0, io.SEEK_END):
            return None
        remote, self._remote = self._remote, None
        return remote

    def close(self) -> None:
        """Uploads the written bytes."""
        if self.closed:
            return
        remote, self._remote = self._remote, None
        try:
            if remote is not None:
                with translated():
                    self._upload(remote)
        finally:
            super().close()

    def _upload(self, remote: RemoteObject) -> None:
        size = self.seek(0, io.SEEK_END)
        sink = resolve_sink(remote.url, remote.write_options(), header_size=0, file_size_max=size)
        try:
            self.seek(0)
            offset = 0
            while piece := self.read(BUFFER_SIZE):
                sink.write_at(offset, memoryview(piece))
                offset += len(piece)
            sink.commit(size)
        except BaseException:
            sink.abort()
            raise

    def __exit__(self, error_type: Any, *_: object) -> None:
        if error_type is not None:
            self._remote = None
        self.close()

    def __del__(self) -> None:
        # A stream that was not closed may be incomplete.
        self._remote = None
        with contextlib.suppress(ValueError):
            super().close()
