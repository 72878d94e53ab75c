"""A stand-in for `tensorizer.protobuf`, another format than .tensors files, which libtz lacks."""

from __future__ import annotations

from typing import Any, NoReturn

from libtz.errors import OptionError

__all__ = ["deserialize_model", "deserialize_tensor", "serialize_model", "serialize_tensor"]


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise OptionError(
        "libtz does not support Protocol Buffers; use libtz.torch.save and libtz.torch.load, which"
        " do not use pickle"
    )


serialize_tensor = deserialize_tensor = serialize_model = deserialize_model = _refuse
