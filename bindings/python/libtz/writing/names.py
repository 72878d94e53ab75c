"""Checks the names of tensors, in every format: writers refuse the names that readers refuse."""

from __future__ import annotations

import re

from libtz.errors import OptionError

__all__ = ["check_name"]

NAME_SIZE_MAX = 65_535

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def check_name(name: object) -> None:
    """Raises OptionError unless `name` is a str that can be written as UTF-8, is not too long, and
    has no control characters."""
    if not isinstance(name, str):
        raise OptionError(f"the name of a tensor is a str, not {type(name).__name__}")
    if _CONTROL.search(name):
        raise OptionError(
            f"tensor {name!r}: the name contains a control character, which readers refuse"
        )
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise OptionError(f"tensor {name!r}: the name is not valid Unicode") from None
    if size > NAME_SIZE_MAX:
        raise OptionError(f"tensor {name[:40]!r}…: the name has more than {NAME_SIZE_MAX} bytes")
