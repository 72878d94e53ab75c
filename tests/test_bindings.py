"""Builds and runs the example programs in bindings/c, go and rust, with tz.h and libtz.a."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from pycparser import c_ast, c_parser
from tests.files import sample

import build_native
from libtz._native import lib
from libtz.format import digest_text, dtype_name

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
BINDINGS = ROOT / "bindings"
INCLUDE = ROOT / "libtz" / "include"
LIBRARY = ROOT / "zig-out" / build_native.host_target() / "lib"

SAMPLE = sample(compress=True)

C_FLAGS = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-O1"]


def run(command: Sequence[str | Path], cwd: Path = ROOT, **environment: str) -> None:
    result = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def build_c(compiler: list[str]) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        source: list[str | Path] = [
            f"-I{INCLUDE}",
            BINDINGS / "c" / "tz_show.c",
            LIBRARY / "libtz.a",
        ]
        cache = str(ROOT / ".zig-cache" / "global")
        output: list[str | Path] = ["-o", folder / "tz_show"]
        run(
            [*compiler, *C_FLAGS, *source, *output],
            ZIG_GLOBAL_CACHE_DIR=os.environ.get("ZIG_GLOBAL_CACHE_DIR", cache),
        )
        return folder / "tz_show"

    return build


def build_rust(folder: Path) -> Path:
    # A copy, since cargo writes a lock file next to Cargo.toml.
    package = shutil.copytree(BINDINGS / "rust", folder / "rust")
    # libtz.a in a folder without libtz.so, which linkers would prefer.
    shutil.copy(LIBRARY / "libtz.a", folder)
    run(
        ["cargo", "build", "--offline", "--manifest-path", package / "Cargo.toml"],
        RUSTFLAGS=f"-D warnings -L native={folder}",
        CARGO_TARGET_DIR=str(folder / "target"),
    )
    return folder / "target" / "debug" / "tz_show"


def build_go(folder: Path) -> Path:
    shutil.copy(LIBRARY / "libtz.a", folder)
    run(
        ["go", "build", "-o", folder / "tz_show", "."],
        cwd=BINDINGS / "go",
        CGO_ENABLED="1",
        CGO_CFLAGS=f"-I{INCLUDE}",
        CGO_LDFLAGS=f"-L{folder}",
        GOCACHE=str(folder / "cache"),
    )
    return folder / "tz_show"


# The program that each needs, and how it is built.
PROGRAMS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "c-zig": (sys.executable, build_c([sys.executable, "-m", "ziglang", "cc"])),
    "c-gcc": ("gcc", build_c(["gcc"])),
    "rust": ("cargo", build_rust),
    "go": ("go", build_go),
}


@pytest.fixture(scope="module", params=PROGRAMS)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tool, build = PROGRAMS[request.param]
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    return build(tmp_path_factory.mktemp(request.param))


def show(program: Path, *arguments: str | Path) -> tuple[int, str, str]:
    result = subprocess.run(
        [program, *arguments], capture_output=True, encoding="utf-8", check=False
    )
    return result.returncode, result.stdout, result.stderr


def described() -> dict[str, tuple[str, str]]:
    """The line about each tensor and its content digest, by name, from the Python bindings."""
    header = lib.Header.open(SAMPLE.data, len(SAMPLE.data), label="sample")
    assert isinstance(header, lib.Header)
    found = {}
    for index in range(header.info.tensor_count):
        tensor = header.tensor(index)
        assert tensor.content_digest is not None
        found[tensor.name] = (
            f"{tensor.name} {dtype_name(tensor.dtype)} {list(tensor.shape)} "
            f"{tensor.decoded_size} bytes, {tensor.stored_size} stored",
            digest_text(tensor.content_digest),
        )
    return found


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "sample.tz"
    path.write_bytes(SAMPLE.data)
    return path


def test_lists_and_loads_every_tensor(program: Path, path: Path) -> None:
    expected = described()
    lines = [line for line, _ in expected.values()]
    for name, (_, digest) in expected.items():
        status, output, errors = show(program, path, name)
        assert status == 0, errors
        assert output.splitlines() == [*lines, digest]
    assert show(program, path)[1].splitlines() == lines


def test_other_formats_are_recognised(program: Path, tmp_path: Path) -> None:
    text = b'{"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}'
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"abcdefghijklmnopqrstuvwx")
    status, output, errors = show(program, path, "w")
    assert status == 0, errors
    digest = digest_text(lib.blake3(b"abcdefghijklmnopqrstuvwx"))
    assert output.splitlines() == ["w f32 [2, 3] 24 bytes, 24 stored", digest]


def test_says_what_is_wrong(program: Path, path: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.tz"
    damaged.write_bytes(SAMPLE.data[:-1] + bytes([SAMPLE.data[-1] ^ 1]))  # of a tied tensor
    status, output, errors = show(program, damaged, "a.weight")
    assert status != 0
    assert "checksum" in errors
    assert "these are not the bytes that were written" in errors
    assert "TZ1-85" in errors  # the digest, as a program that checks one of the two should
    assert "blake3:" not in output
    assert show(program, damaged, "scalar")[0] == 0
    for wrong in ([Path(__file__)], [tmp_path / "missing"], [path, "no such tensor"], []):
        status, output, errors = show(program, *wrong)
        assert status != 0
        assert errors
        assert "panicked" not in errors


def test_the_example_in_the_header_compiles(tmp_path: Path) -> None:
    text = (INCLUDE / "tz.h").read_text(encoding="utf-8")
    example = text.split(" * Example.")[1].split(":\n", 1)[1].split(" * Writing a file")[0]
    lines = [line.removeprefix(" *") for line in example.splitlines()]
    program = tmp_path / "example.c"
    program.write_text(
        '#include "tz.h"\n#include <stdio.h>\n'
        "int example(const void *file, size_t file_size);\n"
        "int example(const void *file, size_t file_size) {\n" + "\n".join(lines) + "return 0;\n}\n"
    )
    compiler: list[str | Path] = [sys.executable, "-m", "ziglang", "cc", "-c"]
    run([*compiler, *C_FLAGS, f"-I{INCLUDE}", program, "-o", tmp_path / "example.o"])


# ---- The hand-written declarations in Rust -------------------------------------------------------

C_TO_RUST = {
    "char": "c_char",
    "int32_t": "i32",
    "size_t": "usize",
    "void": "c_void",
    "tz_status": "Status",
    # Options that the program leaves out.
    "tz_open_options": "c_void",
    "tz_plan_options": "c_void",
    **{f"uint{bits}_t": f"u{bits}" for bits in (8, 32, 64)},
}


def rust_type(node: c_ast.Node, *, parameter: bool) -> str:
    """A C declaration in Rust. Array parameters are pointers."""
    if isinstance(node, c_ast.ArrayDecl) and not parameter:
        return f"[{rust_type(node.type, parameter=False)}; {node.dim.value}]"
    if isinstance(node, (c_ast.ArrayDecl, c_ast.PtrDecl)):
        target = node.type
        is_const = "const" in getattr(target, "quals", [])
        kind = "const" if is_const else "mut"
        return f"*{kind} {rust_type(target, parameter=parameter)}"
    assert isinstance(node, c_ast.TypeDecl)
    (name,) = node.type.names
    return C_TO_RUST.get(name) or name.removeprefix("tz_").title().replace("_", "")


def header_declarations() -> dict[str, str]:
    """Functions and fields of structs of tz.h in Rust, without spaces."""
    text = (INCLUDE / "tz.h").read_text(encoding="utf-8")
    region = text.split("/* CFFI-BEGIN */")[1].split("/* CFFI-END */")[0]
    known = "".join(f"typedef int {name};" for name in C_TO_RUST if name[0] in "uis")
    tree = c_parser.CParser().parse(known + re.sub(r"/\*.*?\*/", "", region, flags=re.DOTALL))
    found = {}
    for node in tree.ext:
        if isinstance(node, c_ast.Typedef) and isinstance(node.type.type, c_ast.Struct):
            fields = [
                f"{field.name}:{rust_type(field.type, parameter=False)}"
                for field in node.type.type.decls or []
            ]
            found[node.name] = ",".join(fields)
        elif isinstance(node, c_ast.Decl) and isinstance(node.type, c_ast.FuncDecl):
            parameters = node.type.args.params if node.type.args else []
            arguments = ",".join(
                f"{one.name}:{rust_type(one.type, parameter=True)}"
                for one in parameters
                if one.name
            )
            result = rust_type(node.type.type, parameter=True)
            found[node.name] = f"({arguments})" + ("" if result == "c_void" else f"->{result}")
    return {name: text.replace(" ", "") for name, text in found.items()}


def rust_declarations() -> dict[str, str]:
    source = (BINDINGS / "rust" / "src" / "tz.rs").read_text(encoding="utf-8")
    source = re.sub(r"\s", "", source.split("structs!{", 1)[-1])
    source = source.split("structs!{", 1)[1]
    functions = re.findall(r"pubfn(tz_\w+)(\(.*?\)(?:->.*?)?);", source)
    structs = re.findall(r'"(tz_\w+)"\w+\{(.*?)\}', source)
    return {
        name: text.replace(",)", ")").removesuffix(",") for name, text in [*functions, *structs]
    }


def test_the_declarations_in_rust_are_those_of_the_header() -> None:
    declared, header = rust_declarations(), header_declarations()
    assert len(declared) > 20
    assert declared == {name: header[name] for name in declared}
