"""Lists local folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from libtz.errors import OptionError, SourceError
from libtz.manifest import FILES_MAX

__all__ = ["list_folder"]


def list_folder(path: str, *, is_recursive: bool) -> list[str]:
    """The names of the files in a folder, sorted. With `is_recursive`, also those in its
    subfolders, with the relative path: "folder/name". Hidden files and folders are omitted.

    A link to a file counts as a file. Raises SourceError if a folder cannot be read. With
    `is_recursive`, raises OptionError for anything that is neither a file nor a folder, such as a
    link to a folder.
    """
    names: list[str] = []
    for name in _walk(path, "") if is_recursive else _files(path):
        names.append(name)
        if is_recursive and len(names) > FILES_MAX:
            raise OptionError(f"{path} holds more than {FILES_MAX} files")
    return sorted(names)


def _entries(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        reason = error.strerror or type(error).__name__
        text = f"{path} cannot be listed: {reason}"
        raise SourceError(text, url=path, errno=error.errno) from error


def _files(path: str) -> Iterator[str]:
    return (entry.name for entry in _entries(path) if entry.is_file())


def _walk(path: str, prefix: str) -> Iterator[str]:
    pending = [(path, prefix)]
    while pending:
        folder, prefix = pending.pop()
        for entry in _entries(folder):
            if entry.is_dir(follow_symlinks=False):
                pending.append((entry.path, f"{prefix}{entry.name}/"))
            elif entry.is_file():
                yield prefix + entry.name
            else:
                raise OptionError(
                    f"{Path(entry.path)} is neither a file nor a folder (links to folders are not"
                    " followed), so it cannot be part of a set"
                )
