"""Output of the commands: results on standard output, everything else on standard error.

Text from outside is escaped here, so that no command can forget it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from libtz.text import printable

__all__ = ["note", "print_json", "print_line", "print_table", "size_text", "use_any_encoding"]


def use_any_encoding() -> None:
    """Makes characters that the terminal cannot show print as escapes instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def print_json(value: Any) -> None:
    """Prints JSON. Characters that a terminal would act on are JSON escapes."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    for letter in sorted(set(text)):
        if letter != "\n" and not letter.isprintable():
            text = text.replace(letter, json.dumps(letter)[1:-1])
    print(text.replace("\x7f", "\\u007f"))


def print_line(text: str) -> None:
    """Prints a line of the result."""
    print(printable(text))


def note(text: str) -> None:
    """Prints a message for the user. Lines after the first are indented, so that no text can pass
    for another message."""
    first, *others = map(printable, text.split("\n"))
    lines = [first, *(line if line.startswith(" ") else f"  {line}" for line in others)]
    print("\n".join(lines), file=sys.stderr)


def size_text(size: float) -> str:
    """Three digits with a decimal unit: "90.9 MB"."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.5 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" or size >= 99.95 else f"{size:.3g} {unit}"


def print_table(rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> None:
    """Prints aligned columns; those in `right` are right-aligned."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
