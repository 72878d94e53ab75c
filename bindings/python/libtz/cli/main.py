"""The entry point: runs a command, and turns exceptions into messages and exit codes."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import NoReturn

from libtz import __version__
from libtz.cli import convert, diff, digest, inspect, load, verify
from libtz.cli.options import VERBOSE_HELP, with_flags
from libtz.cli.output import note, use_any_encoding
from libtz.errors import Error, OptionError
from libtz.text import printable

__all__ = ["main"]

DESCRIPTION = """\
Load model weights fast, and know that they are the right ones.

A file is a path or URL: model.tz, https://host/model.tz, s3://bucket/model.tz. Every command reads
.tz, .safetensors and .tensors files.

  tz convert model.safetensors model.tz       make a .tz file; prints its digest
  tz inspect https://host/model.tz            list tensors, reading only the header
  tz verify model.tz --digest blake3:...      check every byte
  tz digest --set llama/                      one digest for all files of a model
  tz diff old.tz https://host/new.tz          list tensors that differ
  tz load s3://bucket/model.tz --device cuda  load and time it

'tz COMMAND --help' explains the rest.
"""

EPILOG = """\
exit status: 0 success; 1 the file is wrong, cannot be read or cannot be written, or 'tz diff' found
differences; 2 wrong usage.
S3 credentials come from boto3's usual sources (environment, ~/.aws, instance roles), never from the
command line.
"""

DATA_FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130

Say = Callable[[object], None]


def main(argv: Sequence[str] | None = None) -> int:
    use_any_encoding()
    parser = _parser()
    arguments = parser.parse_args(argv)
    if "run" not in arguments:
        parser.print_help()
        return 0

    def say(text: object) -> None:
        note(f"tz: {with_flags(str(text), arguments.flags)}")

    if arguments.verbose:
        _show_log(say)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: say(message)
        return _run(arguments, say)


def _run(arguments: argparse.Namespace, say: Say) -> int:
    try:
        status: int | None = arguments.run(arguments)
        # Inside the try, to catch a closed pipe.
        sys.stdout.flush()
    except OptionError as error:
        say(error)
        return WRONG_USAGE
    except Error as error:
        say(error)
        return DATA_FAILED
    except MemoryError as error:
        say(str(error) or "there is not enough memory")
        return DATA_FAILED
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # As in `tz inspect … | head`. Python would report it again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DATA_FAILED
    except Exception:  # a bug; its text may still come from outside
        note(traceback.format_exc().rstrip())
        return DATA_FAILED
    return status or 0


class _LogHandler(logging.Handler):
    def __init__(self, say: Say) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(record.getMessage())


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def _show_log(say: Say) -> None:
    """Sends libtz's log (retries, redirects, throttling, fallbacks) to standard error."""
    logger = logging.getLogger("libtz")
    logger.addHandler(_LogHandler(say))
    logger.setLevel(logging.INFO)


@cache
def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="tz",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-v", "--verbose", action="store_true", help=VERBOSE_HELP)
    parser.add_argument("--version", action="version", version=f"libtz {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in (inspect, verify, digest, diff, convert, load):
        command.add_to(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
