"""Text from outside (names, paths, URLs, answers of servers), made fit for a terminal."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    """The text on one line, with everything escaped that could move a cursor, change a colour, or
    reorder or hide letters."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
