"""`tensorizer.torch_compat` is not here: it keeps the pickle of torch.save beside the tensors."""

from __future__ import annotations

from typing import Any, NoReturn

from libtz.errors import OptionError

__all__ = ["tensorizer_loading", "tensorizer_saving"]


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise OptionError(
        "files of torch.save hold pickle, which runs code when it is loaded; libtz.torch.save and"
        " load keep nested objects of tensors without it"
    )


tensorizer_saving = tensorizer_loading = _refuse
