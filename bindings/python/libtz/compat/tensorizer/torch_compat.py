"""`tensorizer.torch_compat` is not here. It moves the tensors of torch.save to a .tensors file and
keeps all else as pickle, which torch.load then has to run as code: `weights_only=True` cannot read
such files. docs/compat-tensorizer.md says how to bring them over."""

from __future__ import annotations

from typing import Any, NoReturn

from libtz.errors import OptionError

__all__ = ["tensorizer_loading", "tensorizer_saving"]


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise OptionError(
        "torch.save keeps objects as pickle, which runs code when it is loaded; tensorizer_saving"
        " only moves their tensors to another file. libtz.torch.save_model keeps a module, and"
        " libtz.torch.save a nested object, without pickle"
    )


tensorizer_saving = tensorizer_loading = _refuse
