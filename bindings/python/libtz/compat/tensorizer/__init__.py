"""The interface of CoreWeave Tensorizer, implemented with libtz.

    from libtz.compat.tensorizer import TensorDeserializer, TensorSerializer, stream_io, utils

Names and signatures are those of tensorizer 2.12. It reads .tensors, .tz and .safetensors files. It
writes .tensors files that Tensorizer can read, or .tz files. docs/compat-tensorizer.md lists the
differences and the reasons.
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
