"""Selects tensors of a checkpoint by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from libtz.errors import OptionError

__all__ = ["Names", "prefix", "select"]

Names = Iterable[str] | Callable[[str], bool] | None


def prefix(*prefixes: str) -> Callable[[str], bool]:
    """Selects the tensors whose name begins with one of these: `f.load(libtz.prefix("encoder."))`.
    Raises OptionError if they are not strings."""
    if not prefixes or not all(isinstance(each, str) for each in prefixes):
        raise OptionError(f"prefix() takes one or more strings; got {prefixes!r}")
    return lambda name: name.startswith(prefixes)


def select(names: Names, known: Iterable[str]) -> list[str]:
    """The selected names, each once: in the order of `names` if that is a list, else in the order
    of `known`."""
    if names is None:
        return list(known)
    if isinstance(names, str):
        raise OptionError(
            f"names must be a collection of names or a predicate; got the string {names!r}"
        )
    if callable(names):
        return [name for name in known if names(name)]
    if not isinstance(names, Iterable):
        raise OptionError(
            f"names must be a collection of names or a predicate, not {type(names).__name__}"
        )
    return list(dict.fromkeys(names))
