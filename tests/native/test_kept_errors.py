"""Errors that callers keep. Their frames refer to buffers, which must not be exported to C."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import libtz

ROOT = Path(__file__).parents[2]
PACKAGE = Path(libtz.__file__).parent
ROUNDS = 12


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def calls(tree: ast.AST, name: str) -> list[ast.Call]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            called = function.attr if isinstance(function, ast.Attribute) else function
            if called == name or (isinstance(called, ast.Name) and called.id == name):
                found.append(node)
    return found


def test_buffers_are_exported_by_one_function_for_one_block() -> None:
    exporting = []
    for path, tree in trees():
        managed = [
            item.context_expr
            for node in ast.walk(tree)
            if isinstance(node, ast.With)
            for item in node.items
        ]
        assert all(call in managed for call in calls(tree, "exported")), path
        exporting += [path] * len(calls(tree, "from_buffer"))
    assert exporting == ["_native/memory.py"]


@pytest.mark.slow
def test_errors_may_be_kept_with_their_frames_and_collected() -> None:
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.native.kept_errors", str(ROUNDS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    *left, alive = done.stdout.split()
    assert alive == "alive"
    # An error was raised in each function that exports a buffer.
    exporting = {
        f"{path}:{node.name}"
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and calls(node, "exported")
    }
    assert exporting <= set(left)
