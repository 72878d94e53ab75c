"""Command-line flags for the fields of ReadOptions and WriteOptions. The fields give names, types,
defaults and descriptions (see `libtz.fields`).
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import typing
from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any, TypeVar

from libtz.errors import OptionError
from libtz.fields import Field, fields_of
from libtz.format import parse_digest
from libtz.options import ReadOptions, WriteOptions

__all__ = [
    "VERBOSE_HELP",
    "add_command",
    "add_digest",
    "add_options",
    "flag_of",
    "make_options",
    "parse_size",
    "with_flags",
]

VERBOSE_HELP = "show retries, redirects and throttling"

Options = TypeVar("Options")

# An option as the library names it, but not inside quotes or a path.
_OPTION = re.compile(r"(?<![\w./'\"])[A-Z]\w*(?:\.[a-z]\w*)+")
_SIZE = re.compile(r"(\d+)\s*([KMGT]?)(i?)B?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes. "64K", "64KiB" and "65536" are equal; units are powers of 1024."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 512K, 64M or 1048576")
    return int(match[1]) << (10 * " KMGT".index(match[2].upper() or " "))


def add_command(
    commands: Any, name: str, summary: str, description: str, run: Callable[[Any], int | None]
) -> argparse.ArgumentParser:
    """Adds a subcommand. Its help begins with the description, which holds examples."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=f"tz {name} [options] FILE" if name != "convert" else "tz convert [options] SRC DST",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    # Accepted after the command too, where leaving it out must not reset it.
    parser.add_argument(
        "-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help=VERBOSE_HELP
    )
    return parser


def add_options(
    parser: argparse.ArgumentParser,
    *classes: type[Any],
    loads: bool = True,
    writes: bool = False,
    leave_out: Collection[str] = (),
) -> None:
    """Adds a flag for each field of these classes, nested ones included. A command that loads no
    tensors gets no flags for loading options, and one that writes no files none for writing."""
    fields = {
        field.path: field
        for cls in classes
        for field in fields_of(cls)
        if field.option.has_flag
        and (loads or not field.option.is_loading)
        and (writes or not field.option.is_writing)
        and field.path not in leave_out
    }
    flags = {path: flag_of(path) for path in fields}
    groups: dict[str, Any] = {"": parser}
    for path, field in fields.items():
        if field.group not in groups:
            groups[field.group] = parser.add_argument_group(field.group)
        groups[field.group].add_argument(
            flags[path],
            dest=path,
            default=argparse.SUPPRESS,
            help=with_flags(_help(field), flags),
            **_conversion(field),
        )
    parser.set_defaults(flags=flags)


def add_digest(parser: argparse.ArgumentParser, name: str = "the file") -> None:
    """Adds `--digest`, which pins what `name` says."""
    parser.add_argument(
        "--digest", type=_digest, metavar="DIGEST", help=f"the digest that {name} must have"
    )


def _digest(text: str) -> str:
    try:
        parse_digest(text)
    except OptionError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def flag_of(path: str) -> str:
    """ "http.timeout_s" is `--http-timeout-s`."""
    return "--" + path.replace(".", "-").replace("_", "-")


def with_flags(text: str, flags: Mapping[str, str]) -> str:
    """Replaces option names in a message by flags: `ReadOptions.http.timeout_s` and
    `HttpOptions.timeout_s` become `--http-timeout-s`. `flags` are those of the command, by path."""
    return _OPTION.sub(lambda match: _flag_text(match[0], flags), text)


def _flag_text(name: str, flags: Mapping[str, str]) -> str:
    field = _named_fields().get(name)
    if field is None:
        return name
    if field.path in flags:
        return flags[field.path]
    if field.option.has_flag:
        return f"{flag_of(field.path)} (which this command does not take)"
    return f"{name} (only in Python)"


@cache
def _named_fields() -> dict[str, Field]:
    """All options, by their names in messages."""
    named = {}
    for cls in (ReadOptions, WriteOptions):
        fields = list(fields_of(cls))
        # "http." for HttpOptions, "http.retry." for RetryPolicy, "" for the class itself.
        prefixes = {field.owner: field.path[: field.path.rfind(".") + 1] for field in fields}
        for owner, prefix in prefixes.items():
            for field in fields:
                if field.path.startswith(prefix):
                    named[f"{owner}.{field.path.removeprefix(prefix)}"] = field
    return named


def make_options(cls: type[Options], arguments: argparse.Namespace) -> Options:
    """The options from the command line, with defaults for the rest."""
    options: Options = _make(cls, vars(arguments), "")
    return options


def _make(cls: type[Any], given: dict[str, Any], prefix: str) -> Any:
    values = {}
    for field in dataclasses.fields(cls):
        path = prefix + field.name
        if path in given:
            values[field.name] = given[path]
        elif any(name.startswith(path + ".") for name in given):
            inner = typing.get_type_hints(cls)[field.name]
            values[field.name] = _make(inner, given, path + ".")
    return cls(**values)


def _help(field: Field) -> str:
    text = field.option.description
    if field.default is None or isinstance(field.default, bool) or "default" in text:
        return text
    is_size = field.option.unit == "bytes"
    return f"{text} (default: {_size_text(field.default) if is_size else field.default})"


def _size_text(size: int) -> str:
    for letter, shift in (("M", 20), ("K", 10)):
        if size and size % (1 << shift) == 0:
            return f"{size >> shift}{letter}"
    return str(size)


def _conversion(field: Field) -> dict[str, Any]:
    """The arguments of `add_argument` for the field's type."""
    if field.type is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(field.type) is typing.Literal:
        return {"choices": typing.get_args(field.type)}
    if field.option.unit == "bytes":
        return {"type": parse_size, "metavar": "SIZE"}
    if field.type in (int, float):
        return {"type": field.type, "metavar": "SECONDS" if field.option.unit else "N"}
    if bool in typing.get_args(field.type):
        return {"type": _yes_no_or_text, "metavar": "yes|no|PATH"}
    return {"metavar": field.path.rpartition(".")[2].upper()}


def _yes_no_or_text(text: str) -> bool | str:
    return {"yes": True, "no": False}.get(text, text)
