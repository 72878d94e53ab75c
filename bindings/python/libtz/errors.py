"""The exceptions that libtz raises: one family, divided by what is at fault.

Messages say what went wrong, where, and what to do about it. They never contain a secret: URLs are
shown without user names, passwords and query strings. For programs, the facts are also fields. All
errors can be pickled and copied with their fields, so they can cross process pools.
"""

from __future__ import annotations

import errno as errnos
import os
from collections.abc import Mapping
from typing import Any, Literal

__all__ = [
    "CODES",
    "DecryptionError",
    "DecryptionOptionError",
    "Error",
    "ErrorCode",
    "FormatError",
    "IntegrityError",
    "OptionError",
    "SourceError",
    "SourceNotFoundError",
    "SourcePermissionError",
]

# What can be wrong with bytes. The codes up to "content" are error classes of the specification.
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
    "bad-signature",
    "signature",
    "decryption",
    "not-encrypted",
    "too-large",
    "no-hash",
]

CODES: Mapping[ErrorCode, str] = {
    "not-tz": "the file is in none of the formats that libtz reads",
    "truncated": "the file ends too early",
    "trailing": "the file has bytes after its end",
    "version": "the file needs a newer version of libtz",
    "feature": "the file uses a feature that this version of libtz does not support",
    "limit": "a limit of the format is exceeded",
    "checksum": "bytes differ from the ones that were written",
    "reserved": "bytes that must be zero are not",
    "directory": "the section directory is malformed",
    "layout": "a size, offset or count contradicts the content",
    "name": "a tensor's name is malformed or out of order",
    "shape": "a tensor's size contradicts its shape and dtype",
    "order": "the order of the tensors is malformed",
    "tie": "a tie is malformed",
    "chunk": "a chunk entry is malformed",
    "codec": "a chunk cannot be decoded",
    "structure": "the nested structure is malformed",
    "metadata": "the metadata is malformed",
    "digest": "the file is not the one that the digest pins",
    "content": "decoded bytes differ from the ones that were saved",
    "manifest": "the manifest of a set is malformed",
    "json": "the header of a .safetensors file is not the JSON that the format requires",
    "foreign": "the header of a .safetensors or .tensors file contradicts itself or the file",
    "bad-config": "the configuration of a model is malformed",
    "bad-index": "the index of a sharded set is malformed",
    "bad-pickle": "PyTorch cannot load the file safely",
    "bad-set": "the files of a set do not belong together",
    "bad-signature": "a signature bundle or pin is malformed",
    "signature": "the signature is by another key, or covers another file",
    "decryption": "data cannot be decrypted: the key is wrong, or the file was changed",
    "not-encrypted": "a key was given, but the file is not encrypted",
    "too-large": "a file exceeds the size limit for its kind",
    "no-hash": "a tensor lacks a hash that was required, or that binds it to its encrypted data",
}


CHANGED_SHOWN_MAX = 20


class Error(Exception):
    """The base class of libtz's errors.

    `changed` has the names of the caller's tensors that were being written when a load failed.
    Their contents are now undefined. It is empty if nothing was modified.
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
        return f"{self.message}; the contents of these tensors are now undefined: {names}{rest}"

    def _fields(self) -> dict[str, Any]:
        return {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self._fields()), vars(self)


def _rebuild(error: type[Error], message: str, fields: dict[str, Any]) -> Error:
    return error(message, **fields)


class _DataError(Error):
    """The bytes are at fault. A field that is not known is None.

    `code` is a key of `CODES`, `rule` the requirement of the specification ("TZ1-nn", or "TZS1-nn"
    for a set), `offset` the position of a byte in the file, and `chunk` an index within the tensor.
    `tensor` is a name of at most 256 bytes. It is not escaped, so it may contain control
    characters; messages escape it.
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
    """The bytes are not the expected ones: a checksum or a pinned digest differs.

    Fields: `code`, `rule`, `offset`, `tensor`, `chunk`. If a file is not the pinned one, `expected`
    and `found` are the digests as text; `found` is None if the file has none.
    """

    expected: str | None = None
    found: str | None = None

    @classmethod
    def wrong_pin(cls, where: str, expected: str, found: str | None) -> IntegrityError:
        """The error for a file that is not the pinned one. `found` None: it is not a .tz file."""
        if found is None:
            reason = f"expected the .tz file with digest {expected}, but this is not a .tz file"
        else:
            reason = "this is not the file that the digest pins: "
            reason += f"expected {expected}, found {found}"
        error = cls(f"{where}: {reason} (digest)", code="digest")
        error.expected, error.found = expected, found
        return error


class DecryptionError(IntegrityError):
    """Data cannot be decrypted with this key: it is another one, or the data were changed."""


class SourceError(Error, OSError):
    """A source could not be read, or a target could not be written.

    `url` is its path or URL, without secrets. `status` is the HTTP status, or None. `retryable`
    says whether the same call may succeed later. As with any OSError, `errno`, `strerror` and
    `filename` hold the system's error, if there was one. A missing file or object raises
    SourceNotFoundError, a forbidden one SourcePermissionError, also over HTTP and S3.
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
    """The file, object or bucket does not exist."""


class SourcePermissionError(SourceError, PermissionError):
    """The file or object may not be read or written with these credentials."""


_BY_ERRNO: dict[int | None, type[SourceError]] = {
    errnos.ENOENT: SourceNotFoundError,
    errnos.EACCES: SourcePermissionError,
    errnos.EPERM: SourcePermissionError,
}


def _errno_of(status: int | None, errno: int | None) -> int | None:
    """The system's errno, or the one that corresponds to an HTTP status."""
    if errno is None and status in (401, 403):
        return errnos.EACCES
    if errno is None and status in (404, 410):
        return errnos.ENOENT
    return errno


class OptionError(Error):
    """The caller asked for something invalid or impossible. Nothing was read or written."""


class DecryptionOptionError(OptionError):
    """The options do not give a key for the file, or one that cannot be its key."""
