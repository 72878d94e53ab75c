"""Files of other formats pinned by SHA-256: nothing in them is used before the hash was
compared."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from tests.coreweave_files import Entry, build
from tests.raising import raises

import libtz
import libtz.numpy
import libtz.torch
from libtz import FormatError, IntegrityError, OptionError, ReadOptions
from libtz.memory import allocate

MIB = 1 << 20
# Files of up to half of this are read into memory.
SMALL = ReadOptions(host_memory_max=16 * MIB)


def pin_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def foreign(size: int = 1000, value: float = 1.0) -> bytes:
    tensors = {"w": torch.full((size,), value), "i": torch.arange(7), "e": torch.empty(0)}
    return safetensors.torch.save(tensors, {"license": f"of {value}"})


def coreweave(size: int = 3) -> bytes:
    return build([Entry(name=b"a", shape=(size,), dtype=b"<f4", data=bytes(4 * size))])


GOOD, OTHER = foreign(), foreign(value=2.0)
# With SMALL, too large to be read into memory first.
LARGE, LARGE_OTHER = foreign(3 * MIB), foreign(3 * MIB, 2.0)


@pytest.mark.parametrize("data", [GOOD, coreweave()], ids=["safetensors", "tensors"])
@pytest.mark.parametrize("wrap", [bytes, io.BytesIO, memoryview])
def test_everything_works_on_the_pinned_file(data: bytes, wrap: Callable[[bytes], Any]) -> None:
    with libtz.open(data) as f:
        expected = f.load()
    with libtz.open(wrap(data), digest=pin_of(data)) as f:
        assert f.verified == "pinned"
        assert list(f) == list(expected)
        assert all(torch.equal(f[name], expected[name]) for name in f)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in f.iter_tensors())
        name = next(iter(f))
        assert torch.equal(f.get_slice(name)[1:3], expected[name][1:3])
        buffer = allocate(f.info(name).nbytes)
        f.load_into({name: buffer})
        assert bytes(buffer.view()) == expected[name].numpy().tobytes()


@pytest.mark.parametrize("pinned", [GOOD, coreweave()], ids=["safetensors", "tensors"])
def test_another_file_is_not_even_parsed(pinned: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for data in (OTHER, GOOD[:-1], GOOD + b"\0", b"", b"\xff" * 1000, LARGE):
        path.write_bytes(data)
        for source in (path, path.as_uri(), data, tmp_path):
            expected, found = pin_of(pinned), pin_of(data)
            with raises(IntegrityError, code="digest", expected=expected, found=found):
                libtz.open(source, digest=expected)


def test_modules_are_filled_from_the_pinned_file_only(tmp_path: Path) -> None:
    module = torch.nn.ParameterDict({"w": torch.nn.Parameter(torch.zeros(1000))})
    module.register_buffer("i", torch.zeros(7, dtype=torch.int64))
    module.register_buffer("e", torch.zeros(0))
    with pytest.raises(IntegrityError):
        libtz.torch.load_model(module, OTHER, digest=pin_of(GOOD))
    assert not module["w"].any()
    assert libtz.torch.load_model(module, GOOD, digest=pin_of(GOOD)) == ([], [])
    assert module["w"].eq(1).all()
    arrays = libtz.numpy.load_file(GOOD, digest=pin_of(GOOD))
    assert arrays["w"].sum() == 1000


def test_the_memory_of_the_file_counts(tmp_path: Path) -> None:
    data = foreign(2 * MIB - 100)  # just under the half
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    with libtz.open(path, digest=pin_of(data), options=SMALL) as f:
        assert f.load()["w"].numel() == 2 * MIB - 100
        # Reads use the compared bytes, even if the file changes.
        path.write_bytes(b"")
        assert f["i"].tolist() == list(range(7))


def test_a_large_file_is_loaded_whole_or_not_at_all() -> None:
    with libtz.open(LARGE, digest=pin_of(LARGE), options=SMALL) as f:
        refused: list[Callable[[], Any]] = [
            lambda: list(f),
            lambda: len(f),
            lambda: "w" in f,
            lambda: f.metadata,
            lambda: f.structure(),
            lambda: f.info("w"),
            lambda: f["w"],
            lambda: f.load(["w", "i"]),
            lambda: f.load(libtz.prefix("w")),
            lambda: next(f.iter_tensors(["w"])),
            lambda: f.get_slice("w"),
            lambda: f.load_slices([("w", 0)]),
            lambda: f.load_into({"i": allocate(56)}),
        ]
        for use in refused:
            with pytest.raises(OptionError, match=r"pinned by the SHA-256.*host_memory_max"):
                use()
        assert str(f.verified) == "none"
        assert "3 tensors" in repr(f)
        assert f.load()["i"].tolist() == list(range(7))
        assert f.verified == "pinned"
        # The compared bytes include the header. Data is read again, without a comparison.
        assert set(f) == {"w", "i", "e"}
        assert f.metadata == {"license": "of 1.0"}
        with pytest.raises(OptionError):
            f["w"]
        assert {name for name, _ in f.iter_tensors()} == set(f)


def test_a_large_file_is_compared_before_its_last_tensor_is_there() -> None:
    pin = pin_of(LARGE)
    with (
        libtz.open(LARGE_OTHER, digest=pin, options=SMALL) as f,
        raises(IntegrityError, code="digest", expected=pin),
    ):
        f.load()
    assert f.closed
    came = []
    with libtz.open(LARGE_OTHER, digest=pin, options=SMALL) as f:
        with raises(IntegrityError, code="digest", expected=pin):
            came += [name for name, _ in f.iter_tensors()]
        assert len(came) < 3
    buffers = {"w": allocate(12 * MIB), "i": allocate(56), "e": allocate(0)}
    with libtz.open(LARGE_OTHER, digest=pin, options=SMALL) as f:
        with pytest.raises(IntegrityError) as caught:
            f.load_into(buffers)
        assert set(caught.value.changed) == {"w", "i"}
    for dtype in (None, torch.float16):
        with pytest.raises(IntegrityError):
            libtz.torch.load_file(LARGE_OTHER, dtype=dtype, digest=pin, options=SMALL)
        loaded = libtz.torch.load_file(LARGE, dtype=dtype, digest=pin, options=SMALL)
        assert set(loaded) == {"w", "i", "e"}


class Counting(io.BytesIO):
    """Counts the bytes that are read."""

    count = 0

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer)
        self.count += count
        return count


@pytest.mark.parametrize("data", [GOOD, LARGE, coreweave(), coreweave(3 * MIB)])
def test_verifying_reads_the_file_once(data: bytes) -> None:
    source = Counting(data)
    with libtz.open(source, digest=pin_of(data), options=SMALL) as f:
        f.verify()
        assert f.verified == "pinned"
        assert set(f)  # the header is verified now
    # The bytes read to open a large file contain some of its data.
    assert len(data) <= source.count <= len(data) + MIB


@pytest.mark.parametrize("data", [LARGE, coreweave(3 * MIB)])
def test_verifying_finds_another_file(data: bytes) -> None:
    other = bytearray(data)
    other[-100] ^= 1
    with (
        libtz.open(bytes(other), digest=pin_of(data), options=SMALL) as f,
        pytest.raises(IntegrityError),
    ):
        f.verify()
    assert f.verified != "pinned"


def test_what_cannot_be_pinned_by_sha256(tmp_path: Path) -> None:
    target = io.BytesIO()
    libtz.numpy.save_file({"x": np.zeros(3)}, target)
    data = target.getvalue()
    with pytest.raises(OptionError, match="pin it with its own digest"):
        libtz.open(data, digest=pin_of(data))
    with pytest.raises(IntegrityError):
        libtz.open(data, digest=pin_of(GOOD))
    for name in ("a.safetensors", "b.safetensors"):
        (tmp_path / name).write_bytes(GOOD)
    with pytest.raises((OptionError, FormatError)):
        libtz.open(tmp_path, digest=pin_of(GOOD))
    options = ReadOptions(local="map")
    with pytest.raises(OptionError, match=r"ReadOptions\.local"):
        libtz.open(tmp_path / "a.safetensors", digest=pin_of(GOOD), options=options)
