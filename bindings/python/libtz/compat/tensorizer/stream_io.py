"""`tensorizer.stream_io` over libtz's sources and sinks. See `libtz.compat.tensorizer` for what
differs."""

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

# Where objects are if nothing else says it; programs may set them.
default_s3_read_endpoint = COREWEAVE_READ
default_s3_write_endpoint = COREWEAVE_WRITE

FRONT_SIZE = 64 * 1024
BUFFER_SIZE = 1 << 20

_NO_REDIS = (
    "libtz does not read redis:// URLs, whose protocol has no passwords and no TLS here; serve the"
    " file by HTTP or S3"
)


class CAInfo:
    """Which certificates to trust: a PEM file, a directory of such, or all. Exactly one."""

    __slots__ = ("_verify",)

    def __init__(
        self,
        *,
        cacert: str | None = None,
        capath: str | None = None,
        allow_untrusted: bool = False,
    ) -> None:
        if (cacert is not None) + (capath is not None) + bool(allow_untrusted) != 1:
            raise ValueOptionError("give exactly one of cacert, capath and allow_untrusted=True")
        if cacert is not None and not Path(cacert).is_file():
            raise ValueOptionError(f"cacert: there is no file {cacert}")
        if capath is not None and not Path(capath).is_dir():
            raise ValueOptionError(f"capath: there is no directory {capath}")
        self._verify: bool | str = str(cacert or capath) if cacert or capath else False

    @property
    def curl_flags(self) -> Any:
        raise OptionError("libtz does not run curl; HttpOptions(verify=…) is what CAInfo becomes")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CAInfo) and other._verify == self._verify

    def __hash__(self) -> int:
        return hash(self._verify)


@dataclass(frozen=True)
class Place:
    """What a stream reads or writes, for those that can do it without the stream."""

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
    """A file, http(s):// or s3:// object as a binary file object.

    Streams of HTTP and S3 are for reading ("rb", bytes from `begin` to before `end`), those of S3
    also for writing ("wb", "wb+"): the object appears when the stream is closed, and never if a
    `with` block ends with an error.
    """
    letters = frozenset(mode)
    if "b" not in letters or not letters <= set("rwaxb+"):
        raise ValueOptionError(f"mode {mode!r} is not a binary one, such as 'rb' or 'wb+'")
    location = _location(path_uri)
    is_read = letters == {"r", "b"}
    if end is not None and (location.is_local or not is_read):
        raise ValueOptionError("end is for reading from HTTP and S3; local files end where they do")
    with translated():
        if location.is_local:
            return _open_local(location.text, mode, buffer_size, begin)
        is_s3 = location.text.startswith("s3://")
        http = HttpOptions(verify=_trusted(certificate_handling, is_s3=is_s3))
        if not is_read and not (location.scheme.is_writable and {"w", "b"} <= letters):
            raise ValueOptionError(f"mode {mode!r}: {_modes(location)}")
        if not is_read and begin:
            raise ValueOptionError("begin is for reading")
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
        place = Place(location.text, http, s3)
        if is_read:
            return ObjectReader(place, begin, end, buffer_size or BUFFER_SIZE)
        return ObjectWriter(place)


def _location(path_uri: Any) -> Location:
    text = path_uri if isinstance(path_uri, os.PathLike) else os.fsdecode(path_uri)
    if str(text).lower().startswith("redis://"):
        raise ValueOptionError(_NO_REDIS)
    try:
        return Location.of(text)
    except OptionError as error:
        raise ValueOptionError(str(error)) from None


def _trusted(certificate_handling: CAInfo | None, *, is_s3: bool = False) -> bool | str:
    """Which authorities: if nothing else names any, those that curl would trust."""
    if certificate_handling is not None:
        if not isinstance(certificate_handling, CAInfo):
            kind = type(certificate_handling).__name__
            raise TypeOptionError(f"certificate_handling is a CAInfo or None, not {kind}")
        return certificate_handling._verify
    bundle = make_session(S3Options()).get_config_variable("ca_bundle") if is_s3 else None
    return True if authorities(True, bundle) is not True else system_authorities()


def _modes(location: Location) -> str:
    if location.scheme.is_writable:
        return f"{location} is opened by 'rb', 'wb' or 'wb+'; nothing can be appended to an object"
    return f"{location} can only be read"


def _open_local(path: str, mode: str, buffer_size: int | None, begin: int | None) -> BinaryIO:
    if frozenset(mode) & set("wax"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    buffering = -1 if buffer_size is None else buffer_size
    file: Any = open(path, mode, buffering)  # noqa: SIM115, PTH123 - it is what is returned
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
            raise ValueOptionError(f"seek to {offset}: before the stream's beginning")
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
    """An HTTP or S3 object as a file. A TensorDeserializer that gets one reads the object itself,
    by several connections, rather than this stream."""

    def __init__(self, place: Place, begin: int | None, end: int | None, buffer_size: int) -> None:
        for name, value in (("begin", begin), ("end", end)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise TypeOptionError(f"{name} is a number of bytes, not {value!r}")
            if value is not None and value < 0:
                raise ValueOptionError(f"{name} is not negative")
        if end is not None and end <= (begin or 0):
            raise ValueOptionError(f"end comes after begin; got bytes {begin or 0} to {end}")
        source = resolve_source(place.url, place.read_options())
        try:
            self._reader = _RawReader(source, begin, end)
        except BaseException:
            source.close()
            raise
        self._is_whole = not begin and end is None
        self._place = place
        super().__init__(self._reader, buffer_size)

    @property
    def place(self) -> Place | None:
        """The object, if this is all of it."""
        return self._place if self._is_whole else None

    @property
    def bytes_read(self) -> int:
        """From the network."""
        return self._reader.source.stats.bytes

    @property
    def bytes_skipped(self) -> int:
        """None: going forward asks for another range."""
        return 0

    @property
    def read_operations(self) -> int:
        return self._reader.read_operations

    def __getattr__(self, name: str) -> Any:
        if name in _CURL_ATTRIBUTES:
            raise AttributeError(f"{name} is about a curl process, and libtz does not run curl")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


_CURL_ATTRIBUTES = (
    "popen_latencies",
    "http_response_latencies",
    "register_error_context",
    "response_headers",
)


class CURLStreamFile(ObjectReader):
    """An HTTP object as a file, without curl."""

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
                raise ValueOptionError(f"{Location.of(uri)} is no http:// or https:// URL")
            http = HttpOptions(verify=_trusted(certificate_handling), headers=headers or {})
            place = Place(uri, http, S3Options())
            super().__init__(place, begin, end, buffer_size or BUFFER_SIZE)


class RedisStreamFile:
    def __init__(self, *_: Any, **__: Any) -> None:
        raise OptionError(_NO_REDIS)


# ---- Writing -------------------------------------------------------------------------------------


class ObjectWriter(io.BufferedRandom):
    """A temporary file that is uploaded when it is closed. A TensorSerializer that gets one uploads
    itself, while it writes, and leaves the file unused."""

    def __init__(self, place: Place) -> None:
        self.url = place.url
        self._place: Place | None = place
        super().__init__(tempfile.TemporaryFile(buffering=0))  # noqa: SIM115

    def take(self) -> Place | None:
        """The object to be written, for one that does it instead; nothing is uploaded then. None if
        something was written already."""
        if self._place is None or self.tell() or self.seek(0, io.SEEK_END):
            return None
        place, self._place = self._place, None
        return place

    def close(self) -> None:
        """Uploads what was written."""
        if self.closed:
            return
        place, self._place = self._place, None
        try:
            if place is not None:
                with translated():
                    self._upload(place)
        finally:
            super().close()

    def _upload(self, place: Place) -> None:
        size = self.seek(0, io.SEEK_END)
        sink = resolve_sink(place.url, place.write_options(), header_size=0, file_size_max=size)
        try:
            self.seek(0)
            offset = 0
            while block := self.read(BUFFER_SIZE):
                sink.write_at(offset, memoryview(block))
                offset += len(block)
            sink.commit(size)
        except BaseException:
            sink.abort()
            raise

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is not None:
            self._place = None
        self.close()

    def __del__(self) -> None:
        # Whatever was left behind is not known to be complete.
        self._place = None
        with contextlib.suppress(ValueError):
            super().close()
