"""The command line of a script that makes one file."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

__all__ = ["update"]


def update(path: Path, make_text: Callable[[], str], doc: str | None) -> int:
    """Writes the file if it is missing or out of date; with `--check`, only says so. Returns the
    exit status. `doc` begins with a line for `--help`."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    is_check = parser.parse_args().check
    text = make_text()
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return 0
    print(f"{path.name}: {'out of date' if is_check else 'new'}")
    if not is_check:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 1 if is_check else 0
