"""Makes text of foreign origin (names, paths, URLs, server responses) fit for a terminal."""

from __future__ import annotations

__all__ = ["excerpt", "printable"]


def printable(text: str) -> str:
    """The text on one line. Escapes everything that could move the cursor, change a colour, or
    reorder or hide characters."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def excerpt(text: str, size_max: int = 200) -> str:
    """The printable text, cut to `size_max` characters: for what could be of any length."""
    shown = printable(text)
    return shown if len(shown) <= size_max else shown[: size_max - 1] + "…"
