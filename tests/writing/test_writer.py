"""The writer, compared byte by byte with the reference implementation, and its refusals."""

from __future__ import annotations

import importlib
import io
import itertools
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import libtz
from libtz._native import lib
from libtz.errors import Error, OptionError
from libtz.options import WriteOptions
from libtz.writing.base import TensorSpec
from libtz.writing.tz import Writer

reference: Any = importlib.import_module("tz_reference")

KIB = 1024
SMALL_CHUNKS = WriteOptions(chunk_size=64 * KIB, compress="off")


def random_bytes(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def weights(count: int) -> bytes:
    """bf16 values like trained weights, which the codec compresses."""
    values = np.random.default_rng(1).normal(0, 0.02, count).astype(np.float32)
    return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()


Tensors = Mapping[str, tuple[str, tuple[int, ...], Any]]  # dtype, shape and data


def write(target: Any, tensors: Tensors, **kwargs: Any) -> str:
    specs = [TensorSpec(name, dtype, shape) for name, (dtype, shape, _) in tensors.items()]
    with Writer(target, specs, **kwargs) as writer:
        for name, (_, _, data) in tensors.items():
            writer.write(name, data)
    return writer.digest


SAMPLE: dict[str, tuple[str, tuple[int, ...], bytes]] = {
    "z.weight": ("f32", (3, 5), random_bytes(60, 1)),
    "a.weight": ("bf16", (300, 700), random_bytes(420_000, 2)),
    "empty": ("f16", (0, 7), b""),
    "scalar": ("i64", (), random_bytes(8, 3)),
    "exactly two chunks": ("u8", (128 * KIB,), random_bytes(128 * KIB, 4)),
    "Gewicht ß": ("f8_e4m3fn", (64 * KIB + 1,), random_bytes(64 * KIB + 1, 5)),
    "": ("c32", (2,), random_bytes(8, 6)),
    "sub-byte": ("f6_e2m3_x4", (5,), random_bytes(15, 7)),
}


def sample_for_reference() -> dict[str, Any]:
    return {name: reference.Tensor(*tensor) for name, tensor in SAMPLE.items()}


def test_the_bytes_are_those_of_the_reference(tmp_path: Path) -> None:
    path = tmp_path / "model.tz"
    metadata = {"made-by": "test", "a": "", "ä": "\n"}
    digest = write(path, SAMPLE, metadata=metadata, options=SMALL_CHUNKS)
    expected = reference.encode(sample_for_reference(), metadata=metadata, chunk_size=64 * KIB)
    assert path.read_bytes() == expected
    assert digest == reference.File(expected).digest


def test_an_empty_file() -> None:
    target = io.BytesIO()
    digest = write(target, {})
    assert target.getvalue() == reference.encode({})
    assert digest == reference.File(target.getvalue()).digest


def test_ties_are_written_once_under_the_smallest_name() -> None:
    data = random_bytes(8)
    specs = [
        TensorSpec("m", "f32", (2,)),
        TensorSpec("x", "u8", (3,)),
        TensorSpec("b", "f32", (2,), tied_to="m"),
        TensorSpec("y", "f32", (2,), tied_to="m"),
    ]
    target = io.BytesIO()
    with Writer(target, specs) as writer:
        assert writer.pending == ("x", "b")
        writer.write("x", b"abc")
        with pytest.raises(OptionError, match=r"'m' is tied.* smallest name.*; expected 'b'"):
            writer.write("m", data)
        writer.write("b", data)
    shared = reference.Tensor("f32", (2,), data)
    tensors = {"m": shared, "x": reference.Tensor("u8", (3,), b"abc"), "b": shared, "y": shared}
    assert target.getvalue() == reference.encode(tensors, ties=[["m", "b", "y"]])


def test_a_nested_structure() -> None:
    from libtz.structure import flatten

    flat = flatten({"state": [{0: b"raw"}, np.zeros(2)], "f": 0.5}, lambda x: hasattr(x, "shape"))
    target = io.BytesIO()
    specs = [TensorSpec(name, "f64", (2,)) for name in flat.names]
    with Writer(target, specs, structure=flat.nodes) as writer:
        writer.write("state/1", np.zeros(2))
    found = reference.File(target.getvalue()).object()
    tensor = reference.Tensor("f64", (2,), bytes(16))
    assert found == {"state": [{0: b"raw"}, tensor], "f": 0.5}


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.integers(0, 300_000), max_size=6))
def test_any_cut_into_blocks_gives_the_same_bytes(cuts: list[int]) -> None:
    data = weights(150_000)
    borders = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    buffer = bytearray(len(data))

    def blocks() -> Iterator[memoryview]:
        for begin, end in itertools.pairwise(borders):
            # The same memory every time: a block is free when the next one is requested.
            buffer[: end - begin] = data[begin:end]
            yield memoryview(buffer)[: end - begin]

    options = WriteOptions(chunk_size=64 * KIB)
    whole, pieces = io.BytesIO(), io.BytesIO()
    digest = write(whole, {"w": ("bf16", (150_000,), data)}, options=options)
    assert write(pieces, {"w": ("bf16", (150_000,), blocks())}, options=options) == digest
    assert pieces.getvalue() == whole.getvalue()


@pytest.mark.slow
def test_several_batches_in_order(tmp_path: Path) -> None:
    """Streams more than all batches in flight; the reference checks every chunk."""
    data = random_bytes(3 * 1024 * KIB) * 30
    tensors: Tensors = {
        "a": ("u8", (len(data),), (data[i : i + 999_983] for i in range(0, len(data), 999_983))),
        "b": ("u8", (len(data) - 1,), data[1:]),
    }
    path = tmp_path / "x.tz"
    write(path, tensors, options=WriteOptions(chunk_size=64 * 1024 * KIB))
    header = reference.File(path.read_bytes()).header
    for entry, expected in zip(header.entries, (data, data[1:]), strict=True):
        begin = entry.record.data_offset
        assert path.read_bytes()[begin : begin + len(expected)] == expected


@pytest.mark.parametrize("compress", ["auto", "off"])
def test_files_are_deterministic(tmp_path: Path, compress: Any) -> None:
    data = weights(3 << 20)
    tensors = {"w": ("bf16", (3 << 20,), data)}
    one, two = (tmp_path / name for name in ("one", "two"))
    for path in (one, two):
        write(path, tensors, options=WriteOptions(compress=compress))
    assert one.read_bytes() == two.read_bytes()


def test_weights_are_compressed_and_noise_is_not(tmp_path: Path) -> None:
    path = tmp_path / "model.tz"
    count = 3 << 20
    tensors = {"w": ("bf16", (count,), weights(count)), "n": ("u8", (count,), random_bytes(count))}
    write(path, tensors)
    with libtz.open(path) as file:
        stored = {name: file.info(name).stored_nbytes / file.info(name).nbytes for name in "wn"}
        assert stored["w"] < 0.72
        assert stored["n"] == 1
        for name, data in file.iter_buffers():
            assert data == tensors[name][2]
        file.verify()


def test_the_reference_decodes_what_was_compressed() -> None:
    target = io.BytesIO()
    data = weights(70_000)
    write(target, {"w": ("bf16", (70_000,), data)}, options=WriteOptions(chunk_size=64 * KIB))
    file = reference.File(target.getvalue())
    file.verify()
    assert len(target.getvalue()) < 0.8 * len(data)
    assert file.load("w").data == data


def test_the_content_digest_does_not_depend_on_storage() -> None:
    data = weights(500_000)
    every_way = [
        WriteOptions(compress=compress, chunk_size=size)
        for compress in ("auto", "off")
        for size in (None, 64 * KIB, 512 * KIB)
    ]
    content = set()
    for options in every_way:
        specs = [TensorSpec("w", "bf16", (500_000,)), TensorSpec("v", "u8", (999,))]
        with Writer(io.BytesIO(), specs, options=options) as writer:
            writer.write("w", data)
            writer.write("v", data[:999])
        content.add(writer.content_digest)
    assert len(content) == 1


def test_data_may_change_after_write() -> None:
    data = bytearray(random_bytes(300_000))
    before = bytes(data)
    target = io.BytesIO()
    specs = [TensorSpec("a", "u8", (300_000,)), TensorSpec("b", "u8", (300_000,))]
    with Writer(target, specs, options=SMALL_CHUNKS) as writer:
        for name in "ab":
            data[:] = before
            writer.write(name, data)
            data[:] = bytes(len(data))
    assert reference.File(target.getvalue()).load("a").data == before


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([TensorSpec("a", "f32", ()), TensorSpec("a", "f32", ())], "'a' is declared twice"),
        ([TensorSpec("a", "float32", ())], "'float32' is not a dtype"),
        ([TensorSpec("a", np.float32, ())], "is not a dtype"),  # type: ignore[arg-type]
        ([TensorSpec("a", "f32", (2, -1))], "'a': a shape must be a sequence of integers"),
        ([TensorSpec("a", "f32", (2.5,))], "'a': a shape must be a sequence"),  # type: ignore[arg-type]
        ([TensorSpec("a", "f32", (1 << 62, 1 << 62))], "'a': this cannot be written"),
        ([TensorSpec("a", "f32", (1,) * 65)], "'a': this cannot be written"),
        ([TensorSpec("a\n", "f32", ())], "this cannot be written"),
        ([TensorSpec("a\ud800", "f32", ())], "not valid Unicode"),
        ([TensorSpec("x" * 65536, "f32", ())], "this cannot be written"),
        ([TensorSpec("a", "f32", (), tied_to="b")], "tied to 'b', which is not declared"),
        (
            [TensorSpec("a", "f32", ()), TensorSpec("b", "i32", (), tied_to="a")],
            "tie is malformed",
        ),
    ],
)
def test_bad_declarations(tmp_path: Path, specs: list[TensorSpec], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Writer(tmp_path / "x", specs)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "metadata", [{"tz.reserved": ""}, {"": "x"}, {"a\n": "x"}, {"a": 1}, {"k" * 1025: ""}]
)
def test_bad_metadata(tmp_path: Path, metadata: dict[str, str]) -> None:
    with pytest.raises(OptionError):
        Writer(tmp_path / "x", [], metadata=metadata)


ABC = [TensorSpec("a", "f32", (2,)), TensorSpec("b", "f32", (2,)), TensorSpec("e", "f32", (0,))]


@pytest.mark.parametrize(
    ("written", "name", "data", "message"),
    [
        ([], "b", bytes(8), "declared order; got 'b', expected 'a'"),
        (["a"], "a", bytes(8), "'a' was already written"),
        (["a", "b"], "c", bytes(8), "no tensor 'c' was declared"),
        ([], "a", bytes(7), "'a' takes 8 bytes .* but 7 were"),
        ([], "a", [bytes(4)], "but 4 were"),
        ([], "a", [bytes(4), bytes(5)], "but more were"),
        ([], "e", b"x", "'e' takes 0 bytes .* but 1 were"),
        ([], "e", [b"", b"x"], "but more were"),
        ([], "a", "12345678", "type str as bytes"),
        ([], "a", [1, 2], "type int as bytes"),
        ([], "a", np.zeros((4, 2), "<f4").T[0], "not C-contiguous"),
        ([], "a", np.zeros(2, ">f4"), "not little-endian"),
    ],
)
def test_bad_writes(tmp_path: Path, written: list[str], name: str, data: Any, message: str) -> None:
    def attempt() -> None:
        with Writer(tmp_path / "x", ABC) as writer:
            for done in written:
                writer.write(done, bytes(8))
            writer.write(name, data)

    with pytest.raises(OptionError, match=message):
        attempt()
    assert not list(tmp_path.iterdir())


def test_a_writer_survives_a_mistake_that_wrote_nothing() -> None:
    target = io.BytesIO()
    with Writer(target, ABC) as writer:
        with pytest.raises(OptionError):
            writer.write("a", bytes(7))
        writer.write("a", bytes(8))
        writer.write("e", b"")
        writer.write("b", [bytes(3), bytes(5)])
    reference.File(target.getvalue()).verify()


def test_every_tensor_must_be_written(tmp_path: Path) -> None:
    with (
        pytest.raises(OptionError, match="tensor 'b' was declared but not written"),
        Writer(tmp_path / "x", ABC) as writer,
    ):
        writer.write("a", bytes(8))
    assert not list(tmp_path.iterdir())


def encoder_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("tz-encode")]


class InterruptedByTestError(Exception):
    pass


def write_and_fail(writer: Writer) -> None:
    writer.write("a", bytes(40 << 20))
    raise InterruptedByTestError


def test_an_exception_leaves_the_target_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "model.tz"
    path.write_bytes(b"the old file")
    specs = [TensorSpec("a", "u8", (40 << 20,)), TensorSpec("b", "u8", (1 << 20,))]

    def broken() -> Iterator[bytes]:
        yield bytes(39 << 20)
        raise InterruptedByTestError

    with pytest.raises(InterruptedByTestError), Writer(path, specs) as writer:
        writer.write("a", broken())
    with pytest.raises(InterruptedByTestError), Writer(path, specs) as writer:
        writer.write("a", itertools.chain([bytes(1 << 20)], broken()))
    assert not encoder_threads()
    with pytest.raises(InterruptedByTestError), Writer(path, specs[:1]) as writer:
        write_and_fail(writer)
    assert path.read_bytes() == b"the old file"
    assert list(tmp_path.iterdir()) == [path]
    assert not encoder_threads()


def test_after_a_failed_write_nothing_can_be_committed(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield bytes(4)
        raise InterruptedByTestError

    writer = Writer(tmp_path / "x", ABC[:1])
    with pytest.raises(InterruptedByTestError):
        writer.write("a", broken())
    with pytest.raises(OptionError, match="the writer is failed"):
        writer.write("a", bytes(8))
    with pytest.raises(OptionError, match="an earlier write failed"):
        writer.close()
    assert not list(tmp_path.iterdir())


def test_use_without_with(tmp_path: Path) -> None:
    path = tmp_path / "x"
    writer = Writer(path, ABC[:1])
    with pytest.raises(OptionError, match="no digest before the file is complete"):
        _ = writer.digest
    writer.write("a", bytes(8))
    assert not path.exists()
    writer.close()
    writer.close()
    assert writer.digest == reference.File(path.read_bytes()).digest
    assert writer.content_digest == reference.File(path.read_bytes()).content_digest
    writer.abort()
    assert path.exists()
    with pytest.raises(OptionError, match="the writer is closed"):
        writer.write("a", bytes(8))
    with pytest.raises(OptionError, match="create another one"), writer:
        pass


def test_a_flat_tensor_of_every_registered_dtype() -> None:
    tensors: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
    for name, code in reference.DTYPE_CODES.items():
        size = next(s for s in range(1, 17) if _fits(name, s))
        tensors[name] = (name, (7,), random_bytes(7 * size, code))
    target = io.BytesIO()
    write(target, tensors, options=SMALL_CHUNKS)
    read = reference.File(target.getvalue())
    assert {name: read.load(name) for name in tensors} == tensors


def _fits(dtype: str, size: int) -> bool:
    try:
        write(io.BytesIO(), {"x": (dtype, (), bytes(size))})
    except Error:
        return False
    return True


@pytest.mark.parametrize(
    ("dtype", "nbytes", "message"),
    [
        ("0x01ff", None, "set nbytes"),
        ("0x01ff", -1, "nbytes must be"),
        ("0x01ff", 1.5, "nbytes must be"),
        ("0x01ff", 1 << 63, "limit"),
        ("0x0200", 8, "not a dtype"),
        ("0x01FF", 8, "not a dtype"),
        ("f32", 7, "shape"),
    ],
)
def test_sizes_that_no_tensor_has(dtype: str, nbytes: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=message):
        Writer(tmp_path / "model.tz", [TensorSpec("x", dtype, (2,), nbytes=nbytes)])


def test_a_structure_holds_names(tmp_path: Path) -> None:
    """As `Checkpoint.structure` gives them, not indices as the C interface takes them."""
    node = lib.Node(lib.NODE_TENSOR, None, "x")
    specs = [TensorSpec("x", "u8", (1,))]
    path = tmp_path / "model.tz"
    with Writer(path, specs, structure=[node]) as writer:
        writer.write("x", b"1")
    with libtz.open(path) as file:
        assert file.structure() == [node]
    for wrong in (0, "y", ["x"], None):
        with pytest.raises(OptionError, match="hold the names of tensors"):
            Writer(path, specs, structure=[node._replace(value=wrong)])
