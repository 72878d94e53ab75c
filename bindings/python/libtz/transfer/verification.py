"""What a load checks, as a value: one per load.

Checks of record headers, which only `.tensors` files have, are in record_checks.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol

from libtz._native import lib
from libtz.errors import IntegrityError
from libtz.transfer.items import LoadItems
from libtz.transfer.schedule import Schedule
from libtz.transfer.target import Target

__all__ = ["ChunkChecks", "Verification", "WholeFileSha256", "require_sha256"]


class Verification(Protocol):
    """The checks of one load. The methods are called in this order. A tensor is handed out when all
    its requests have arrived, the last one only after `finish`."""

    level: int  # lib.VERIFY_*: how chunks are checked, where the format has any
    covers_tensors: bool  # it only checks whole tensors, in host memory

    @property
    def rewrites(self) -> bool:
        """Whether it changes the bytes that have arrived, in place."""

    @property
    def observe(self) -> Callable[[memoryview], None] | None:
        """Gets all bytes, in file order."""

    def companions(self, items: LoadItems) -> Sequence[lib.Tensor]:
        """What to read in addition: the record header of each item, in the order of the items; or
        nothing. An item is complete only when its companion is."""

    def begin(self, schedule: Schedule, target: Target) -> None:
        """Called before the first request."""

    def arrived(self, request: int) -> None:
        """The bytes of a request are in the target. Called by the worker that received them, before
        waiting threads wake."""

    def finish(self) -> None:
        """Everything has arrived."""


class ChunkChecks:
    """Checks each chunk by its CRC-32C, or by its BLAKE3 if a digest pins the file."""

    covers_tensors = False
    rewrites = False
    observe = None

    def __init__(self, level: int) -> None:
        self.level = level

    def companions(self, items: LoadItems) -> Sequence[lib.Tensor]:
        return ()

    def begin(self, schedule: Schedule, target: Target) -> None:
        pass

    def arrived(self, request: int) -> None:
        pass

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
        self.rewrites = inner.rewrites
        self.companions = inner.companions
        self.begin = inner.begin
        self.arrived = inner.arrived
        self._expected = expected
        self._tail = tail
        self._inner = inner
        self._url = url
        self._state = hashlib.sha256(front)
        self.observe = self._state.update

    def finish(self) -> None:
        self._inner.finish()
        self._state.update(self._tail)
        require_sha256(self._state.digest(), self._expected, self._url)


def require_sha256(found: bytes, expected: bytes, url: str) -> None:
    if found != expected:
        raise IntegrityError.wrong_pin(url, f"sha256:{expected.hex()}", f"sha256:{found.hex()}")
