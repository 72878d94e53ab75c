"""Which names tensors may have, in every format: what readers refuse, writers refuse."""

from __future__ import annotations

import re

from libtz.errors import OptionError

__all__ = ["check_name"]

NAME_SIZE_MAX = 65_535

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def check_name(name: object) -> None:
    """OptionError unless it is a str, can be written as UTF-8, is not too long, and has no control
    characters: every tensor of every file can then be named, listed and converted."""
    if not isinstance(name, str):
        raise OptionError(f"the name of a tensor is a str, not {type(name).__name__}")
    if _CONTROL.search(name):
        raise OptionError(
            f"tensor {name!r}: its name has a control character, which readers refuse; rename it"
        )
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise OptionError(f"tensor {name!r}: its name is not valid Unicode") from None
    if size > NAME_SIZE_MAX:
        raise OptionError(f"tensor {name[:40]!r}…: its name has more than {NAME_SIZE_MAX} bytes")
