"""Flags for the fields of ReadOptions and WriteOptions: names, types and defaults are taken from
there.

Only the help is written here, once for every command; a field without help has no flag, and a test
holds that every field is either here or in NO_FLAG.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import typing
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple, TypeVar

__all__ = [
    "HELP",
    "LOADING",
    "VERBOSE_HELP",
    "add_command",
    "add_options",
    "make_options",
    "parse_size",
]

Options = TypeVar("Options")

HELP = {
    "verify": "check every chunk's checksum; a pinned digest is checked regardless",
    "local": "copy local files into memory, or map them (later changes to the file show)",
    "host_memory_max": "host memory to use beside the tensors",
    "meta_size_max": "zeros to make for tensors that a .tensors file has no values of",
    "connections_max": "parallel requests to a server",
    "request_size_max": "bytes to ask for in one request",
    "progress": "show a progress bar (default: on a terminal)",
    "compress": "compress chunks where that pays, or never",
    "chunk_size": "decoded bytes per chunk, a power of two from 64K to 64M (default: by file size)",
    "http.timeout_s": "drop a connection that stalls this long, and resume",
    "http.connect_timeout_s": "give up connecting after this long",
    "http.open_deadline_s": "give up when reading the header takes longer",
    "http.rate_min": "bytes a second, over all connections, below which a load is given up",
    "http.verify": "check the server's certificate; or PATH of the authorities to trust",
    "http.cert": "client certificate with its key, as one PEM file",
    "http.retry.attempts": "tries without progress before giving up",
    "http.retry.backoff_s": "first wait before trying again; it doubles each time",
    "http.retry.backoff_max_s": "longest wait before trying again",
    "http.retry.retry_after_max_s": "longest wait that a server may ask for",
    "http.retry.deadline_s": "give up when nothing has arrived for this long",
    "s3.endpoint": "URL of an S3-compatible store (default: as boto3 is configured, or AWS)",
    "s3.region": "its region",
    "s3.profile": "profile of the AWS configuration files that holds the credentials",
    "s3.anonymous": "send unsigned requests",
    "s3.addressing_style": "how bucket names go into URLs",
    "s3.version_id": "read this version of the object",
    "s3.requester_pays": "pay for requests to buckets whose owners do not",
    "s3.sse": "how the store is to encrypt what is written",
    "s3.sse_kms_key_id": "with which key of its key service",
    "decryption.key_file": "file with the 32 bytes of an encrypted file's key",
    "decryption.passphrase_file": "file with the passphrase that the key was derived from",
    "decryption.operations_max": "passes that deriving a key may take",
    "decryption.memory_max": "memory that deriving a key may take",
}

VERBOSE_HELP = "say why things take longer: retries, redirects, throttling"

NO_FLAG = {
    # Other users of the machine see command lines. boto3's files and variables hold such things,
    # and HTTP_PROXY and ~/.netrc.
    "s3.access_key_id",
    "s3.secret_access_key",
    "s3.session_token",
    "s3.sse_customer_key",
    "http.headers",
    "http.proxies",
    "decryption.key",
    "decryption.passphrase",
}

# What commands that load no tensors leave out.
LOADING = frozenset(
    {
        "verify",
        "local",
        "host_memory_max",
        "meta_size_max",
        "connections_max",
        "request_size_max",
    }
)

_GROUPS = {
    "": "options",
    "http": "HTTP (and S3)",
    "s3": "S3",
    "decryption": "encrypted .tensors files",
}
_SIZES = {
    "http.rate_min",
    "host_memory_max",
    "meta_size_max",
    "request_size_max",
    "chunk_size",
    "decryption.memory_max",
}

_SIZE = re.compile(r"(\d+)\s*([KMGT]?)(i?)B?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """ "64K", "64KiB" and "65536" are the same; units are powers of 1024."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 512K, 64M or 1048576")
    return int(match[1]) << (10 * " KMGT".index(match[2].upper() or " "))


class _Field(NamedTuple):
    path: str  # "http.retry.attempts"
    kind: Any  # its type, without None
    default: Any


def add_command(
    commands: Any, name: str, summary: str, description: str, run: Callable[[Any], int | None]
) -> argparse.ArgumentParser:
    """A subcommand whose help begins with its description, examples and all."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=f"tz {name} [options] FILE" if name != "convert" else "tz convert [options] SRC DST",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    # Also after the command; left out there, it stays as it was before it.
    parser.add_argument(
        "-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help=VERBOSE_HELP
    )
    return parser


def add_options(
    parser: argparse.ArgumentParser,
    *kinds: type[Any],
    leave_out: Collection[str] = (),
) -> None:
    """Gives the parser a flag for each field of these options, nested ones included."""
    groups: dict[str, Any] = {}
    seen: set[str] = set()
    for kind in kinds:
        for field in _fields(kind):
            if field.path in NO_FLAG or field.path in leave_out or field.path in seen:
                continue
            seen.add(field.path)
            place = field.path.partition(".")[0] if "." in field.path else ""
            if place not in groups:
                groups[place] = parser.add_argument_group(_GROUPS[place])
            groups[place].add_argument(
                "--" + field.path.replace(".", "-").replace("_", "-"),
                dest=field.path,
                default=argparse.SUPPRESS,
                help=_help(field),
                **_conversion(field),
            )


def make_options(kind: type[Options], arguments: argparse.Namespace) -> Options:
    """The options with what was given on the command line; everything else as it is by default."""
    options: Options = _make(kind, vars(arguments), "")
    return options


def _make(kind: type[Any], given: dict[str, Any], prefix: str) -> Any:
    values = {}
    for field in dataclasses.fields(kind):
        path = prefix + field.name
        if path in given:
            values[field.name] = given[path]
        elif any(name.startswith(path + ".") for name in given):
            inner = typing.get_type_hints(kind)[field.name]
            values[field.name] = _make(inner, given, path + ".")
    return kind(**values)


def _fields(kind: type[Any], prefix: str = "") -> Iterator[_Field]:
    hints = typing.get_type_hints(kind)
    defaults = kind()
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from _fields(typing.cast(Any, hint), f"{prefix}{field.name}.")
        else:
            known = [one for one in typing.get_args(hint) if one is not type(None)]
            is_optional = type(None) in typing.get_args(hint)
            inner = known[0] if is_optional and len(known) == 1 else hint
            yield _Field(prefix + field.name, inner, getattr(defaults, field.name))


def _help(field: _Field) -> str:
    text = HELP[field.path]
    if field.default is None or isinstance(field.default, bool) or "default" in text:
        return text
    shown = _size_text(field.default) if field.path in _SIZES else field.default
    return f"{text} (default: {shown})"


def _size_text(size: int) -> str:
    if size and size % (1 << 20) == 0:
        return f"{size >> 20}M"
    return f"{size >> 10}K" if size and size % (1 << 10) == 0 else str(size)


def _conversion(field: _Field) -> dict[str, Any]:
    """What argparse needs to know about a type."""
    if field.kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(field.kind) is typing.Literal:
        return {"choices": typing.get_args(field.kind)}
    if field.path in _SIZES:
        return {"type": parse_size, "metavar": "SIZE"}
    if field.kind in (int, float):
        metavar = "SECONDS" if field.path.endswith("_s") else "N"
        return {"type": field.kind, "metavar": metavar}
    if bool in typing.get_args(field.kind):
        return {"type": _yes_no_or_text, "metavar": "yes|no|PATH"}
    return {"metavar": field.path.rpartition(".")[2].upper()}


def _yes_no_or_text(text: str) -> bool | str:
    return {"yes": True, "no": False}.get(text, text)
