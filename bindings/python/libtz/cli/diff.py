"""`tz diff`: which tensors differ between two files, regardless of format, codec and chunks."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from libtz import opening
from libtz.arrays.base import BufferFramework
from libtz.checkpoint.base import Checkpoint
from libtz.cli.contents import computed_digests
from libtz.cli.options import add_command, add_options, flag_of, make_options
from libtz.cli.output import print_json, print_line
from libtz.fields import fields_of
from libtz.format import TensorInfo
from libtz.options import ReadOptions

__all__ = ["add_to"]

DESCRIPTION = """\
List the tensors that were added, removed or changed from A to B. Compares names, types, shapes and
values, regardless of format, compression and chunk size. A folder or an index names a sharded set.

  tz diff old.tz https://host/new.tz          reads only the headers: they hold digests
  tz diff model.safetensors model.tz          reads model.safetensors, tensor by tensor
  tz diff a.tz b.tz --json | jq -r '.changed[].name'

Each encrypted .tensors file takes its own key: --a-decryption-key-file, --b-decryption-key-file, or
the same with passphrase.

Digests in a header say what the file should hold; 'tz verify' checks that it does. Order, metadata
and ties are not compared. Exit status: 0 no tensor differs, 1 some do or a file cannot be read,
2 wrong usage.
"""

DIFFERENT = 1

SIDES = ("a", "b")
KEYS = ("key_file", "passphrase_file")


def add_to(commands: Any) -> None:
    parser = add_command(commands, "diff", "list the tensors that differ", DESCRIPTION, run)
    parser.usage = "tz diff [options] A B"
    parser.add_argument("old", metavar="A", help="path or URL")
    parser.add_argument("new", metavar="B", help="path or URL")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    keys = {f"decryption.{name}" for name in KEYS}
    add_options(parser, ReadOptions, loads=False, leave_out=keys)
    descriptions = {field.path: field.option.description for field in fields_of(ReadOptions)}
    for side in SIDES:
        for name in KEYS:
            flag = flag_of(f"{side}.decryption.{name}")
            text = f"{descriptions[f'decryption.{name}']}, for {side.upper()}"
            parser.add_argument(flag, dest=f"{side}.{name}", metavar="FILE", help=text)
    flags = parser.get_default("flags")
    for name in KEYS:
        both = (flag_of(f"{side}.decryption.{name}") for side in SIDES)
        flags[f"decryption.{name}"] = " or ".join(both)


def run(arguments: argparse.Namespace) -> int:
    with (
        opening.open_as(BufferFramework(), arguments.old, options=_options(arguments, "a")) as old,
        opening.open_as(BufferFramework(), arguments.new, options=_options(arguments, "b")) as new,
    ):
        report = _compare(old, new)
    if arguments.json:
        print_json(report)
    else:
        _print(report)
    is_same = not (report["added"] or report["removed"] or report["changed"])
    return 0 if is_same else DIFFERENT


def _options(arguments: argparse.Namespace, side: str) -> ReadOptions:
    """The options for one of the two files, with its own key."""
    options = make_options(ReadOptions, arguments)
    keys = {name: getattr(arguments, f"{side}.{name}") for name in KEYS}
    return replace(options, decryption=replace(options.decryption, **keys))


def _compare(old: Checkpoint[Any], new: Checkpoint[Any]) -> dict[str, Any]:
    common = [name for name in old if name in new]
    before = {name: old.info(name) for name in old}
    after = {name: new.info(name) for name in new}
    alike = [name for name in common if _kind(before[name]) == _kind(after[name])]
    old_digests = _digests(old, [before[name] for name in alike])
    new_digests = _digests(new, [after[name] for name in alike])
    equal = {name for name in alike if old_digests[name] == new_digests[name]}
    return {
        "added": [_described(info) for name, info in after.items() if name not in before],
        "removed": [_described(info) for name, info in before.items() if name not in after],
        "changed": [
            {
                "name": name,
                "what": _what(before[name], after[name]),
                "old": _described(before[name], old_digests.get(name)),
                "new": _described(after[name], new_digests.get(name)),
            }
            for name in common
            if name not in equal
        ],
        "equal": len(equal),
    }


def _kind(info: TensorInfo) -> tuple[str, tuple[int, ...]]:
    return info.dtype, info.shape


def _what(before: TensorInfo, after: TensorInfo) -> list[str]:
    """What changed. Values are not compared if the type or shape differs."""
    changed = [part for part in ("dtype", "shape") if getattr(before, part) != getattr(after, part)]
    return changed or ["content"]


def _described(info: TensorInfo, digest: str | None = None) -> dict[str, Any]:
    return {
        "name": info.name,
        "dtype": info.dtype,
        "shape": list(info.shape),
        "content_digest": digest or info.content_digest,
    }


def _digests(file: Checkpoint[Any], infos: Sequence[TensorInfo]) -> dict[str, str]:
    """Digests from the header. Tensors without one there are read, one at a time."""
    known = {info.name: info.content_digest for info in infos if info.content_digest is not None}
    unknown = [info.name for info in infos if info.content_digest is None]
    return known | dict(computed_digests(file, unknown)) if unknown else known


def _print(report: dict[str, Any]) -> None:
    for sign, key in (("-", "removed"), ("+", "added")):
        for tensor in report[key]:
            print_line(f"{sign} {tensor['name']}  {_kind_text(tensor)}")
    for change in report["changed"]:
        old, new = _kind_text(change["old"]), _kind_text(change["new"])
        text = f"{old}, different values" if old == new else f"{old} -> {new}"
        print_line(f"! {change['name']}  {text}")
    counts = [f"{len(report[key])} {key}" for key in ("removed", "added", "changed") if report[key]]
    print_line(", ".join([*counts, f"{report['equal']} equal"]))


def _kind_text(tensor: dict[str, Any]) -> str:
    return f"{tensor['dtype']} {'x'.join(map(str, tensor['shape'])) or 'scalar'}"
