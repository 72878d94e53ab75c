"""The rules of the code base: allowed imports, public names, lengths of files and lines.

The lists of exceptions can only shrink: an entry that is no longer needed fails too.
"""

import ast
import importlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.public_modules import PUBLIC_MODULES

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "bindings" / "python" / "libtz"

# A module imports from its own package and from rows above it. docs/ARCHITECTURE.md prints this.
LAYERS = (
    ("errors",),
    ("fields", "machine", "pages", "sodium", "strict_json", "text"),
    ("options",),
    ("_native",),
    ("format", "memory", "structure"),
    ("bundle", "manifest"),
    ("sources",),
    ("sinks",),
    ("schemes",),
    ("locations",),
    ("pinned", "signed"),
    ("transfer",),
    ("arrays",),
    ("checkpoint", "writing"),
    ("opening",),
    ("numpy", "sets", "signatures", "torch"),
    ("libtz",),
    ("cli", "compat", "integrations"),
)
RANKS = {package: rank for rank, row in enumerate(LAYERS) for package in row}

# Imported when they are first used.
SUBMODULES = {"numpy", "torch"}

LINES_MAX = 450
LONG_FILES: dict[str, int] = {}

COLUMNS_MAX = 100


def tracked(*patterns: str) -> list[Path]:
    names = subprocess.run(
        ["git", "ls-files", "-z", *patterns], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    return [ROOT / name for name in names.split("\0") if name and (ROOT / name).exists()]


def modules() -> dict[str, Path]:
    found = {}
    for path in tracked("bindings/python/libtz/*.py"):
        parts = ("libtz", *path.relative_to(PACKAGE).with_suffix("").parts)
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imported(path: Path) -> Iterator[str]:
    """Modules of the package that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("libtz"))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.relative_to(ROOT)}:{node.lineno}: a relative import"
            if (node.module or "").split(".")[0] == "libtz":
                for alias in node.names:
                    name = f"{node.module}.{alias.name}"
                    yield name if name in MODULES else str(node.module)


def package_of(module: str) -> str:
    return module.split(".")[1] if "." in module else module


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """The modules that each module imports."""
    return {module: set(imported(path)) for module, path in MODULES.items()}


def test_imports_go_down_only(imports: dict[str, set[str]]) -> None:
    wrong = [
        f"{module} imports {other}"
        for module, others in imports.items()
        for other in others
        if package_of(other) != package_of(module)
        and RANKS[package_of(other)] >= RANKS[package_of(module)]
    ]
    assert not wrong


def circles(imports: dict[Any, set[Any]]) -> set[Any]:
    """The files that import one another, and those that import these."""
    rest = dict(imports)
    while leaves := [name for name, used in rest.items() if not (used - {name}) & rest.keys()]:
        for name in leaves:
            del rest[name]
    return set(rest)


def test_modules_do_not_import_one_another_in_circles(imports: dict[str, set[str]]) -> None:
    assert not circles(imports), "these import one another"


def test_every_module_is_imported_by_another(imports: dict[str, set[str]]) -> None:
    used = {other for module, others in imports.items() for other in others - {module}}
    for module in MODULES:
        package = package_of(module)
        # Users import these; `_native.build` is run by the build.
        is_entry = module in PUBLIC_MODULES or package in ("cli", "compat", "integrations")
        is_package = MODULES[module].name == "__init__.py"
        if not (is_entry or is_package or module == "libtz._native.build"):
            assert module in used, f"no module imports {module}"


def test_every_zig_file_is_imported_by_another() -> None:
    paths = tracked("libtz/*.zig", "fuzz/*.zig")
    text = (ROOT / "build.zig").read_text() + "".join(path.read_text() for path in paths)
    unused = [str(path.relative_to(ROOT)) for path in paths if f'{path.name}"' not in text]
    assert not unused


def defined(tree: ast.Module) -> set[str]:
    """Functions and classes of a module without an underscore."""
    names = {
        node.name
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    }
    return names


def assigned(tree: ast.Module) -> set[str]:
    targets = [node.targets[0] for node in tree.body if isinstance(node, ast.Assign)]
    targets += [node.target for node in tree.body if isinstance(node, ast.AnnAssign)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def declared(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return names
    return None


def test_all_names_what_is_there() -> None:
    for module, path in MODULES.items():
        names = declared(ast.parse(path.read_text()))
        if names is not None and module != "libtz._native.build":
            shown = vars(importlib.import_module(module))
            assert set(names) <= shown.keys() | SUBMODULES, (
                f"{module}: __all__ names what is not there"
            )


# `compat` exports what the packages export that it stands in for.
@pytest.mark.parametrize("module", [m for m in PUBLIC_MODULES if package_of(m) != "compat"])
def test_public_modules_export_what_they_define(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text())
    imported_from_us = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("libtz")
        for alias in node.names
    }
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    shown = defined(tree) | (imported_from_us - used)
    # Constants and aliases are public if `__all__` lists them.
    values = {name for name in declared(tree) or () if name in assigned(tree)}
    assert shown == set(declared(tree) or ()) - SUBMODULES - {"__version__"} - values


# Of classes of others that ours have too: PyTorch's modules, and named tuples.
SHARED_NAMES = {"_buffers", "_fields"}


def private_names(tree: ast.Module) -> set[str]:
    """The functions, classes, fields and attributes that a file marks as its own."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
            names.add(node.id if isinstance(node, ast.Name) else node.attr)
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def test_private_attributes_are_used_in_the_file_that_defines_them() -> None:
    trees = {path: ast.parse(path.read_text()) for path in MODULES.values()}
    private = {path: private_names(tree) for path, tree in trees.items()}
    ours = set().union(*private.values()) - SHARED_NAMES
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in ours - private[path]
        and ast.unparse(node.value) not in ("self", "cls")
    ]
    assert not wrong


# Tests are read one by one, and the reference reader along the specification, whose order it has.
def code_files() -> list[Path]:
    python = tracked("bindings/**/*.py", "tools/*.py", "bench/*.py", "fuzz/*.py")
    return [*python, *tracked("libtz/**/*.zig", "fuzz/*.zig", "bench/*.zig")]


def length(path: Path) -> int:
    """Lines of code. In Zig, tests in the same file do not count."""
    lines = path.read_text().splitlines()
    if path.suffix == ".zig":
        begin = next((at for at, line in enumerate(lines) if line.startswith('test "')), None)
        return len(lines[:begin])
    return len(lines)


def test_files_are_short() -> None:
    found = {
        str(path.relative_to(ROOT)): length(path)
        for path in code_files()
        if length(path) > LINES_MAX and "_test" not in path.name
    }
    longer = {name: lines for name, lines in found.items() if lines > LONG_FILES.get(name, 0)}
    assert not longer, "split these, rather than raising the limit"
    assert not LONG_FILES.keys() - found.keys(), "these are short now: take them off the list"


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a Markdown file without code, tables, headings and numbers of lists."""
    is_code = False
    for number, line in enumerate(path.read_text().splitlines(), 1):
        text = line.lstrip()
        is_code ^= text.startswith("```")
        if not (is_code or text.startswith(("|", "#"))):
            yield number, re.sub(r"^\d+\. |`[^`]*`", "", text)


def test_markdown_has_one_sentence_in_a_line() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked("*.md")
        for number, text in prose(path)
        if re.search(r"[.!?][)*\"”]* +[*\[(\"“]*[A-Z]", text)
    ]
    assert not found


# ruff checks Python; the formatters of Zig and C do not wrap lines.
def test_lines_fit() -> None:
    wide = {
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked("*.zig", "*.h", "*.c")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > COLUMNS_MAX
    }
    assert not wide


def test_zig_files_do_not_import_one_another_in_circles() -> None:
    imports = {
        path: {
            (path.parent / name).resolve()
            for name in re.findall(r'@import\("([^"]+\.zig)"\)', path.read_text())
        }
        for path in tracked("libtz/src/*.zig")
    }
    assert not circles(imports), "these import one another"


def test_the_documents_print_the_layers() -> None:
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    table = "\n".join("  ".join(row) for row in LAYERS)
    assert table in text, "docs/ARCHITECTURE.md, Layers: print LAYERS of tests/test_tidy.py"
