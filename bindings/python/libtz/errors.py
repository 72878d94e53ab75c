"""The exceptions libtz raises on purpose: one family, split by whom the fault lies with.

Messages say what went wrong, where, and what to do about it, and never hold a secret: URLs are
shown without user names, passwords and query strings. The facts are fields, for programs. All
errors survive pickling and copying with their fields, so that they cross process pools.
"""

from __future__ import annotations

import errno as errnos
import os
from collections.abc import Mapping
from typing import Any, Literal

__all__ = [
    "CODES",
    "Error",
    "ErrorCode",
    "FormatError",
    "IntegrityError",
    "OptionError",
    "SourceError",
    "SourceNotFoundError",
    "SourcePermissionError",
]

# What can be wrong with bytes. Those up to "content" are the classes of the specification.
ErrorCode = Literal[
    "not-tz",
    "truncated",
    "trailing",
    "version",
    "feature",
    "limit",
    "checksum",
    "reserved",
    "directory",
    "layout",
    "name",
    "shape",
    "order",
    "tie",
    "chunk",
    "codec",
    "structure",
    "metadata",
    "digest",
    "content",
    "manifest",
    "json",
    "foreign",
    "bad-config",
    "bad-index",
    "bad-pickle",
    "bad-set",
    "decryption",
    "not-encrypted",
    "too-large",
    "no-hash",
]

CODES: Mapping[ErrorCode, str] = {
    "not-tz": "the file has none of the formats that libtz reads",
    "truncated": "the file ends too early",
    "trailing": "the file has bytes after its end",
    "version": "the file needs a newer version of libtz",
    "feature": "the file needs something that this version of libtz does not have",
    "limit": "a limit of the format is exceeded",
    "checksum": "bytes are not those that were written",
    "reserved": "bytes that must be zero are not",
    "directory": "the section directory is malformed",
    "layout": "a size, offset or count does not follow from the content",
    "name": "a tensor's name is malformed, or not in its place",
    "shape": "a tensor's size does not follow from its shape and dtype",
    "order": "the order of the tensors is malformed",
    "tie": "a tie is malformed",
    "chunk": "a chunk entry is malformed",
    "codec": "a chunk does not decode",
    "structure": "the nested structure is malformed",
    "metadata": "the metadata is malformed",
    "digest": "the file is not the one that the digest pins",
    "content": "decoded bytes are not those that were saved",
    "manifest": "the manifest of a set is malformed",
    "json": "the header of a .safetensors file is not the JSON that the format asks for",
    "foreign": "the header of a .safetensors or .tensors file contradicts itself or the file",
    "bad-config": "a configuration of a model is malformed",
    "bad-index": "the index of a sharded set is malformed",
    "bad-pickle": "PyTorch does not load the file safely",
    "bad-set": "the files of a set do not belong together",
    "decryption": "data cannot be decrypted: the key is another one, or the file was changed",
    "not-encrypted": "a key was given, but the file is not encrypted",
    "too-large": "a file is larger than one of its kind may be",
    "no-hash": "a tensor lacks a hash that was asked for, or that binds it to its encrypted data",
}


CHANGED_SHOWN_MAX = 20


class Error(Exception):
    """Base of everything libtz raises on purpose.

    `changed` names the tensors of the caller's that were being written when a load failed in the
    middle, and that hold anything now. It is empty if nothing was touched.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
        self.changed: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.changed:
            return self.message
        names = ", ".join(map(repr, self.changed[:CHANGED_SHOWN_MAX]))
        more = len(self.changed) - CHANGED_SHOWN_MAX
        rest = f" and {more} more" if more > 0 else ""
        return f"{self.message}; these were being written, and now hold anything: {names}{rest}"

    def _fields(self) -> dict[str, Any]:
        return {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self._fields()), vars(self)


def _rebuild(error: type[Error], message: str, fields: dict[str, Any]) -> Error:
    return error(message, **fields)


class _DataError(Error):
    """The bytes are at fault. Fields that say nothing are None.

    `code` is a key of `CODES`; `rule` the requirement of the specification: "TZ1-nn", or "TZS1-nn"
    of a set; `offset` a byte of the file; `chunk` a number within the tensor. `tensor` is a name of
    at most 256 bytes, as the file has it, so it may hold control characters; messages have it
    escaped.
    """

    def __init__(
        self,
        message: str,
        *,
        code: ErrorCode,
        rule: str | None = None,
        offset: int | None = None,
        tensor: str | None = None,
        chunk: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code: ErrorCode = code
        self.rule = rule
        self.offset = offset
        self.tensor = tensor
        self.chunk = chunk

    def _fields(self) -> dict[str, Any]:
        names = ("code", "rule", "offset", "tensor", "chunk")
        return {name: getattr(self, name) for name in names}


class FormatError(_DataError):
    """The bytes are not a valid file. Fields: `code`, `rule`, `offset`, `tensor`, `chunk`."""


class IntegrityError(_DataError):
    """The bytes are not the ones that were promised: a checksum or a pinned digest differs.

    Fields: `code`, `rule`, `offset`, `tensor`, `chunk`. If a file is not the one that was pinned,
    `expected` and `found` are digests as text; `found` is None where the file has none.
    """

    expected: str | None = None
    found: str | None = None

    @classmethod
    def wrong_pin(cls, where: str, expected: str, found: str | None) -> IntegrityError:
        error = cls(
            f"{where}: this is not the file that the digest pins: expected {expected}, found"
            f" {found or 'no tz file'} (digest)",
            code="digest",
        )
        error.expected, error.found = expected, found
        return error


class SourceError(Error, OSError):
    """The outside world failed: a source could not be read, or a target could not be written.

    `url` is the place, fit to be shown. `status` is the HTTP status where there was one.
    `retryable` says whether the same call may succeed later without any change. As with any
    OSError, `errno`, `strerror` and `filename` say what the system said, where it said anything;
    what is missing is a SourceNotFoundError, what is forbidden a SourcePermissionError, also over
    HTTP and S3.
    """

    def __new__(cls, message: str, **fields: Any) -> SourceError:
        number = _errno_of(fields.get("status"), fields.get("errno"))
        return super().__new__(_BY_ERRNO.get(number, cls) if cls is SourceError else cls, message)

    def __init__(
        self,
        message: str,
        *,
        url: str,
        status: int | None = None,
        retryable: bool = False,
        errno: int | None = None,
    ) -> None:
        super().__init__(message)
        self.url = url
        self.status = status
        self.retryable = retryable
        self.filename = url
        number = _errno_of(status, errno)
        if number is not None:
            self.errno = number
            self.strerror = os.strerror(number)

    def _fields(self) -> dict[str, Any]:
        names = ("url", "status", "retryable", "errno")
        return {name: getattr(self, name) for name in names}


class SourceNotFoundError(SourceError, FileNotFoundError):
    """There is no such file, object or bucket."""


class SourcePermissionError(SourceError, PermissionError):
    """The file or object may not be read or written, with the credentials that were given."""


_BY_ERRNO: dict[int | None, type[SourceError]] = {
    errnos.ENOENT: SourceNotFoundError,
    errnos.EACCES: SourcePermissionError,
    errnos.EPERM: SourcePermissionError,
}


def _errno_of(status: int | None, errno: int | None) -> int | None:
    """That of the system, or the one that an HTTP status comes to."""
    if errno is None and status in (401, 403):
        return errnos.EACCES
    if errno is None and status in (404, 410):
        return errnos.ENOENT
    return errno


class OptionError(Error):
    """The caller asked for something that is invalid or impossible; nothing was read or written."""
