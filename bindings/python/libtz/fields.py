"""Fields of the option classes: their descriptions, and the checks of their values.

`option(8, "attempts before giving up")` is a dataclass field. The command line builds its flags
from these fields, and `documented` adds them to the class's docstring.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from libtz.errors import OptionError

__all__ = [
    "Field",
    "Option",
    "documented",
    "fields_of",
    "option",
    "option_group",
    "options_or_default",
    "require_bool",
    "require_choice",
    "require_integer",
    "require_not_empty",
    "require_seconds",
    "require_text",
    "require_type",
]

Unit = Literal["bytes", "seconds"]

_KEY = "libtz"

Options = TypeVar("Options")
Class = TypeVar("Class", bound=type)


@dataclass(frozen=True)
class Option:
    """What a field carries besides its type and default."""

    description: str  # a line of `--help`: lower case, no full stop
    unit: Unit | None = None
    has_flag: bool = True  # not for secrets: other users of the machine see command lines
    is_loading: bool = False  # only for commands that load tensors
    is_writing: bool = False  # only for commands that write files


class Field(typing.NamedTuple):
    """A field of an option class, or of a class nested in it."""

    path: str  # "http.retry.attempts"
    owner: str  # the class that declares it: "RetryPolicy"
    group: str  # "HTTP"; empty for fields that are not nested
    type: Any  # without None
    default: Any
    option: Option


def option(
    default: Any,
    description: str,
    *,
    unit: Unit | None = None,
    has_flag: bool = True,
    is_loading: bool = False,
    is_writing: bool = False,
    repr: bool = True,
) -> Any:
    """A field of an option class. See `Option`, and `dataclasses.field` for `repr`."""
    about = Option(description, unit, has_flag, is_loading, is_writing)
    return dataclasses.field(default=default, repr=repr, metadata={_KEY: about})


def option_group(cls: Callable[[], Any], title: str) -> Any:
    """A field that holds nested options. Their flags are listed under `title`."""
    return dataclasses.field(default_factory=cls, metadata={_KEY: title})


def fields_of(cls: type[Any], prefix: str = "", group: str = "") -> Iterator[Field]:
    """All fields of an option class, nested ones included. Raises TypeError for a field that was
    not made by `option` or `option_group`."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        path, hint, about = prefix + field.name, hints[field.name], field.metadata.get(_KEY)
        if isinstance(about, Option):
            yield Field(path, cls.__name__, group, _without_none(hint), field.default, about)
        elif isinstance(about, str):
            yield from fields_of(hint, f"{path}.", group or about)
        else:
            raise TypeError(f"{cls.__name__}.{field.name} has no description")


def _without_none(hint: Any) -> Any:
    known = [one for one in typing.get_args(hint) if one is not type(None)]
    is_optional = type(None) in typing.get_args(hint)
    return known[0] if is_optional and len(known) == 1 else hint


def documented(cls: Class) -> Class:
    """Class decorator: lists the fields in the docstring, each with its description."""
    lines = []
    for field in dataclasses.fields(cls):
        about = field.metadata[_KEY]
        if isinstance(about, Option):
            unit = f" ({about.unit})" if about.unit else ""
            lines.append(f"- `{field.name}`{unit}: {about.description}")
        else:
            lines.append(f"- `{field.name}`: {field.type}")
    if cls.__doc__:  # `python -OO` drops them
        cls.__doc__ += "\n\n" + "\n".join(lines)
    return cls


def require_seconds(value: Any, name: str, *, zero_ok: bool = False) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0 or (value == 0 and not zero_ok):
        at_least = "at least 0" if zero_ok else "more than 0"
        raise OptionError(f"{name} must be a number of seconds, {at_least}; got {value!r}")


def require_integer(value: Any, name: str, minimum: int, maximum: int | None = None) -> None:
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if not is_integer or value < minimum or (maximum is not None and value > maximum):
        wanted = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise OptionError(f"{name} must be an integer {wanted}; got {value!r}")


def require_bool(value: Any, name: str) -> None:
    if not isinstance(value, bool):
        raise OptionError(f"{name} must be True or False; got {value!r}")


def require_choice(value: Any, name: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        *first, last = map(repr, choices)
        raise OptionError(f"{name} must be {', '.join(first)} or {last}; got {value!r}")


def require_not_empty(value: Any, name: str) -> None:
    if value == "":
        raise OptionError(f"{name} must not be empty")


def require_text(value: Any, name: str) -> None:
    """Accepts None and any str but the empty one."""
    require_not_empty(value, name)
    if value is not None:
        require_type(value, name, str)


def require_type(value: Any, name: str, wanted: type) -> None:
    if not isinstance(value, wanted):
        raise OptionError(f"{name} must be a {wanted.__name__}, not {type(value).__name__}")


def options_or_default(options: Options | None, cls: type[Options]) -> Options:
    """The options that were given, or the default ones. Raises OptionError for anything else."""
    if options is None:
        return cls()
    require_type(options, "options", cls)
    return options
