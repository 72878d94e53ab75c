"""Errors of libtz, which tests check by their fields rather than by their words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, TypeVar

import pytest

__all__ = ["raises"]

Kind = TypeVar("Kind", bound=BaseException)


@contextlib.contextmanager
def raises(
    kind: type[Kind] | tuple[type[Kind], ...], **fields: Any
) -> Iterator[pytest.ExceptionInfo[Kind]]:
    """As `pytest.raises`, for an error with these values in its fields."""
    with pytest.raises(kind) as caught:
        yield caught
    assert {name: getattr(caught.value, name) for name in fields} == fields, str(caught.value)
