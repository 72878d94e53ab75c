"""A stand-in for `tensorizer.torch_compat`, which libtz lacks. That module moves the tensors of
torch.save to a .tensors file and keeps everything else as pickle, which torch.load has to run as
code: `weights_only=True` cannot read such files. docs/compat-tensorizer.md says how to migrate."""

from __future__ import annotations

from typing import Any, NoReturn

from libtz.errors import OptionError

__all__ = ["tensorizer_loading", "tensorizer_saving"]


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise OptionError(
        "torch.save stores objects as pickle, which runs code when it is loaded, and"
        " tensorizer_saving only moves their tensors to another file; use libtz.torch.save_model"
        " for a module, or libtz.torch.save for a nested object, which do not use pickle"
    )


tensorizer_saving = tensorizer_loading = _refuse
