"""Turns the library's status codes into exceptions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from libtz._native import clib, ffi
from libtz._native.tables import new_struct
from libtz.errors import ErrorCode, FormatError, IntegrityError, OptionError

__all__ = ["NONE32", "NONE64", "check", "new_diagnostic", "status_name", "status_text"]

# tz.h: TZ_NONE32, and the same for fields of 64 bits.
NONE32 = 0xFFFF_FFFF
NONE64 = 0xFFFF_FFFF_FFFF_FFFF

# Statuses from this one on mean bad data. Their names are the error classes of the specification
# (section 13) and those of other formats.
_DATA_MIN: int = clib.TZ_E_NOT_TZ
# The bytes are not the ones that were written. The other statuses mean a malformed file.
_INTEGRITY = (clib.TZ_E_CHECKSUM, clib.TZ_E_DIGEST, clib.TZ_E_CONTENT)


def status_name(status: int) -> str:
    """The name of a status: "ok", "checksum", …"""
    return ffi.string(clib.tz_status_name(status)).decode()


def status_text(status: int) -> str:
    """The sentence that explains a status."""
    return ffi.string(clib.tz_status_text(status)).decode()


def new_diagnostic() -> Any:
    return new_struct("tz_diagnostic")


def check(
    status: int,
    diagnostic: Any = None,
    *,
    where: str,
    name_of: Callable[[int], str] | None = None,
    blames_caller: bool = False,
) -> None:
    """Returns if `status` is TZ_OK; otherwise raises the error that it stands for.

    `where` is the beginning of the message. `name_of` maps the tensor index of the diagnostic to a
    name. With `blames_caller`, bad data are data that the caller asked to write, so they raise an
    OptionError.
    """
    if status == clib.TZ_OK:
        return
    name = status_name(status)
    if status == clib.TZ_E_MEMORY:
        raise MemoryError(f"{where}: not enough memory")
    if status < _DATA_MIN:
        # Arguments and the order of calls are checked above this layer.
        raise RuntimeError(f"{where}: internal error in libtz ({name}); please report this")
    meaning = status_text(status)
    offset = tensor = chunk = None
    rule: str | None = None
    if diagnostic is not None:
        offset = _known(diagnostic.offset)
        chunk = _known(diagnostic.chunk)
        tensor = _tensor(diagnostic, name_of)
        if diagnostic.rule:
            rule = f"TZ1-{diagnostic.rule}"
        if diagnostic.reason:
            meaning = ffi.string(diagnostic.reason).decode()
    where += "" if tensor is None else f", tensor {tensor!r}"
    where += "" if chunk is None else f", chunk {chunk}"
    named = f"{name}, rule {rule}" if rule else name
    if blames_caller:
        raise OptionError(f"{where}: this cannot be written: {meaning} ({named})")
    where += "" if offset is None else f", byte {offset}"
    error = IntegrityError if status in _INTEGRITY else FormatError
    raise error(
        f"{where}: {meaning} ({named})",
        code=cast(ErrorCode, name),
        rule=rule,
        offset=offset,
        tensor=tensor,
        chunk=chunk,
    )


def _tensor(diagnostic: Any, name_of: Callable[[int], str] | None) -> str | None:
    if diagnostic.name_size:  # from a file that was not opened, so it can be any bytes
        name: bytes = ffi.buffer(diagnostic.name, diagnostic.name_size)[:]
        return name.decode(errors="replace")
    index = _known(diagnostic.tensor)
    if index is None:
        return None
    return name_of(index) if name_of else f"#{index}"


def _known(value: int) -> int | None:
    return None if value == NONE64 else value
