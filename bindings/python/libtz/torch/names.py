"""Names in a file and in a module: renaming, and messages about names that differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from libtz.checkpoint.base import Checkpoint
from libtz.errors import OptionError
from libtz.format import TensorInfo

__all__ = ["FileNames", "Rename", "cut", "strangers"]

SHOWN_MAX = 8  # lines of one kind

# What PyTorch's wrappers add to the names of a module's tensors, in front or inside.
_WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")

Rename = Mapping[str, str] | Callable[[str], str] | None


class FileNames:
    """A file's tensors by their names in the module."""

    def __init__(self, file: Checkpoint[torch.Tensor], rename: Rename) -> None:
        self._file = file
        self._stored = _renamed(file, rename)

    def __contains__(self, name: str) -> bool:
        return name in self._file if self._stored is None else name in self._stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._file if self._stored is None else self._stored)

    def info(self, name: str) -> TensorInfo:
        """`TensorInfo.name` is the name in the file."""
        return self._file.info(name if self._stored is None else self._stored[name])


def _renamed(file: Checkpoint[torch.Tensor], rename: Rename) -> dict[str, str] | None:
    if rename is None:
        return None
    if not callable(rename) and not isinstance(rename, Mapping):
        raise OptionError(
            "rename must be a function or mapping from names in the file to names in the module,"
            f" not {type(rename).__name__}"
        )
    if isinstance(rename, Mapping) and (unknown := [name for name in rename if name not in file]):
        raise OptionError(f"rename contains {unknown[0]!r}, which is not in the file")
    stored: dict[str, str] = {}
    for name in file:
        new = rename.get(name, name) if isinstance(rename, Mapping) else rename(name)
        if not isinstance(new, str):
            raise OptionError(f"rename returns {new!r} for {name!r}; it must return a str")
        if new in stored:
            raise OptionError(f"rename maps both {stored[new]!r} and {name!r} to {new!r}")
        stored[new] = name
    return stored


def strangers(missing: Sequence[str], unexpected: Sequence[str]) -> list[str]:
    """Messages about names that only one side has; those that a prefix explains share one."""
    lines = []
    for is_file, longer, shorter in ((True, unexpected, missing), (False, missing, unexpected)):
        prefix, explained = _prefix(longer, set(shorter))
        if explained:
            lines.append(_prefix_line(prefix, len(explained), is_file))
            short = set(explained.values())
            missing = [name for name in missing if name not in explained and name not in short]
            unexpected = [n for n in unexpected if n not in explained and n not in short]
            break
    lines += cut([f"missing in the file: {name!r}" for name in missing])
    return lines + cut([f"not in the module: {name!r}" for name in unexpected])


def _prefix(longer: Sequence[str], shorter: set[str]) -> tuple[str, dict[str, str]]:
    """The prefix (or part) that explains the most names, at least half of one side; and those."""
    if not longer or not shorter:
        return "", {}
    dots = [index for index, character in enumerate(longer[0]) if character == "."]
    candidates = {*_WRAPPERS, *(longer[0][: index + 1] for index in dots)}
    best: tuple[str, dict[str, str]] = "", {}
    for part in sorted(candidates):
        found = {name: bare for name in longer if (bare := _without(name, part)) in shorter}
        if len(found) > len(best[1]):
            best = part, found
    return best if 2 * len(best[1]) >= min(len(longer), len(shorter)) else ("", {})


def _without(name: str, part: str) -> str:
    return name.replace(part, "") if part in _WRAPPERS[1:] else name.removeprefix(part)


def _prefix_line(prefix: str, count: int, is_file: bool) -> str:
    if not is_file:
        way = f"rename=lambda name: {prefix!r} + name, or load into the module that was wrapped"
        return f"{count} names have the prefix {prefix!r} in the module, but not in the file: {way}"
    call = f"replace({prefix!r}, '')" if prefix in _WRAPPERS[1:] else f"removeprefix({prefix!r})"
    return (
        f"{count} names have the prefix {prefix!r} in the file, but not in the module:"
        f" rename=lambda name: name.{call}"
    )


def cut(lines: Sequence[str]) -> list[str]:
    more = len(lines) - SHOWN_MAX
    return [*lines[:SHOWN_MAX], *([f"… and {more} more like these"] if more > 0 else [])]
