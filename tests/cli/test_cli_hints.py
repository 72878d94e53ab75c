"""Messages name an option by its path in Python, and by its flag on the command line."""

from __future__ import annotations

import argparse
import ast
import inspect
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import libtz
import libtz.torch
from libtz import opening, options
from libtz.cli import load
from libtz.cli.main import _parser, main
from libtz.cli.options import add_options, flag_of, with_flags
from libtz.errors import OptionError
from libtz.fields import fields_of
from libtz.options import ReadOptions, WriteOptions

PACKAGE = Path(libtz.__file__).parent
CLASSES = {
    name: getattr(options, name) for name in options.__all__ if name.endswith(("Options", "Policy"))
}
FIELDS = {
    f"{name}.{field.path}": field for name, cls in CLASSES.items() for field in fields_of(cls)
}
PREFIXES = {
    "ReadOptions": "",
    "WriteOptions": "",
    "HttpOptions": "http.",
    "RetryPolicy": "http.retry.",
    "S3Options": "s3.",
    "DecryptionOptions": "decryption.",
}
PATH = re.compile(rf"\b(?:{'|'.join(CLASSES)})(?:\.[a-z]\w*)+")


def test_options_that_the_package_names_exist() -> None:
    """A group of options has no flag, so messages name the options in it. Only `require_type` may
    name a group: it cannot fail on the command line, which makes the groups."""
    found = [
        (f"{path.relative_to(PACKAGE)}:{number}", name)
        for path in PACKAGE.rglob("*.py")
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if "require_type(" not in line
        for name in PATH.findall(line)
    ]
    assert len(found) > 50
    assert [(where, name) for where, name in found if name not in FIELDS] == []


# Names that only exist in Python: of options, of the groups that hold them, and of the arguments of
# `open`. The words among them, such as "verify", are Python only before a "=" or as part of a path.
PARTS = {part for name in FIELDS for part in name.split(".")[1:]}
PYTHON_NAMES = PARTS | set(inspect.signature(opening.open).parameters) | {"device"}
_NAMES = "|".join(sorted(PYTHON_NAMES))
ARGUMENT = re.compile(rf"(?<![\w.-])(?:{_NAMES})=(?=\S)")
UNDERSCORED = re.compile(rf"(?<![\w./-])(?:{'|'.join(n for n in PYTHON_NAMES if '_' in n)})(?!\w)")
DOTTED = re.compile(rf"(?<![\w./-])(?:{_NAMES})\.(?:{_NAMES})(?!\w)")
# The command line reaches neither the modules that nobody imports nor those that load modules.
OUT_OF_REACH = ("compat/", "integrations/")


def python_only(text: str) -> list[str]:
    """What no user of the command line can follow in a message."""
    text = re.sub(r"python -c '[^']*'", "", text)
    patterns = (ARGUMENT, UNDERSCORED, DOTTED)
    return [found[0] for pattern in patterns for found in pattern.finditer(text)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("use local='copy'", ["local="]),
        ("averaged over retry.deadline_s", ["retry.deadline_s"]),
        ("deadline_s is over", ["deadline_s"]),
        ("public_key is not PEM", ["public_key"]),
        ("use device='cpu' or digest=…", ["device=", "digest="]),
        ("raise RetryPolicy.deadline_s, with --public-key, /tmp/public_key or digest", []),
        ("verify it", []),
    ],
)
def test_python_names_are_told_from_words(text: str, found: list[str]) -> None:
    assert [name for name in found if name not in python_only(text)] == []
    assert bool(python_only(text)) == bool(found)


def sentences(path: Path) -> Iterator[tuple[int, str]]:
    """Strings of a module that hold a space, without docstrings; placeholders are {}."""
    tree = ast.parse(path.read_text("utf-8"))
    skipped = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
            parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
        elif isinstance(node, ast.Constant) and id(node) not in skipped:
            parts = [node.value]
        else:
            continue
        text = "".join(str(part) for part in parts)
        if " " in text:
            yield node.lineno, text


def test_no_message_names_an_argument_of_python() -> None:
    found = [
        (f"{name}:{number}", text)
        for path in PACKAGE.rglob("*.py")
        if not (name := path.relative_to(PACKAGE).as_posix()).startswith(OUT_OF_REACH)
        for number, text in sentences(path)
    ]
    assert len(found) > 500
    assert [(where, text) for where, text in found if python_only(text)] == []


def commands() -> dict[str, argparse.ArgumentParser]:
    (action,) = (one for one in _parser()._actions if isinstance(one.choices, dict))
    return dict(action.choices or {})


@pytest.mark.parametrize("name", commands())
def test_the_help_of_a_command_names_its_own_flags(name: str) -> None:
    parser = commands()[name]
    text = " ".join(parser.format_help().split())
    assert not PATH.search(text)
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", text))
    elsewhere = {"--set"} if name == "verify" else set()
    assert named - elsewhere <= set(parser._option_string_actions)
    for action in parser._actions:
        assert python_only(action.help or "") == []
    headings = [group.title for group in parser._action_groups if group._group_actions]
    assert len(headings) == len(set(headings))


def test_only_commands_that_write_take_options_for_writing() -> None:
    taking = {name for name, one in commands().items() if "s3.sse" in one.get_default("flags")}
    assert taking == {"convert", "digest"}  # `tz digest --set` writes a manifest


def command_line() -> dict[str, str]:
    parser = argparse.ArgumentParser()
    add_options(parser, ReadOptions, WriteOptions, writes=True)
    flags = parser.get_default("flags")
    assert set(flags.values()) <= set(parser._option_string_actions)
    return dict(flags)


@pytest.mark.parametrize("name", FIELDS)
def test_every_option_is_shown_as_its_flag(name: str) -> None:
    flags = command_line()
    shown = with_flags(f"raise {name}.", flags)
    if FIELDS[name].option.has_flag:
        owner, path = name.split(".", 1)
        assert shown == f"raise {flags[PREFIXES[owner] + path]}."
    else:
        assert shown == f"raise {name} (only in Python)."


def test_a_flag_that_the_command_lacks_is_not_recommended() -> None:
    shown = with_flags("raise ReadOptions.meta_size_max", {"http.cert": "--http-cert"})
    assert shown == "raise --meta-size-max (which this command does not take)"


@pytest.mark.parametrize("text", ["/tmp/ReadOptions.verify", "'ReadOptions.verify'", "X.verify"])
def test_other_names_stay(text: str) -> None:
    assert with_flags(f"{text} is not a file", command_line()) == f"{text} is not a file"


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        logging.getLogger("libtz").warning("%s", error)
        raise error

    monkeypatch.setattr(load, "make_options", fail)


@pytest.mark.parametrize("kind", [OptionError, MemoryError, libtz.Error])
def test_errors_and_the_log_name_flags(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    failing(monkeypatch, kind("x: raise ReadOptions.host_memory_max"))
    logger = logging.getLogger("libtz")
    handlers, level = list(logger.handlers), logger.level
    try:
        assert main(["load", "x", "-v"]) != 0
    finally:
        logger.handlers[:] = handlers
        logger.setLevel(level)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["tz: x: raise --host-memory-max"] * 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--connections-max", "0"], ["--connections-max"]),
        (["--http-timeout-s", "-1"], ["--http-timeout-s"]),
        (["--http-retry-attempts", "0"], ["--http-retry-attempts"]),
        (["--s3-anonymous", "--s3-profile", "x"], ["--s3-anonymous", "--s3-profile"]),
        (["--s3-sse-kms-key-id", "x"], ["--s3-sse-kms-key-id", "--s3-sse."]),
        (
            ["--decryption-key-file", "x", "--decryption-passphrase-file", "x"],
            ["--decryption-key-file", "--decryption-passphrase-file"],
        ),
        (["--s3-endpoint", "ftp://x"], ["--s3-endpoint", "--s3-profile"]),
        (["--s3-profile", ""], ["--s3-profile"]),
        (["--http-cert", ""], ["--http-cert"]),
        (["--http-verify", ""], ["--http-verify"]),
        (["--decryption-key-file", ""], ["--decryption-key-file"]),
    ],
    ids=lambda value: value[0],
)
def test_wrong_flags_are_called_by_their_names(
    capsys: pytest.CaptureFixture[str], arguments: list[str], named: list[str]
) -> None:
    assert main(["convert", "x", "x.tz", *arguments]) == 2
    message = capsys.readouterr().err.replace("\n", ".")
    for name in named:
        assert name in message
    assert not PATH.search(message)
    assert not re.search(r"\b(None|True|False|str)\b", message)
    assert python_only(message) == []


def test_hints_about_a_file_name_flags(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "x.tz"
    libtz.torch.save_file({"a": torch.zeros(1 << 20)}, path)
    assert main(["load", str(path), "--decoded-size-max", "1M"]) == 2
    assert "but --decoded-size-max is 1048576; raise it" in capsys.readouterr().err
    with pytest.raises(OptionError, match=r"ReadOptions\.decoded_size_max is"):
        libtz.torch.load_file(path, options=ReadOptions(decoded_size_max=1 << 20))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--local", "map", "--digest", f"blake3:{'0' * 64}"], "--local cannot be 'map'"),
        (["--decryption-key-file", "{key}"], "leave out --decryption-key-file"),
        (["--decryption-passphrase-file", "{key}"], "leave out --decryption-passphrase-file"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_flags_that_do_not_fit_the_file_are_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], named: str
) -> None:
    path, key = tmp_path / "x.tz", tmp_path / "key"
    libtz.torch.save_file({"a": torch.zeros(1)}, path)
    key.write_bytes(bytes(32))
    assert main(["load", str(path), *(one.format(key=key) for one in arguments)]) != 0
    message = capsys.readouterr().err
    assert named in message
    assert python_only(message) == []


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_client_certificate_that_cannot_be_used_is_called_by_its_flag(
    capsys: pytest.CaptureFixture[str], scheme: str
) -> None:
    url = f"{scheme}://127.0.0.1:9/x.tz"  # nothing is sent
    assert main(["inspect", url, "--http-cert", "/no/such/file"]) == 2
    assert "the client certificate of --http-cert cannot be used" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["inspect", "verify", "load", "convert"])
def test_a_malformed_digest_is_called_by_its_flag(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    files = ["x", "x.tz"] if command == "convert" else ["x"]
    with pytest.raises(SystemExit) as caught:
        main([command, *files, "--digest", "blake3:12"])
    assert caught.value.code == 2
    assert "argument --digest: 'blake3:12' is not a digest" in capsys.readouterr().err


def test_diff_has_flags_for_either_key() -> None:
    arguments = _parser().parse_args(["diff", "a", "b"])
    shown = with_flags("give ReadOptions.decryption.key_file", arguments.flags)
    assert shown == "give --a-decryption-key-file or --b-decryption-key-file"
    assert flag_of("http.retry.attempts") == "--http-retry-attempts"
