"""What a load checks, as a value: one per load."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Protocol

from libtz.errors import IntegrityError
from libtz.transfer.load import Wants
from libtz.transfer.records import RecordCheck

__all__ = ["ChunkChecks", "Verification", "WholeFileSha256", "require_sha256"]


class Verification(Protocol):
    """The checks of one load. Its last tensor is handed out only after `finish`."""

    level: int  # lib.VERIFY_*: how chunks are checked, where the format has any
    covers_tensors: bool  # it only checks whole tensors, in host memory

    @property
    def observe(self) -> Callable[[memoryview], None] | None:
        """Gets all bytes, in file order."""

    def plan(self, wants: Wants) -> tuple[Wants, RecordCheck | None]:
        """Adds the wants that the checks need."""

    def finish(self) -> None:
        """Everything has arrived."""


class ChunkChecks:
    """Checks each chunk by its CRC-32C, or by its BLAKE3 if a digest pins the file."""

    covers_tensors = False
    observe = None

    def __init__(self, level: int) -> None:
        self.level = level

    def plan(self, wants: Wants) -> tuple[Wants, RecordCheck | None]:
        return wants, None

    def finish(self) -> None:
        pass


class WholeFileSha256:
    """Checks the SHA-256 of the whole file, in addition to the checks of `inner`."""

    def __init__(
        self, expected: bytes, front: memoryview, tail: bytes, inner: Verification, url: str
    ) -> None:
        """`front` and `tail` are the bytes of the file that no plan reads."""
        self.level = inner.level
        self.covers_tensors = inner.covers_tensors
        self._expected = expected
        self._tail = tail
        self._inner = inner
        self._url = url
        self._state = hashlib.sha256(front)
        self.observe = self._state.update

    def plan(self, wants: Wants) -> tuple[Wants, RecordCheck | None]:
        return self._inner.plan(wants)

    def finish(self) -> None:
        self._inner.finish()
        self._state.update(self._tail)
        require_sha256(self._state.digest(), self._expected, self._url)


def require_sha256(found: bytes, expected: bytes, url: str) -> None:
    if found != expected:
        raise IntegrityError.wrong_pin(url, f"sha256:{expected.hex()}", f"sha256:{found.hex()}")
