"""Generates `_cffi.py` from tz.h, in cffi's out-of-line ABI mode, which needs no C compiler.

Part of the build (tools/build_native.py), not of the installed package.
"""

from __future__ import annotations

from pathlib import Path

import cffi

BEGIN = "/* CFFI-BEGIN */"
END = "/* CFFI-END */"


def write_cffi_module(header: Path) -> None:
    """Writes the declarations between the markers in `header`, unchanged, as a module."""
    _, begin, rest = header.read_text(encoding="utf-8").partition(BEGIN)
    declarations, end, _ = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{header}: expected {BEGIN} and {END}")
    ffi = cffi.FFI()
    ffi.cdef(declarations)
    ffi.set_source("libtz._native._cffi", None)  # None: ABI mode
    ffi.emit_python_code(str(Path(__file__).with_name("_cffi.py")))
