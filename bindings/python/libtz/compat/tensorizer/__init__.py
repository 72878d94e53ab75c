"""CoreWeave Tensorizer's interface over libtz, for an import swap.

    from libtz.compat.tensorizer import TensorDeserializer, TensorSerializer, stream_io, utils

Names and signatures are those of tensorizer 2.12. It reads .tensors files, and .tz and .safetensors
files too, and writes .tensors files that Tensorizer reads, or .tz files. docs/compat-tensorizer.md
says what differs, and why.
"""

from libtz.compat.tensorizer import protobuf, serialization, stream_io, torch_compat, utils
from libtz.compat.tensorizer.serialization import (
    CryptographyError,
    DecryptionParams,
    EncryptionParams,
    FilterFuncType,
    TensorDeserializer,
    TensorSerializer,
    TensorType,
)

__all__ = [
    "CryptographyError",
    "DecryptionParams",
    "EncryptionParams",
    "FilterFuncType",
    "TensorDeserializer",
    "TensorSerializer",
    "TensorType",
    "protobuf",
    "serialization",
    "stream_io",
    "torch_compat",
    "utils",
]
