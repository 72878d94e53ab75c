"""The implementations of the format that conformance and differential tests compare.

To add one, append it to IMPLEMENTATIONS: an object with the three members of `Implementation`, or a
`Command` for a program that follows the protocol of `spec/README.md`. Every vector and every
differential test then runs for it, too. `spec/reference` must be importable; the conftest.py of
the tests that import this module sees to that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import libtz_vectors
import tz_describe
import tz_reference
from tests.libtz_implementation import CInterface, PythonReader

Description = dict[str, Any]


class Implementation(Protocol):
    """A reader of the format, as the tests use it."""

    @property
    def name(self) -> str: ...

    @property
    def codecs(self) -> frozenset[str]:
        """The codecs that it supports, always including "raw"."""

    def describe(
        self, data: bytes, *, pin: str | None = None, operation: str = "verify"
    ) -> Description:
        """The output of the command in `spec/README.md` for a file of these bytes.

        `pin` is a file digest as text; `operation` is "open", "verify" or "load NAME".
        """


@dataclass(frozen=True)
class Reference:
    """The reference reader, in this process."""

    name: str = "reference"

    @property
    def codecs(self) -> frozenset[str]:
        tiered = {"tiered"} if tz_reference.known_flags() else set()
        return frozenset({"raw", *tiered})

    def describe(
        self, data: bytes, *, pin: str | None = None, operation: str = "verify"
    ) -> Description:
        return tz_describe.describe(data, pin=pin, operation=operation)


@dataclass(frozen=True)
class Command:
    """A program that follows the protocol of `spec/README.md`."""

    name: str
    command: Sequence[str]
    codecs: frozenset[str] = frozenset({"raw", "tiered"})

    def describe(
        self, data: bytes, *, pin: str | None = None, operation: str = "verify"
    ) -> Description:
        return libtz_vectors.run_command(self.command, data, pin=pin, operation=operation)


REFERENCE = Reference()
IMPLEMENTATIONS: list[Implementation] = [REFERENCE, CInterface(), PythonReader()]
