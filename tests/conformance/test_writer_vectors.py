"""Vectors of writers: libtz makes of a description the very file that the reference makes."""

from __future__ import annotations

import hashlib
import io
import struct
from typing import Any, Literal

import libtz_vectors
import make_writer_vectors
import pytest

from libtz._native.lib import Node
from libtz.options import WriteOptions
from libtz.structure import NodeKind
from libtz.writing.base import TensorSpec
from libtz.writing.tz import Writer

TESTS = libtz_vectors.load_writers()


def node(kind: str, key: Any, value: Any) -> Node:
    if kind == "float":
        value = struct.unpack(">d", bytes.fromhex(value))[0]
    return Node(NodeKind[kind.upper()], key, bytes.fromhex(value) if kind == "bytes" else value)


@pytest.mark.parametrize("test", TESTS, ids=lambda test: test["name"])
def test_libtz_writes_this_file(test: dict[str, Any]) -> None:
    given = test["description"]
    tied_to = {name: group[0] for group in given.get("ties", ()) for name in group[1:]}
    specs = [
        TensorSpec(each["name"], each["dtype"], each["shape"], tied_to.get(each["name"]))
        for each in given["tensors"]
    ]
    data = {each["name"]: libtz_vectors.data_of(each["data"]) for each in given["tensors"]}
    compress: Literal["auto", "off"] = "auto" if given["codec"] == "tiered" else "off"
    file = io.BytesIO()
    with Writer(
        file,
        specs,
        metadata=given.get("metadata"),
        structure=[node(*each) for each in given.get("structure", ())],
        options=WriteOptions(chunk_size=given["chunk_size"], compress=compress),
    ) as writer:
        for name in writer.pending:
            writer.write(name, data[name])
    assert len(file.getvalue()) == test["size"]
    assert hashlib.sha256(file.getvalue()).hexdigest() == test["sha256"]
    assert (writer.digest, writer.content_digest) == (test["file_digest"], test["content_digest"])


@pytest.mark.slow
def test_they_are_up_to_date() -> None:
    text = make_writer_vectors.PATH.read_text(encoding="utf-8")
    assert text == make_writer_vectors.document(), "run spec/reference/make_writer_vectors.py"
