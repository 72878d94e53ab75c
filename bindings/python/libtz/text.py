"""Makes text of foreign origin (names, paths, URLs, server responses) fit for a terminal."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    """The text on one line. Escapes everything that could move the cursor, change a colour, or
    reorder or hide characters."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
