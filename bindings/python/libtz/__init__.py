"""Load model weights from .tz, .safetensors and .tensors files, verified; write .tz files.

    import libtz

    with libtz.open("https://host/model.tz", digest="blake3:…") as f:
        tensors = f.load(device="cuda")

`libtz.torch` and `libtz.numpy` have the functions for whole dicts and modules; they are imported
when first used.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from types import ModuleType

from libtz.checkpoint.base import Checkpoint
from libtz.checkpoint.selection import prefix
from libtz.errors import Error, FormatError, IntegrityError, OptionError, SourceError
from libtz.format import TensorInfo
from libtz.opening import open
from libtz.options import (
    DecryptionOptions,
    HttpOptions,
    ReadOptions,
    RetryPolicy,
    S3Options,
    WriteOptions,
)
from libtz.writing.tz import TensorSpec, Writer

__all__ = [
    "Checkpoint",
    "DecryptionOptions",
    "Error",
    "FormatError",
    "HttpOptions",
    "IntegrityError",
    "OptionError",
    "ReadOptions",
    "RetryPolicy",
    "S3Options",
    "SourceError",
    "TensorInfo",
    "TensorSpec",
    "WriteOptions",
    "Writer",
    "__version__",
    "open",
    "prefix",
]

__version__ = version("libtz")

_MODULES = ("numpy", "torch")


def __getattr__(name: str) -> ModuleType:
    if name in _MODULES:
        return importlib.import_module(f"libtz.{name}")
    raise AttributeError(f"module 'libtz' has no attribute {name!r}")
