"""Errors name the format of other files; any object with the buffer protocol can be opened."""

from __future__ import annotations

import array
import bz2
import gzip
import io
import lzma
import mmap
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import libtz
import libtz.torch


def torch_file(zipped: bool) -> bytes:
    target = io.BytesIO()
    torch.save({"w": torch.ones(3)}, target, _use_new_zipfile_serialization=zipped)
    return target.getvalue()


def npz() -> bytes:
    target = io.BytesIO()
    np.savez(target, w=np.ones(3))
    return target.getvalue()


def npy() -> bytes:
    target = io.BytesIO()
    np.save(target, np.ones(3))
    return target.getvalue()


def tar() -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.tz"))
    return target.getvalue()


def plain_zip() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("model.tz", b"x" * 300)
    return target.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 42\n"
HTML = b"\n <!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"
XML = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>'

FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "lfs": (lambda: LFS, "git lfs pull"),
    "html": (lambda: HTML, "HTML page"),
    "xml": (lambda: XML, "store's error"),
    "json": (lambda: b'{"weight_map": {}}', "index.json"),
    "torch": (lambda: torch_file(True), "tz convert"),
    "torch before 1.6": (lambda: torch_file(False), "tz convert"),
    "pickle": (lambda: pickle.dumps({"w": 1}), "pickle"),
    "gguf": (lambda: b"GGUF" + bytes(60), "GGUF"),
    "gzip": (lambda: gzip.compress(bytes(100)), "gzip"),
    "bzip2": (lambda: bz2.compress(bytes(100)), "bzip2"),
    "xz": (lambda: lzma.compress(bytes(100)), "xz archive"),
    "zip": (plain_zip, "zip archive"),
    "npz": (npz, "npz"),
    "npy": (npy, "NumPy"),
    "hdf5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    "tar": (tar, "tar archive"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("suffix", [".safetensors", ".tz", ""])
def test_other_files_are_named(tmp_path: Path, name: str, suffix: str) -> None:
    make, word = FILES[name]
    path = tmp_path / f"model{suffix}"
    path.write_bytes(make())
    with pytest.raises(libtz.FormatError, match=word) as caught:
        libtz.open(path)
    assert caught.value.code == "not-tz"


@pytest.fixture
def data() -> bytes:
    target = io.BytesIO()
    libtz.torch.save_file({"w": torch.arange(12.0)}, target)
    return target.getvalue()


def mapped(data: bytes) -> mmap.mmap:
    mapping = mmap.mmap(-1, len(data))
    mapping[:] = data
    return mapping


BUFFERS: dict[str, Callable[[bytes], Any]] = {
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "mmap": mapped,
    "array": lambda data: array.array("B", data),
    "array of numbers": lambda data: array.array("i", data + bytes(-len(data) % 4)),
    "numpy": lambda data: np.frombuffer(data, np.uint8),
    "numpy matrix": lambda data: np.frombuffer(data, np.uint8).reshape(2, -1),
}


@pytest.mark.parametrize("name", BUFFERS)
def test_buffers_are_sources(data: bytes, name: str) -> None:
    with libtz.open(BUFFERS[name](data)) as file:
        assert torch.equal(file["w"], torch.arange(12.0))


def test_a_buffer_with_gaps_is_refused(data: bytes) -> None:
    spread = np.repeat(np.frombuffer(data, np.uint8), 2)[::2]
    with pytest.raises(libtz.OptionError, match="contiguous"):
        libtz.open(spread)
