"""Malformed .safetensors files. Each gets its error; the table also says whether the safetensors
package accepts the file."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch

from libtz.compat.safetensors import torch as our_torch
from libtz.errors import FormatError


def entry(begin: int = 0, end: int = 4, shape: str = "[4]", dtype: str = "U8") -> str:
    return f'{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}'


def packed(header: str | bytes, data: bytes = b"1234", size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else header.encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


# The fault, the tensor and the reason in the error, the file, and whether the safetensors package
# refuses it.
HOSTILE: list[tuple[str, str | None, str, bytes, bool]] = [
    (
        "overlap",
        "b",
        "its data overlap those of another tensor",
        packed(f'{{"a":{entry()},"b":{entry(2, 6)}}}', b"123456"),
        True,
    ),
    (
        "gap",
        "b",
        "there is a gap before its data",
        packed(f'{{"a":{entry()},"b":{entry(6, 10)}}}', b"1234567890"),
        True,
    ),
    (
        "gap at the start",
        "a",
        "there is a gap before its data",
        packed(f'{{"a":{entry(1, 5)}}}', b"12345"),
        True,
    ),
    (
        "truncated data",
        "a",
        "the file ends before its data end",
        packed(f'{{"a":{entry()}}}', b"123"),
        True,
    ),
    (
        "trailing bytes",
        None,
        "there are bytes after the data that belong to no tensor",
        packed(f'{{"a":{entry()}}}', b"12345"),
        True,
    ),
    (
        "shape overflow",
        "a",
        "its shape is too large",
        packed(f'{{"a":{entry(shape="[4294967296,4294967297]")}}}'),
        True,
    ),
    (
        "negative offset",
        "a",
        "expected a whole number that is not negative",
        packed(f'{{"a":{entry(-4, 0)}}}'),
        True,
    ),
    (
        "negative shape",
        "a",
        "expected a whole number that is not negative",
        packed(f'{{"a":{entry(shape="[-4]")}}}'),
        True,
    ),
    (
        "reversed offsets",
        "a",
        "its data_offsets contradict",
        packed(f'{{"a":{entry(4, 0)}}}'),
        True,
    ),
    (
        "float offset",
        "a",
        "expected ]",
        packed('{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4.0]}}'),
        True,
    ),
    (
        "huge header size",
        None,
        "the file ends within its header",
        packed(f'{{"a":{entry()}}}', size=99_000_000),
        True,
    ),
    (
        "header size 2^63",
        None,
        "the header is larger than 100 MB",
        packed(f'{{"a":{entry()}}}', size=1 << 63),
        True,
    ),
    (
        "header padded with NUL",
        None,
        "more than spaces follows the end",
        packed(f'{{"a":{entry()}}}\0\0'),
        True,
    ),
    (
        "size mismatch",
        "a",
        "its data_offsets contradict",
        packed(f'{{"a":{entry(shape="[5]")}}}'),
        True,
    ),
    ("unknown dtype", "a", "its dtype is unknown", packed(f'{{"a":{entry(dtype="U7")}}}'), True),
    (
        "odd F4",
        "a",
        "its last dimension is not a multiple",
        packed(f'{{"a":{entry(0, 4, "[7]", "F4")}}}'),
        True,
    ),
    ("deep JSON", None, "not a tz, safetensors or tensors file", packed("[" * 200_000), True),
    (
        "not UTF-8",
        None,
        "the header is not UTF-8",
        packed(b'{"\xff":' + entry().encode() + b"}"),
        True,
    ),
    (
        "duplicate field",
        "a",
        "its dtype occurs twice",
        packed('{"a":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}}'),
        True,
    ),
    (
        "metadata not text",
        None,
        'expected "',
        packed(f'{{"__metadata__":{{"a":1}},"a":{entry()}}}'),
        True,
    ),
    ("NaN", None, 'expected "', packed(f'{{"__metadata__":{{"a":NaN}},"a":{entry()}}}'), True),
    (
        "three offsets",
        "a",
        "expected ]",
        packed('{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4,4]}}'),
        True,
    ),
    ("empty file", None, "the file ends too early", b"", True),
    ("seven bytes", None, "not a tz, safetensors or tensors file", b"\x02\0\0\0\0\0\0", True),
    (
        "duplicate tensor",
        "a",
        "its name occurs twice",
        packed(f'{{"a":{entry()},"a":{entry()}}}'),
        False,
    ),
    (
        "duplicate tensor, one empty",
        "a",
        "its name occurs twice",
        packed(f'{{"a":{entry(0, 0, "[0]")},"a":{entry()}}}'),
        False,
    ),
    (
        "name with NUL",
        "../../etc/passwd\0",
        "its name has a control character",
        packed(f'{{"../../etc/passwd\\u0000":{entry()}}}'),
        False,
    ),
    (
        "metadata key twice",
        None,
        "a key of __metadata__ occurs twice",
        packed(f'{{"__metadata__":{{"k":"","k":""}},"a":{entry()}}}'),
        False,
    ),
    (
        "leading space",
        None,
        "not a tz, safetensors or tensors file",
        packed(f' {{"a":{entry()}}}'),
        False,
    ),
    (
        "extra field",
        "a",
        "it has more than dtype, shape and data_offsets",
        packed('{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"x":1}}'),
        False,
    ),
]


@pytest.mark.parametrize(
    ("tensor", "reason", "data", "they_refuse"),
    [pytest.param(*row[1:], id=row[0]) for row in HOSTILE],
)
@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_hostile_files(
    tensor: str | None, reason: str, data: bytes, they_refuse: bool, backend: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    calls: dict[str, Callable[[], Any]] = {
        str(path): lambda: our_torch.load_file(path, backend=backend),
        "<memory>": lambda: our_torch.load(data),
    }
    for file, call in calls.items():
        with pytest.raises(FormatError) as caught:
            call()
        assert caught.value.tensor == tensor
        place = f"{file}, byte" if tensor is None else f"{file}, tensor {tensor!r}, byte"
        assert str(caught.value).startswith(place)
        assert reason in str(caught.value)
    try:
        safetensors.torch.load_file(path)
    except safetensors.SafetensorError:
        refused = True
    else:
        refused = False
    assert refused == they_refuse


def test_names_that_look_like_paths_are_names(tmp_path: Path) -> None:
    """Both packages accept such names, since names are never used as paths."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(packed(json.dumps({"../../etc/passwd": json.loads(entry())})))
    assert list(our_torch.load_file(path)) == list(safetensors.torch.load_file(path))
