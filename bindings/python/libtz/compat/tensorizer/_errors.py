"""The errors that code for Tensorizer catches. They are libtz's and also the types that it
raises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from libtz.compat._errors import (
    NotImplementedOptionError,
    RuntimeOptionError,
    TypeOptionError,
    ValueOptionError,
)
from libtz.errors import (
    DecryptionError,
    DecryptionOptionError,
    Error,
    FormatError,
    IntegrityError,
    OptionError,
)

__all__ = [
    "CryptographyError",
    "HashMismatchError",
    "translated",
]


class CryptographyError(Error):
    """The file is encrypted and no key was given, a key was given for a file that is not encrypted,
    or the key is wrong."""


class HashMismatchError(IntegrityError):
    """A tensor differs from the one that was written, or has no hash that shows it."""


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


def _facts(error: FormatError | IntegrityError) -> dict[str, Any]:
    return {name: getattr(error, name) for name in ("code", "rule", "offset", "tensor", "chunk")}


@contextmanager
def translated() -> Iterator[None]:
    """Turns libtz's errors into the ones of this module."""
    try:
        yield
    except _OWN:
        raise
    except (DecryptionError, DecryptionOptionError) as error:
        raise CryptographyError(error.message) from error
    except FormatError as error:
        raise ValueFormatError(error.message, **_facts(error)) from error
    except IntegrityError as error:
        raise HashMismatchError(error.message, **_facts(error)) from error
    except OptionError as error:
        raise ValueOptionError(error.message) from error
