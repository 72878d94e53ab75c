"""Load model weights from .tz, .safetensors and .tensors files, verified; write .tz files.

    import libtz

    with libtz.open("https://host/model.tz", digest="blake3:…") as f:
        tensors = f.load(device="cuda")

`libtz.torch` and `libtz.numpy` have the functions for whole dicts and modules, `libtz.sets` those
for the digest of a model's folder, `libtz.signatures` those for signed digests.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from types import ModuleType

from libtz._native.lib import Node
from libtz.arrays.base import Destination, Device, DeviceLike, Framework
from libtz.checkpoint.base import Checkpoint
from libtz.checkpoint.contents import Contents
from libtz.checkpoint.selection import Names, prefix
from libtz.checkpoint.slices import Described, ReadItem, Region, TensorSlice
from libtz.errors import Error, FormatError, IntegrityError, OptionError, SourceError
from libtz.format import Format, TensorInfo, Verified
from libtz.locations import SourceLike, TargetLike
from libtz.memory import HostBuffer
from libtz.opening import open
from libtz.options import (
    DecryptionOptions,
    HttpOptions,
    ReadOptions,
    RetryPolicy,
    S3Options,
    WriteOptions,
)
from libtz.structure import NodeKind
from libtz.transfer.stats import TransferStats
from libtz.writing.base import TensorSpec
from libtz.writing.tz import Writer

__all__ = [
    "Checkpoint",
    "Contents",
    "DecryptionOptions",
    "Described",
    "Destination",
    "Device",
    "DeviceLike",
    "Error",
    "Format",
    "FormatError",
    "Framework",
    "HostBuffer",
    "HttpOptions",
    "IntegrityError",
    "Names",
    "Node",
    "NodeKind",
    "OptionError",
    "ReadItem",
    "ReadOptions",
    "Region",
    "RetryPolicy",
    "S3Options",
    "SourceError",
    "SourceLike",
    "TargetLike",
    "TensorInfo",
    "TensorSlice",
    "TensorSpec",
    "TransferStats",
    "Verified",
    "WriteOptions",
    "Writer",
    "__version__",
    "open",
    "prefix",
]

__version__ = version("libtz")

_MODULES = ("numpy", "sets", "signatures", "torch")


def __getattr__(name: str) -> ModuleType:
    if name in _MODULES:
        return importlib.import_module(f"libtz.{name}")
    raise AttributeError(f"module 'libtz' has no attribute {name!r}")
