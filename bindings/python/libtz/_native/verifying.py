"""The functions of tz.h that check whole files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from libtz._native import clib, ffi
from libtz._native.memory import exported
from libtz._native.status import check, new_diagnostic

if TYPE_CHECKING:
    from libtz._native.lib import Header

__all__ = ["Verifier"]


class Verifier:
    """Checks every byte of a tz file. Call `next` for a range and `put` its bytes, until nothing is
    left; then call `finish`."""

    def __init__(self, header: Header) -> None:
        self._header = header
        out = ffi.new("tz_verifier **")
        check(clib.tz_verifier_new(header.handle, out), where=header.label)
        self._handle = ffi.gc(out[0], clib.tz_verifier_free)

    def next(self) -> tuple[int, int]:
        """The offset and size of the next range to put; size 0 if nothing is left."""
        out = ffi.new("tz_range *")
        diagnostic = new_diagnostic()
        self._check(clib.tz_verifier_next(self._handle, out, diagnostic), diagnostic)
        return out.offset, out.size

    def put(self, data: Any) -> None:
        diagnostic = new_diagnostic()
        with exported(data) as source:
            status = clib.tz_verifier_put(self._handle, source, len(source), diagnostic)
        self._check(status, diagnostic)

    def finish(self) -> None:
        diagnostic = new_diagnostic()
        self._check(clib.tz_verifier_finish(self._handle, diagnostic), diagnostic)

    def _check(self, status: int, diagnostic: Any) -> None:
        check(status, diagnostic, where=self._header.label, name_of=self._header.name)
