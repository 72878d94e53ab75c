"""Errors of libtz that are Python's own too, as code written for the two other libraries catches
them."""

from __future__ import annotations

from libtz.errors import OptionError

__all__ = [
    "IndexOptionError",
    "NotImplementedOptionError",
    "RuntimeOptionError",
    "TypeOptionError",
    "ValueOptionError",
]


class IndexOptionError(OptionError, IndexError):
    pass


class NotImplementedOptionError(OptionError, NotImplementedError):
    pass


class RuntimeOptionError(OptionError, RuntimeError):
    pass


class TypeOptionError(OptionError, TypeError):
    pass


class ValueOptionError(OptionError, ValueError):
    pass
