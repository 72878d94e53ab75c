"""Errors that code written for Tensorizer catches: libtz's, which are also the types that it
raises."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from libtz.compat._errors import (
    NotImplementedOptionError,
    RuntimeOptionError,
    TypeOptionError,
    ValueOptionError,
)
from libtz.errors import Error, FormatError, IntegrityError, OptionError, SourceError
from libtz.transfer.decryption import DecryptionError, DecryptionOptionError

__all__ = [
    "CryptographyError",
    "HashMismatchError",
    "translated",
]


class CryptographyError(Error):
    """The file is encrypted and no key was given, or the other way round, or the key is wrong."""


class HashMismatchError(IntegrityError):
    """A tensor is not the one that was written."""


class ValueFormatError(FormatError, ValueError):
    pass


_OWN = (
    CryptographyError,
    HashMismatchError,
    NotImplementedOptionError,
    RuntimeOptionError,
    TypeOptionError,
    ValueFormatError,
    ValueOptionError,
)


@functools.cache
def _source_error(base: Any) -> type[SourceError]:
    """A SourceError that is also what the operating system's error was: FileNotFoundError, …"""
    return type(f"Source{base.__name__}", (SourceError, base), {"__module__": __name__})


@contextmanager
def translated() -> Iterator[None]:
    """Errors of libtz on the way out become the ones of this module."""
    try:
        yield
    except _OWN:
        raise
    except (DecryptionError, DecryptionOptionError) as error:
        raise CryptographyError(error.message) from error
    except FormatError as error:
        raise ValueFormatError(
            error.message, code=error.code, offset=error.offset, tensor=error.tensor
        ) from error
    except IntegrityError as error:
        raise HashMismatchError(error.message, tensor=error.tensor, chunk=error.chunk) from error
    except OptionError as error:
        raise ValueOptionError(error.message) from error
    except SourceError as error:
        cause = error.__cause__
        base: Any = type(cause) if isinstance(cause, OSError) else OSError
        kind = _source_error(base)
        raise kind(
            error.message, url=error.url, status=error.status, retryable=error.retryable
        ) from error
