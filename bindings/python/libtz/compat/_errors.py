"""Errors of libtz that are also Python's own, since code for the other libraries catches those."""

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
