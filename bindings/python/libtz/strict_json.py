"""Reads untrusted JSON more strictly than json.loads does."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from libtz.errors import FormatError

__all__ = ["parse_json"]


def parse_json(text: bytes, broken: Callable[[str], FormatError], *, items_max: int) -> Any:
    """The value of a JSON text in UTF-8 with at most `items_max` items. Numbers are returned as
    text, since converting long ones takes seconds. Raises `broken(reason)` for everything else,
    including duplicate keys, NaN, and nesting too deep for the stack."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members: dict[str, Any] = {}
        for key, value in pairs:
            if key in members:
                raise broken(f"it contains {key!r} twice")
            members[key] = value
        return members

    def no_constant(text: str) -> Any:
        raise broken(f"{text} is not JSON")

    if max(text.count(b","), text.count(b"{") + text.count(b"[")) > items_max:
        raise broken(f"it has more than {items_max} items")
    try:
        return json.loads(
            text.decode("utf-8"),
            object_pairs_hook=unique,
            parse_constant=no_constant,
            parse_int=str,
            parse_float=str,
        )
    except (ValueError, RecursionError) as error:
        raise broken(f"not a JSON file: {error}") from None
