"""The C library: `ffi` creates and reads C values, `clib` calls functions. See tz.h for both."""

from __future__ import annotations

import sys
from pathlib import Path

from libtz._native._cffi import ffi

__all__ = ["clib", "ffi"]

_NAMES = {"win32": "tz.dll", "darwin": "libtz.dylib"}

clib = ffi.dlopen(str(Path(__file__).with_name(_NAMES.get(sys.platform, "libtz.so"))))
