"""Provokes errors everywhere, keeps them all with their frames, then has the garbage collected.

    python -m tests.native.kept_errors ROUNDS

Prints the functions of libtz that were left by an error, one a line as FILE:NAME, and "alive" at
the end. Run by test_kept_errors.py, since what it looks for ends the process.
"""

from __future__ import annotations

import gc
import io
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from tests.coreweave_files import Entry, build
from tests.files import make_file, random_tensor, sample, weights

import libtz
import libtz.numpy
import libtz.torch
from libtz._native import lib, memory
from libtz._native.records import parse_record
from libtz._native.verifying import Verifier

Data = memoryview  # the collector clears memoryviews, but not bytes
PACKAGE = Path(libtz.__file__).parent
QUIET = libtz.ReadOptions(progress=False)
KIB = 1024

left: set[str] = set()


def buffer(data: bytes) -> Data:
    return memoryview(bytearray(data))


def flipped(data: bytes, offset: int) -> Data:
    changed = buffer(data)
    changed[offset] ^= 1
    return changed


# ---- Every function of _native -------------------------------------------------------------------

PLAIN = make_file({"t": random_tensor("u8", (300 * KIB,))}, chunk_size=64 * KIB).data
PACKED = sample(compress=True).data
SAFETENSORS = safetensors.numpy.save({"t": np.zeros(9, np.float32)})
TENSORS = build([Entry(name=b"a"), Entry(name=b"b")])


def header_of(data: bytes) -> lib.Header:
    header = lib.Header.open(buffer(data), len(data), label="file")
    assert isinstance(header, lib.Header)
    for offset, size in header.entry_ranges(None):
        header.put_entries(offset, data[offset : offset + size])
    return header


def tensors_header() -> lib.Header:
    header = lib.Header.open(buffer(TENSORS), len(TENSORS), label="file")
    assert isinstance(header, lib.Header)
    return header


def put_bad_run() -> None:
    header = lib.Header.open(buffer(PLAIN), len(PLAIN), label="file")
    assert isinstance(header, lib.Header)
    ((offset, size),) = header.entry_ranges(None)
    header.put_entries(offset, flipped(PLAIN[offset : offset + size], 3))


def process_bad_chunk() -> None:
    plan = lib.Plan(header_of(PLAIN), np.zeros(1, np.uint32))
    data = buffer(bytes(int(plan.allocations[0]) + 64))
    start = memory.address(data)
    addresses = np.array([start + -start % 64], np.uint64)
    request = plan.requests[0]
    plan.process(0, int(request["size"]), 0, addresses, lib.VERIFY_CRC, lib.new_cursor())


def verify_bad_file() -> None:
    verifier = Verifier(header_of(PLAIN))
    while True:
        offset, size = verifier.next()
        verifier.put(flipped(PLAIN[offset : offset + size], size // 2))


def builder(**options: Any) -> lib.Builder:
    return lib.Builder([lib.TensorSpec("t", (4,), lib.dtype_code("u8"))], label="out", **options)


def encode_without_room() -> None:
    lib.encode_chunks(lib.dtype_code("u8"), 64 * KIB, False, buffer(bytes(100)), buffer(b""))


def native_calls() -> Iterator[Callable[[], Any]]:
    scattered = buffer(b"abcdef")[::2]  # no C function takes it
    yield lambda: lib.crc32(scattered)
    yield lambda: lib.crc32c(scattered)
    yield lambda: lib.blake3(scattered)
    yield lambda: lib.Blake3().update(scattered)
    yield lambda: memory.address(scattered)
    for form in (0, lib.FORMAT_TZ, lib.FORMAT_SAFETENSORS, lib.FORMAT_COREWEAVE):
        yield partial(lib.Header.open, buffer(b"junk" * 40), 160, label="file", format=form)
        yield partial(lib.Header.open, scattered, 160, label="file", format=form)
    yield lambda: lib.Header.open(buffer(PLAIN), len(PLAIN), label="file", pin=bytes(32))
    yield lambda: header_of(PLAIN).tensor(99)
    yield lambda: header_of(PLAIN).name(99)
    yield lambda: header_of(PLAIN).pair(99)
    yield lambda: header_of(PLAIN).node(99)
    yield lambda: header_of(PLAIN).chunk(0, 99)
    yield lambda: header_of(PLAIN).entry_ranges(np.array([99], np.uint32))
    yield put_bad_run
    yield lambda: lib.Plan(header_of(PLAIN), np.array([99], np.uint32))
    yield lambda: lib.Plan(header_of(PLAIN), np.zeros(1, np.uint32), [([9], [1 << 40])])
    yield process_bad_chunk
    yield verify_bad_file
    yield lambda: Verifier(header_of(PLAIN)).finish()
    yield lambda: parse_record(tensors_header(), 0, buffer(bytes(70)))
    yield lambda: parse_record(tensors_header(), 99, buffer(bytes(70)))
    yield encode_without_room
    yield lambda: builder(metadata={"tz.reserved": "x"})
    yield lambda: builder(metadata={"k": "\ud800"})
    yield lambda: builder(nodes=[lib.Node(lib.NODE_TENSOR, None, 7)])
    yield lambda: builder().put_chunks(0, lib.new_entries(2))
    yield lambda: builder().put_content(7, bytes(32))
    yield lambda: builder().finish()


# ---- All formats, from all kinds of sources, in all ways -----------------------------------------


def mutations(chance: random.Random, count: int) -> Iterator[tuple[str, bytes]]:
    for _ in range(count):
        kind, data = chance.choice(
            [("tz", PLAIN), ("tz", PACKED), ("safetensors", SAFETENSORS), ("tensors", TENSORS)]
        )
        changed = bytearray(data)
        if chance.random() < 0.2:
            del changed[chance.randrange(len(changed)) :]
        else:
            end = chance.choice([16, 128, 700, len(data)])
            changed[chance.randrange(min(end, len(data)))] ^= 1 << chance.randrange(8)
        yield kind, bytes(changed)


def read(source: Any, way: int) -> None:
    """Raises for most sources. Some damage is harmless, or detected only by `verify`."""
    with libtz.open(source, options=QUIET) as file:
        names = list(file)
        if way == 0:
            file.load()
        elif way == 1:
            list(file.iter_tensors())
        elif way == 2:
            file.load_slices([(name, ...) for name in names])
        elif way == 3:
            list(file.iter_buffers())
        elif way == 4:
            tensors = {name: torch.empty(file.info(name).shape) for name in names}
            libtz.torch.load_model(torch.nn.ParameterDict(tensors), source, options=QUIET)
        if file.format == "tz":
            file.verify()


def damaged_files(chance: random.Random, folder: Path) -> Iterator[Callable[[], Any]]:
    for number, (kind, data) in enumerate(mutations(chance, 60)):
        path = folder / f"{number}.{kind}"
        path.write_bytes(data)
        source = chance.choice([buffer(data), path, io.BytesIO(data)])
        yield partial(read, source, chance.randrange(5))
    yield lambda: libtz.open(folder / "absent", options=QUIET)
    pin = "blake3:" + "0" * 64
    yield lambda: libtz.open(buffer(PLAIN), digest=pin, options=QUIET)


class Full(io.RawIOBase):
    """A target that is full."""

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        raise OSError(28, "No space left on device")


def writing() -> Iterator[Callable[[], Any]]:
    arrays = {"w": np.frombuffer(buffer(weights(600_000)), np.uint16)}
    yield lambda: libtz.numpy.save_file(arrays, Full())  # type: ignore[arg-type]
    yield lambda: libtz.numpy.save_file({"w": arrays["w"][::2], "w\n": arrays["w"]}, io.BytesIO())
    specs = [libtz.TensorSpec("w", "u8", (100,))]

    def short() -> None:
        with libtz.Writer(io.BytesIO(), specs) as writer:
            writer.write("w", buffer(bytes(99)))

    yield short


# ---- Keeping -------------------------------------------------------------------------------------


def keep(action: Callable[[], Any]) -> BaseException | None:
    error = None
    try:
        action()
    except Exception as caught:
        error = caught  # a cycle: this frame refers to the error, and the error to this frame
        note(caught.__traceback__)
    return error


def note(traceback: TracebackType | None) -> None:
    while traceback is not None:
        code = traceback.tb_frame.f_code
        path = Path(code.co_filename)
        if path.is_relative_to(PACKAGE):
            left.add(f"{path.relative_to(PACKAGE).as_posix()}:{code.co_name}")
        traceback = traceback.tb_next


def main(rounds: int) -> None:
    gc.disable()
    for number in range(rounds):
        chance = random.Random(number)
        kept: list[BaseException | None] = []
        with tempfile.TemporaryDirectory() as folder:
            for action in native_calls():
                error = keep(action)
                assert error is not None, "a call of the library that ought to fail did not"
                kept.append(error)
            kept.extend(keep(action) for action in writing())
            assert None not in kept
            damaged = [keep(action) for action in damaged_files(chance, Path(folder))]
            assert len(damaged) - damaged.count(None) > len(damaged) / 2
            kept.extend(damaged)
        if chance.random() < 0.5:
            chance.shuffle(kept)
        del error, damaged, action
        kept.clear()
        gc.collect()
    print(*sorted(left), "alive", sep="\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
