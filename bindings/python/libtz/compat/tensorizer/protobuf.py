"""`tensorizer.protobuf` is not here: it is a format of its own, apart from .tensors files."""

from __future__ import annotations

from typing import Any, NoReturn

from libtz.errors import OptionError

__all__ = ["deserialize_model", "deserialize_tensor", "serialize_model", "serialize_tensor"]


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise OptionError(
        "libtz has no Protocol Buffers; libtz.torch.save and load keep tensors and modules without"
        " pickle"
    )


serialize_tensor = deserialize_tensor = serialize_model = deserialize_model = _refuse
