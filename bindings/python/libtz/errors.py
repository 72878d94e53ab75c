"""The exceptions libtz raises on purpose: one family, split by whom the fault lies with.

Messages say what went wrong, where, and what to do about it, and never hold a secret: URLs are
shown without user names, passwords and query strings. All of them survive pickling, so that they
cross process pools with their fields.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Error", "FormatError", "IntegrityError", "OptionError", "SourceError"]


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
        return _rebuild, (type(self), self.message, self._fields(), self.changed)


def _rebuild(
    error: type[Error], message: str, fields: dict[str, Any], changed: tuple[str, ...]
) -> Error:
    rebuilt = error(message, **fields)
    rebuilt.changed = changed
    return rebuilt


class FormatError(Error):
    """The bytes are not a valid file. `code` names the rule, `offset` the byte it broke at.

    `tensor` names the tensor at fault if it is known: at most 256 bytes, and as the file has it, so
    it may hold control characters; messages have it escaped.
    """

    def __init__(
        self, message: str, *, code: str, offset: int | None = None, tensor: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.offset = offset
        self.tensor = tensor

    def _fields(self) -> dict[str, Any]:
        return {"code": self.code, "offset": self.offset, "tensor": self.tensor}


class IntegrityError(Error):
    """The bytes are not the ones that were promised: a checksum or a pinned digest differs."""

    def __init__(
        self, message: str, *, tensor: str | None = None, chunk: int | None = None
    ) -> None:
        super().__init__(message)
        self.tensor = tensor
        self.chunk = chunk

    def _fields(self) -> dict[str, Any]:
        return {"tensor": self.tensor, "chunk": self.chunk}


class SourceError(Error):
    """The outside world failed: a source could not be read, or a target could not be written.

    `url` is the place, fit to be shown. `status` is the HTTP status where there was one.
    `retryable` says whether the same call may succeed later without any change.
    """

    def __init__(
        self, message: str, *, url: str, status: int | None = None, retryable: bool = False
    ) -> None:
        super().__init__(message)
        self.url = url
        self.status = status
        self.retryable = retryable

    def _fields(self) -> dict[str, Any]:
        return {"url": self.url, "status": self.status, "retryable": self.retryable}


class OptionError(Error):
    """The caller asked for something that is invalid or impossible; nothing was read or written."""
