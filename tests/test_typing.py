"""The public interface for type checkers and for help(): tensors are tensors, mistakes are found,
every name can be imported, and every docstring says what is raised."""

import ast
import builtins
import collections.abc
import dataclasses
import functools
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import types
import typing
from pathlib import Path

import numpy.typing
import pytest
import torch
from tests.public_modules import PUBLIC_MODULES

import libtz

PACKAGE = Path(libtz.__file__).parent.parent

SCRIPT = """\
from typing import Any

import torch
from numpy.typing import NDArray
from typing_extensions import assert_type

import libtz
import libtz.numpy
import libtz.torch


def load(source: libtz.SourceLike, names: libtz.Names = None) -> dict[str, torch.Tensor]:
    with libtz.torch.open(source, options=libtz.ReadOptions(verify=False)) as f:
        assert_type(f, libtz.Checkpoint[torch.Tensor])
        assert_type(f["w"], torch.Tensor)
        assert_type(f.get("w"), torch.Tensor | None)
        assert_type(f.load(names, device="cuda"), dict[str, torch.Tensor])
        for name, tensor in f.iter_tensors(libtz.prefix("a.")):
            assert_type(name, str)
            assert_type(tensor, torch.Tensor)
        part: libtz.TensorSlice[torch.Tensor] = f.get_slice("w")
        assert_type(part[:, 1:2], torch.Tensor)
        assert_type(f.load_slices([("w", 0)]), list[torch.Tensor])
        stats: libtz.TransferStats = f.stats
        assert_type(stats.seconds, float)
        nodes: list[libtz.Node] = f.structure()
        info: libtz.TensorInfo = f.info("w")
        print(info.shape, nodes, f.verified == "pinned", f.format == "tz")
    with libtz.open(source) as default:
        assert_type(default, libtz.Checkpoint[torch.Tensor])
        assert_type(default.load(device=torch.device("cuda:0")), dict[str, torch.Tensor])
    with libtz.numpy.open(source) as g:
        assert_type(g["w"], NDArray[Any])
    return libtz.torch.load_file(source)
"""

MISTAKES = """\
import libtz
import libtz.torch


def wrong(source: libtz.SourceLike) -> None:
    with libtz.torch.open(source) as f:
        f["w"].no_such_method()
        f.load(names=7)
        if f.format == "zip":
            pass
"""


def mypy(folder: Path, script: str) -> list[str]:
    (folder / "mypy.ini").write_text("[mypy]\n")
    # The cache of `make check`, which has analysed torch for this version of Python.
    cache = PACKAGE.parent.parent / ".mypy_cache"
    options = ["--strict", "--no-error-summary", "--cache-dir", str(cache)]
    options += ["--python-version", "3.10"]
    return lines_about(folder, script, ["mypy", *options], {"MYPYPATH": str(PACKAGE)})


def pyright(folder: Path, script: str) -> list[str]:
    settings = {"typeCheckingMode": "strict", "extraPaths": [str(PACKAGE)], "include": ["."]}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    return lines_about(folder, script, ["basedpyright", "--pythonpath", sys.executable], {})


def lines_about(
    folder: Path, script: str, command: list[str], environment: dict[str, str]
) -> list[str]:
    """The line numbers of errors, and their text."""
    (folder / "script.py").write_text(script)
    result = subprocess.run(
        [sys.executable, "-m", *command, "script.py"],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    found = re.findall(r"script\.py:(\d+:.*)", result.stdout)
    assert bool(found) == bool(result.returncode), result.stdout + result.stderr
    return found


@pytest.mark.slow
@pytest.mark.parametrize("checker", [mypy, pyright])
def test_a_script_in_strict_mode(
    checker: typing.Callable[[Path, str], list[str]], tmp_path: Path
) -> None:
    assert checker(tmp_path, SCRIPT) == []
    numbers = {int(line.partition(":")[0]) for line in checker(tmp_path, MISTAKES)}
    assert numbers == {7, 8, 9}


STANDARD = (typing, collections.abc, numpy.typing)


@functools.cache
def public_modules() -> list[types.ModuleType]:
    """When they are first needed: they import transformers, which takes seconds."""
    return [importlib.import_module(name) for name in PUBLIC_MODULES]


def is_public(name: str, found: object) -> bool:
    return any(getattr(module, name, None) is found for module in public_modules())


def public_objects() -> list[typing.Any]:
    """Functions and classes, each once."""
    found = [getattr(module, name) for module in public_modules() for name in module.__all__]
    unique = {id(each): each for each in found}.values()
    return [each for each in unique if inspect.isfunction(each) or inspect.isclass(each)]


def members(cls: type) -> typing.Iterator[tuple[str, typing.Any]]:
    """The public methods and properties of a class, those of internal base classes too."""
    for base in cls.__mro__:
        if base.__module__.startswith("libtz"):
            for name, member in vars(base).items():
                if isinstance(member, (classmethod, staticmethod)):
                    member = member.__func__
                elif isinstance(member, property):
                    member = member.fget
                is_shown = not name.startswith("_") or name in ("__init__", "__getitem__")
                if is_shown and inspect.isfunction(member):
                    yield f"{cls.__qualname__}.{name}", member


def functions() -> list[tuple[str, typing.Any]]:
    """Public functions and methods, by their qualified names."""
    objects = public_objects()
    plain = [(obj.__qualname__, obj) for obj in objects if inspect.isfunction(obj)]
    inner = [pair for obj in objects if inspect.isclass(obj) for pair in members(obj)]
    return list({id(function): (name, function) for name, function in plain + inner}.values())


def test_defaults_of_options_are_none() -> None:
    long = [
        f"{name}: {parameter}"
        for name, function in functions()
        for parameter in inspect.signature(function).parameters.values()
        if dataclasses.is_dataclass(parameter.default)
    ]
    assert not long


# What modules import from PyTorch only for type checkers.
ONLY_FOR_CHECKERS = {"torch": torch, "Tensor": torch.Tensor}


def internal_names(annotation: str, scope: dict[str, typing.Any]) -> typing.Iterator[str]:
    """The names of libtz in an annotation that no public module exports."""
    for node in ast.walk(ast.parse(annotation, mode="eval")):
        if isinstance(node, (ast.Name, ast.Attribute)) and not hasattr(builtins, ast.unparse(node)):
            text = ast.unparse(node)
            name = text.rpartition(".")[2]
            found = eval(text, ONLY_FOR_CHECKERS | scope)
            is_plain = isinstance(found, (type, types.ModuleType, typing.TypeVar))
            is_known = any(getattr(module, name, None) is found for module in STANDARD)
            is_alias = not is_plain and not is_known
            is_ours = is_alias or (isinstance(found, type) and found.__module__.startswith("libtz"))
            if is_ours and not is_public(name, found):
                yield text


def test_names_in_signatures_are_public() -> None:
    internal = [
        f"{name}: {internal}"
        for name, function in functions()
        for annotation in function.__annotations__.values()
        for internal in internal_names(str(annotation), inspect.unwrap(function).__globals__)
    ]
    assert not internal


def fields_with_types(cls: type) -> typing.Iterator[tuple[str, str, dict[str, typing.Any]]]:
    """The annotated names of a class, with the types as text and where these are looked up."""
    for base in cls.__mro__:
        if base.__module__.startswith("libtz"):
            scope = vars(sys.modules[base.__module__])
            for name, annotation in vars(base).get("__annotations__", {}).items():
                text = getattr(annotation, "__forward_arg__", annotation)  # of a NamedTuple
                if not name.startswith("_"):
                    yield f"{base.__qualname__}.{name}", text, scope


def test_names_of_fields_are_public() -> None:
    internal = [
        f"{name}: {internal}"
        for cls in filter(inspect.isclass, public_objects())
        for name, text, scope in fields_with_types(cls)
        for internal in internal_names(text, scope)
    ]
    assert not internal


def test_public_names_have_a_docstring() -> None:
    inner = [function for _, function in functions()]
    silent = [
        each.__qualname__
        for each in (*public_objects(), *inner)
        if not each.__doc__ and not each.__name__.startswith("_")
    ]
    assert not silent


@pytest.mark.parametrize("name", ["libtz", "libtz.numpy", "libtz.torch"])
def test_docstrings_of_functions_say_what_is_raised(name: str) -> None:
    module = importlib.import_module(name)
    functions = [getattr(module, each) for each in module.__all__]
    silent = [
        function.__name__
        for function in filter(inspect.isfunction, functions)
        if not re.search(r"\braises?\b", function.__doc__ or "", re.IGNORECASE)
    ]
    assert not silent
