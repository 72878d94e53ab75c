"""The kit for other implementations: it stands alone, its runner finds faults, it can be packed."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import libtz_vectors
import pytest

KIT = Path(libtz_vectors.__file__).parent
SPEC = KIT.parent
VECTORS = libtz_vectors.load_all()


def run(*command: str | Path, cwd: Path | None = None) -> str:
    call = list(map(str, command))
    result = subprocess.run(call, cwd=cwd, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_it_imports_the_standard_library_only() -> None:
    tree = ast.parse((KIT / "libtz_vectors.py").read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found.add(str(node.module))
    assert {name.split(".")[0] for name in found} <= sys.stdlib_module_names


def example() -> dict[str, Any]:
    return libtz_vectors.expected_description(libtz_vectors.load(SPEC / EXAMPLE))


EXAMPLE = "vectors/v1/valid/example.hex"


def test_the_example_of_the_readme_is_a_file() -> None:
    text = (KIT / "README.md").read_text(encoding="utf-8")
    shown = json.loads(re.findall(r"```json\n(.*?)```", text, re.DOTALL)[0])
    assert shown == example()
    assert f"`{EXAMPLE}`" in text


# The runner, in this process ----------------------------------------------------------------------


@pytest.fixture
def agreeing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that says of each vector what it should, as if it were run."""

    def answer(command: Any, data: bytes, **options: Any) -> dict[str, Any]:
        vector = next(
            v for v in VECTORS if (v.data, v.pin, v.operation) == (data, *options.values())
        )
        if vector.expect != "ok":
            expected: dict[str, Any] = {"result": "error", "class": vector.expect}
            return expected
        digests = {"file_digest": vector.file_digest, "content_digest": vector.content_digest}
        return {**digests, **libtz_vectors.expected_description(vector)}

    monkeypatch.setattr(libtz_vectors, "run_command", answer)


@pytest.mark.usefixtures("agreeing")
@pytest.mark.parametrize("level", libtz_vectors.LEVELS)
def test_a_reader_that_is_right_passes(level: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert libtz_vectors.main(["--level", level, "command"]) == 0
    assert capsys.readouterr().out == f"{len(VECTORS)} of {len(VECTORS)} vectors agree\n"


@pytest.mark.parametrize("level", libtz_vectors.LEVELS)
def test_levels_compare_less_and_less(level: str) -> None:
    """A reader that reports another class, or that misses errors beyond its level."""
    wrong_class = {"result": "error", "class": "other"}
    for vector in VECTORS:
        for description in ({"result": "ok"}, wrong_class):
            found = libtz_vectors.mismatches(vector, description, level=level)
            must_find = level != "load" or vector.level == "load"
            if vector.expect == "ok":
                assert not (description is wrong_class and not found)
            elif description is wrong_class:
                assert bool(found) == (level == "diagnostic")
            else:
                assert bool(found) == must_find


def test_a_command_that_fails_is_told_from_one_that_refuses(tmp_path: Path) -> None:
    for code, text in ((2, "{}"), (0, '{"result": "error"}'), (1, '{"result": "ok"}')):
        script = tmp_path / "command.py"
        script.write_text(f"print({text!r}); raise SystemExit({code})", encoding="utf-8")
        with pytest.raises(RuntimeError, match="ended with"):
            libtz_vectors.run_command([sys.executable, str(script)], b"")


def test_a_writer_is_compared_byte_by_byte(tmp_path: Path) -> None:
    test = libtz_vectors.load_writers()[0]
    script = tmp_path / "writer.py"
    script.write_text("import sys; open(sys.argv[2], 'wb').write(b'tz')", encoding="utf-8")
    problems = libtz_vectors.written_problems(test, [sys.executable, str(script)])
    assert [problem.split(":")[0] for problem in problems] == ["size", "sha256"]
    right = {**test, "size": 2, "sha256": hashlib.sha256(b"tz").hexdigest()}
    assert not libtz_vectors.written_problems(right, [sys.executable, str(script)])


# The packages -------------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The folder of the specification, somewhere else."""
    ignored = shutil.ignore_patterns("__pycache__", "reference", "dist")
    return shutil.copytree(SPEC, tmp_path / "spec", ignore=ignored)


@pytest.mark.slow
def test_the_python_package_has_the_vectors(copy: Path, tmp_path: Path) -> None:
    run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"),
        *("--wheel-dir", tmp_path, copy / "kit"),
    )
    (wheel,) = tmp_path.glob("libtz_vectors-*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    program = "import libtz_vectors as v; print(len(v.load_all()), len(v.load_writers()))"
    path = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); "
    found = run(sys.executable, "-I", "-c", path + program, cwd=tmp_path)
    assert found.split() == [str(len(VECTORS)), str(len(libtz_vectors.load_writers()))]


@pytest.mark.slow
def test_the_javascript_package_reads_the_same(copy: Path, tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    run(
        "npm", "pack", "--offline", "--silent", "--pack-destination", tmp_path, cwd=copy / "kit/npm"
    )
    (archive,) = tmp_path.glob("libtz-vectors-*.tgz")
    shutil.unpack_archive(archive, tmp_path)
    program = """
        import { createHash } from "node:crypto";
        import { description, loadAll, loadWriters } from "./package/index.js";
        const sum = (data) => createHash("sha256").update(data).digest("hex");
        const told = loadAll().map((v) => ({ ...v, data: sum(v.data), described: description(v) }));
        console.log(JSON.stringify([told, loadWriters().length]));
    """
    (tmp_path / "program.mjs").write_text(program, encoding="utf-8")
    found, writer_count = json.loads(run("node", "program.mjs", cwd=tmp_path))
    assert writer_count == len(libtz_vectors.load_writers())
    assert len(found) == len(VECTORS)
    for mine, vector in zip(found, VECTORS, strict=True):
        assert mine["name"] == vector.name
        assert mine["data"] == hashlib.sha256(vector.data).hexdigest()
        same = ("expect", "rules", "comment", "operation", "pin", "requires", "level", "released")
        assert all(mine[key] == getattr(vector, key) for key in same)
        described = libtz_vectors.expected_description(vector)
        found_text = mine["described"]
        assert (found_text is None) == (described == {"result": "ok"})
        assert found_text is None or json.loads(found_text) == described
