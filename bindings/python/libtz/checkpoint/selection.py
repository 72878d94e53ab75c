"""Which tensors of a checkpoint are wanted, and which parts of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from libtz.errors import OptionError

__all__ = ["Names", "prefix", "select"]

Names = Iterable[str] | Callable[[str], bool] | None


def prefix(*prefixes: str) -> Callable[[str], bool]:
    """Wants the tensors whose name begins with one of these: `f.load(libtz.prefix("encoder."))`."""
    if not prefixes or not all(isinstance(each, str) for each in prefixes):
        raise OptionError(f"prefix() takes the beginnings of names; got {prefixes!r}")
    return lambda name: name.startswith(prefixes)


def select(names: Names, known: Iterable[str]) -> list[str]:
    """The wanted names, each once: in their own order if they are listed, else in that of
    `known`."""
    if names is None:
        return list(known)
    if isinstance(names, str):
        raise OptionError(
            f"names is a collection of names, or a function of a name; got the string {names!r}"
        )
    if callable(names):
        return [name for name in known if names(name)]
    return list(dict.fromkeys(names))
