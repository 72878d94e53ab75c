"""Messages name an option by its path in Python, and by its flag on the command line."""

from __future__ import annotations

import argparse
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import libtz
import libtz.torch
from libtz import options
from libtz.cli import load
from libtz.cli.main import _parser, main
from libtz.cli.options import add_options, flag_of, with_flags
from libtz.errors import OptionError
from libtz.fields import Field, fields_of
from libtz.options import ReadOptions, WriteOptions

PACKAGE = Path(libtz.__file__).parent
CLASSES = {
    name: getattr(options, name) for name in options.__all__ if name.endswith(("Options", "Policy"))
}
FIELDS = {
    f"{name}.{field.path}": field for name, cls in CLASSES.items() for field in fields_of(cls)
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


def command_line() -> dict[str, str]:
    parser = argparse.ArgumentParser()
    add_options(parser, ReadOptions, WriteOptions)
    flags = parser.get_default("flags")
    assert set(flags.values()) <= set(parser._option_string_actions)
    return dict(flags)


@pytest.mark.parametrize("cls", [ReadOptions, WriteOptions])
def test_every_option_is_shown_as_its_flag(cls: type[Any]) -> None:
    flags = command_line()
    for field in fields_of(cls):
        for name in (f"{cls.__name__}.{field.path}", f"{field.owner}.{leaf(field)}"):
            shown = with_flags(f"raise {name}.", flags)
            if field.option.has_flag:
                assert shown == f"raise {flags[field.path]}."
            else:
                assert shown == f"raise {name} (only in Python)."


def leaf(field: Field) -> str:
    return field.path.rpartition(".")[2]


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
        (
            ["--s3-endpoint", "ftp://x"],
            ["--s3-endpoint", "S3Options.access_key_id (only in Python)"],
        ),
    ],
    ids=lambda value: value[0],
)
def test_wrong_flags_are_called_by_their_names(
    capsys: pytest.CaptureFixture[str], arguments: list[str], named: list[str]
) -> None:
    assert main(["load", "x", *arguments]) == 2
    message = capsys.readouterr().err.replace("\n", ".")
    for name in named:
        assert name in message
    python_only = re.compile(r"(S3Options\.\w+) \(only in Python\)")
    assert not PATH.search(python_only.sub("", message))


def test_hints_about_a_file_name_flags(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "x.tz"
    libtz.torch.save_file({"a": torch.zeros(1 << 20)}, path)
    assert main(["load", str(path), "--decoded-size-max", "1M"]) == 2
    assert "more than --decoded-size-max allows" in capsys.readouterr().err
    with pytest.raises(OptionError, match=r"more than ReadOptions\.decoded_size_max allows"):
        libtz.torch.load_file(path, options=ReadOptions(decoded_size_max=1 << 20))


def test_diff_has_flags_for_either_key() -> None:
    arguments = _parser().parse_args(["diff", "a", "b"])
    shown = with_flags("give ReadOptions.decryption.key_file", arguments.flags)
    assert shown == "give --a-decryption-key-file or --b-decryption-key-file"
    assert flag_of("http.retry.attempts") == "--http-retry-attempts"
