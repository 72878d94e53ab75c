"""`tensorizer.serialization`, implemented with libtz. See `libtz.compat.tensorizer`."""

from libtz.compat.tensorizer._deserializer import TensorDeserializer
from libtz.compat.tensorizer._encryption import DecryptionParams, EncryptionParams
from libtz.compat.tensorizer._errors import CryptographyError, HashMismatchError
from libtz.compat.tensorizer._serializer import TensorSerializer
from libtz.compat.tensorizer._types import FilterFuncType, HashType, TensorHash, TensorType

__all__ = [
    "CryptographyError",
    "DecryptionParams",
    "EncryptionParams",
    "FilterFuncType",
    "HashMismatchError",
    "HashType",
    "TensorDeserializer",
    "TensorHash",
    "TensorSerializer",
    "TensorType",
]
