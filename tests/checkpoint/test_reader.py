"""Opening files and loading tensors: results and refusals."""

from __future__ import annotations

import gc
import hashlib
import io
import json
import resource
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tz_kit
import tz_reference
import tz_vectors
from tests.files import ALL_DTYPES, File, Tensor, make_file, random_tensor, sample, weights
from tests.raising import raises

import libtz
import libtz.numpy
from libtz._native import lib
from libtz.arrays import default
from libtz.arrays.torch_dtypes import TORCH_DTYPES
from libtz.errors import FormatError, IntegrityError, OptionError, SourceError, SourceNotFoundError
from libtz.memory import allocate
from libtz.options import ReadOptions

MIB = 1024 * 1024
RAW = ReadOptions(verify=False)
OTHER_PIN = "blake3:" + "0" * 64
MAP = ReadOptions(local="map")


@pytest.fixture(scope="module", params=["raw", "compressed"])
def file(request: pytest.FixtureRequest) -> File:
    return sample(compress=request.param == "compressed")


@pytest.fixture
def path(file: File, tmp_path: Path) -> Path:
    path = tmp_path / "model.tz"
    path.write_bytes(file.data)
    return path


def raw(tensor: Any) -> bytes:
    """The bytes of a contiguous tensor."""
    size = tensor.numel() * tensor.element_size()
    if size == 0:
        return b""
    return bytes(lib.owned_buffer(tensor.data_ptr(), size, tensor))


def assert_loaded(tensors: dict[str, Any], file: File) -> None:
    assert list(tensors) == list(file.tensors)
    for name, (dtype, shape, data) in file.tensors.items():
        tensor = tensors[name]
        assert tensor.dtype == TORCH_DTYPES[dtype], name
        assert tuple(tensor.shape) == shape, name
        assert tensor.is_contiguous(), name
        assert raw(tensor) == data, name
        assert tensor.untyped_storage().nbytes() == len(data), name


@pytest.mark.parametrize("options", [ReadOptions(), RAW, MAP], ids=["checked", "raw", "map"])
def test_load_gives_what_was_written(file: File, path: Path, options: ReadOptions) -> None:
    for source in (path, str(path), path.as_uri(), file.data, io.BytesIO(file.data)):
        with libtz.open(source, options=options) as f:
            assert_loaded(f.load(), file)


@pytest.mark.parametrize("options", [ReadOptions(), MAP], ids=["copy", "map"])
def test_iteration_gives_the_same_in_file_order(
    file: File, path: Path, options: ReadOptions
) -> None:
    with libtz.open(path, options=options) as f:
        streamed = dict(f.iter_tensors())
        # A tied tensor is yielded with its owner, whose data it shares: "a.tied", the last one.
        alone = [name for name in file.tensors if name not in ("a.tied", "a.weight")]
        assert list(streamed) == [*alone, "a.weight", "a.tied"]
        assert_loaded({name: streamed[name] for name in file.tensors}, file)
        buffers = {name: bytes(data) for name, data in f.iter_buffers()}
    assert buffers == {name: tensor.data for name, tensor in file.tensors.items()}


def test_a_pinned_file_loads_and_says_so(file: File) -> None:
    with libtz.open(file.data, digest=file.digest) as f:
        assert f.verified == "pinned"
        assert f.digest == file.digest
        assert_loaded(f.load(), file)


def test_the_mapping(file: File) -> None:
    with libtz.open(file.data) as f:
        assert list(f) == list(f.keys()) == list(file.tensors)
        assert len(f) == len(file.tensors)
        assert "chunks" in f
        assert "chunk" not in f
        assert "\ud800" not in f
        assert not f.__contains__(3)
        assert raw(f["scalar"]) == file.tensors["scalar"].data
        assert f.get("nothing") is None
        with pytest.raises(KeyError, match="nothing"):
            f["nothing"]
        with pytest.raises(KeyError, match="nothing"):
            f.load(["scalar", "nothing"])
        with pytest.raises(OptionError, match="the string 'scalar'"):
            f.load("scalar")
        assert list(f.load(["scalar", "a.tied", "scalar"])) == ["scalar", "a.tied"]


def test_what_a_file_says_about_itself(file: File) -> None:
    with libtz.open(file.data) as f:
        assert f.format == "tz"
        assert f.verified == "checksum"
        assert f.metadata == {"made-by": "tests", "ключ": "значение"}
        assert f.digest == file.digest
        info = f.info("z.weight")
        data = file.tensors["z.weight"].data
        assert info == libtz.TensorInfo(
            name="z.weight",
            dtype="f32",
            shape=(30, 50),
            nbytes=6000,
            stored_nbytes=6000,
            content_digest=f"blake3:{lib.blake3(data).hex()}",
            tied_to=None,
        )
        assert f.info("a.weight").tied_to == "a.tied"
        assert f.info("a.weight").stored_nbytes == 0
        assert f.info("empty").nbytes == 0
        with pytest.raises(KeyError):
            f.info("nothing")
    with libtz.open(file.data, options=RAW) as f:
        assert f.verified == "none"


def test_ties_come_as_one_object(file: File) -> None:
    with libtz.open(file.data) as f:
        tensors = f.load()
        assert tensors["a.tied"] is tensors["a.weight"]
        streamed = dict(f.iter_tensors(["a.weight", "a.tied"]))
        assert streamed["a.tied"] is streamed["a.weight"]
        assert raw(f["a.weight"]) == file.tensors["a.weight"].data


@pytest.mark.parametrize("info", ALL_DTYPES, ids=lambda info: info.name)
def test_every_dtype(info: lib.DtypeInfo) -> None:
    shapes = ((), (0, 3), (7,), (3, 5))
    file = make_file({str(shape): random_tensor(info.name, shape) for shape in shapes})
    with libtz.open(file.data) as f:
        for name, data in f.iter_buffers():
            assert bytes(data) == file.tensors[name].data, name
        if info.name in TORCH_DTYPES:
            assert_loaded(f.load(), file)
        else:
            with pytest.raises(OptionError, match=f"no type for {info.name}"):
                f.load()


def test_dimensions_past_32_bits() -> None:
    file = make_file({"t": Tensor("bf16", (0, 1 << 40), b""), "u": Tensor("u8", (1,), b"x")})
    with libtz.open(file.data) as f:
        assert_loaded(f.load(), file)


def test_a_file_without_tensors() -> None:
    with libtz.open(make_file({}).data) as f:
        assert f.load() == {}
        assert list(f.iter_tensors()) == []
        assert f.metadata == {}
        assert f.structure() == []


def test_numpy_arrays(file: File) -> None:
    names = [name for name, tensor in file.tensors.items() if tensor.dtype != "bf16"]
    tensors = {n: t for n, t in file.tensors.items() if t.dtype not in ("bf16", "f8_e4m3fn")}
    arrays = libtz.numpy.load_file(make_file(tensors).data)
    assert list(arrays) == list(tensors)
    for name, array in arrays.items():
        assert array.tobytes() == tensors[name].data
        assert array.shape == tensors[name].shape
        assert array.flags.writeable
    assert names
    with pytest.raises(OptionError, match=r"'a\.weight': NumPy has no type for bf16"):
        libtz.numpy.load_file(file.data)


def test_without_torch_tensors_are_arrays(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default, "_has_torch", lambda: False)
    with libtz.open(file.data) as f:
        assert isinstance(f["z.weight"], np.ndarray)
        with pytest.raises(OptionError, match="needs PyTorch"):
            f.load(device="cuda")


@pytest.mark.slow
def test_import_libtz_does_not_import_torch() -> None:
    code = (
        "import libtz, sys; assert not {'torch', 'requests', 'boto3', 'tqdm'} & set(sys.modules);"
        "libtz.numpy; assert 'torch' not in sys.modules; libtz.torch; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_devices(file: File) -> None:
    with libtz.open(file.data) as f, pytest.raises(OptionError, match="is not a device"):
        f.load(device="abacus")


def test_a_structure_names_its_tensors() -> None:
    tensors = {"b": random_tensor("u8", (3,)), "a": random_tensor("f32", (2,))}
    nodes = [lib.Node(7, None, 2), lib.Node(6, "first", 0), lib.Node(6, 7, 1)]
    with libtz.open(make_file(tensors, nodes=nodes).data) as f:
        assert f.structure() == [(7, None, 2), (6, "first", "b"), (6, 7, "a")]


# ---- Memory and time -----------------------------------------------------------------------------


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@pytest.mark.slow
def test_memory_falls_when_tensors_go(tmp_path: Path) -> None:
    big = {f"{i:03}": Tensor("u8", (n,), bytes(n)) for i, n in enumerate([5 * MIB, 300_000] * 20)}
    path = tmp_path / "model.tz"
    path.write_bytes(make_file({"small": random_tensor("f32", (10,)), **big}).data)
    del big
    with libtz.open(path) as f:
        f["small"]  # imports and one-time allocations
        gc.collect()
        before = resident()
        tensors = f.load()
        loaded = resident()
        assert loaded - before > 100 * MIB
        for name in list(tensors)[1::2]:
            del tensors[name]
        assert loaded - resident() > 90 * MIB
        kept = tensors["small"]
        tensors.clear()
        assert resident() - before < 5 * MIB
        assert kept.untyped_storage().nbytes() == 40
        buffer = io.BytesIO()
        torch.save(kept, buffer)
        assert len(buffer.getvalue()) < 4096


@pytest.mark.slow
def test_streaming_holds_little(tmp_path: Path) -> None:
    tensors = {f"{i:03}": Tensor("u8", (4 * MIB,), bytes(4 * MIB)) for i in range(40)}
    path = tmp_path / "model.tz"
    path.write_bytes(make_file(tensors).data)
    options = ReadOptions(host_memory_max=16 * MIB)
    with libtz.open(path, options=options) as f:
        f["000"]
        gc.collect()
        before = resident()
        most = 0
        for _, tensor in f.iter_tensors():
            time.sleep(0.002)  # the threads could run far ahead
            most = max(most, resident() - before - tensor.nbytes)
    assert most < 20 * MIB


@pytest.mark.slow
def test_a_huge_header_opens_at_once() -> None:
    count = 150_000
    specs = [
        lib.TensorSpec(f"model.layers.{i}.weight", (4096, 1684), lib.dtype_code("bf16"))
        for i in range(count)
    ]
    builder = lib.Builder(specs, label="test", chunk_size=64 * MIB)
    info = builder.info
    assert info.decoded_size > 2_000_000_000_000
    source: Any = _HeaderOnly(builder, count)
    del builder, specs
    gc.collect()
    before = resident()
    begin = time.process_time()  # of this process only, since the machine may be busy
    with libtz.open(source) as f:
        seconds = time.process_time() - begin
        assert len(f) == count
        assert resident() - before < 200 * MIB
        assert seconds < 1
        read_before = source.bytes_read
        f["model.layers.77777.weight"]
        assert source.bytes_read - read_before <= 4096 * 1684 * 2 + 1000


class _HeaderOnly(io.RawIOBase):
    """A file whose tensors are all zeros, generated while it is read."""

    def __init__(self, builder: lib.Builder, count: int) -> None:
        size = 4096 * 1684 * 2
        zeros = bytes(size)
        _, entries = lib.encode_chunks(
            lib.dtype_code("bf16"), builder.info.chunk_size, False, zeros, bytearray(size + 64)
        )
        digest = lib.blake3(zeros)
        for i in range(count):
            builder.put_chunks(i, entries)
            builder.put_content(i, digest)
        self._header, self._size, _ = builder.finish()
        self._position = 0
        self.bytes_read = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (self._size if whence == 2 else 0)
        return self._position

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self._size - self._position)
        part = self._header[self._position : self._position + count]
        buffer[: len(part)] = part
        buffer[len(part) : count] = bytes(count - len(part))
        self._position += count
        self.bytes_read += count
        return count


@pytest.mark.slow
def test_ten_thousand_tensors(tmp_path: Path) -> None:
    tensors = {f"layer.{i}": random_tensor("f32", (i % 50, 7), i) for i in range(10_000)}
    file = make_file(tensors)
    path = tmp_path / "model.tz"
    path.write_bytes(file.data)
    with libtz.open(path) as f:
        assert_loaded(f.load(), file)
        assert f.stats.requests < 50
        assert raw(f["layer.9999"]) == tensors["layer.9999"].data


def test_loading_one_tensor_reads_only_that() -> None:
    tensors = {f"{i}": random_tensor("u8", (MIB,), i) for i in range(8)}
    file = make_file(tensors, chunk_size=64 * 1024)
    with libtz.open(file.data) as f:
        assert raw(f["5"]) == tensors["5"].data
        assert f.stats.bytes_read == MIB
        assert f.stats.bytes_wanted == MIB
        assert f.stats.path == "copy"


# ---- Threads -------------------------------------------------------------------------------------


def test_several_threads_load_at_once(file: File) -> None:
    failures: list[BaseException] = []

    def load(f: libtz.Checkpoint[Any]) -> None:
        try:
            for _ in range(5):
                assert_loaded(f.load(), file)
                assert raw(f.get_slice("big")[10:20]) == file.tensors["big"].data[80_000:160_000]
        except BaseException as error:
            failures.append(error)

    with libtz.open(file.data) as f:
        threads = [threading.Thread(target=load, args=(f,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures


def test_threads_end_with_the_load(tmp_path: Path) -> None:
    path = tmp_path / "model.tz"
    path.write_bytes(make_file({"t": random_tensor("u8", (40 * MIB,))}).data)
    before = threading.active_count()
    with libtz.open(path) as f:
        f.load()
        assert f.stats.threads > 1
        assert threading.active_count() == before
        for _ in f.iter_tensors():
            break
        gc.collect()
        assert threading.active_count() == before
        f.load()  # an abandoned iteration does not affect the next load


# ---- Refusals ------------------------------------------------------------------------------------


def test_a_closed_file_says_so(file: File) -> None:
    with libtz.open(file.data) as f:
        pass
    with pytest.raises(OptionError, match="is closed"):
        f.load()
    f.close()
    assert list(f) == list(file.tensors)


@pytest.mark.parametrize(
    "data", [b"", b"\xf5TZ", b"PK\3\4" + bytes(200), b"{}", b"x" * 5000], ids=repr
)
def test_other_files(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=str(path)) as caught:
        libtz.open(path)
    assert caught.value.code in ("not-tz", "truncated")
    with raises(IntegrityError, code="digest", expected=OTHER_PIN):
        libtz.open(path, digest=OTHER_PIN)


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    with raises(SourceNotFoundError, url=str(tmp_path / "nothing.tz")):
        libtz.open(tmp_path / "nothing.tz")
    with pytest.raises(OptionError, match="contains no"):
        libtz.open(tmp_path)
    with pytest.raises(SourceNotFoundError):
        libtz.open(tmp_path / "model.safetensors.index.json")
    wrong: Any = 3
    with pytest.raises(OptionError):
        libtz.open(wrong)


@pytest.mark.parametrize(
    "digest", ["", "0" * 64, "blake3:" + "0" * 63, "blake3:" + "A" * 64, "md5:" + "0" * 32, 5]
)
def test_malformed_pins(file: File, digest: Any) -> None:
    with pytest.raises(OptionError, match="is not a digest"):
        libtz.open(file.data, digest=digest)


def test_pins_of_other_kinds(file: File, path: Path) -> None:
    sha256 = "sha256:" + hashlib.sha256(file.data).hexdigest()
    with pytest.raises(OptionError, match="pin it with its own digest"):
        libtz.open(file.data, digest=sha256)
    with pytest.raises(OptionError, match=r"ReadOptions\.local"):
        libtz.open(path, digest=file.digest, options=MAP)


def test_a_file_changed_during_the_load(file: File, path: Path) -> None:
    with libtz.open(path) as f:
        path.write_bytes(file.data[:-1])
        with pytest.raises(SourceError):
            f.load()
    path.write_bytes(file.data)
    with libtz.open(path) as f:
        path.write_bytes(file.data)
        with pytest.raises(SourceError, match="changed"):
            f.load()


def test_chunks_larger_than_the_memory_for_them() -> None:
    count = 16 * MIB
    file = make_file(
        {"t": Tensor("bf16", (count,), weights(MIB) * 16)}, chunk_size=32 * MIB, compress=True
    )
    with libtz.open(file.data, options=ReadOptions(host_memory_max=64 * MIB)) as f:
        assert raw(f["t"]) == file.tensors["t"].data
        is_compressed = f.info("t").stored_nbytes < 2 * count
        assert f.stats.host_memory <= 64 * MIB
    if not is_compressed:
        pytest.skip("this build of libtz does not compress")
    with (
        libtz.open(file.data, options=ReadOptions(host_memory_max=8 * MIB)) as f,
        pytest.raises(OptionError, match="host_memory_max is too small"),
    ):
        f.load()


# ---- Safetensors ---------------------------------------------------------------------------------


def safetensors(tensors: dict[str, tuple[str, list[int], bytes]], **metadata: str) -> bytes:
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, (dtype, shape, data) in tensors.items():
        offsets = [end, end + len(data)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        end += len(data)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(t[2] for t in tensors.values())


FOREIGN = safetensors(
    {
        "odd": ("U8", [3], b"abc"),
        "w": ("F32", [2, 500_000], np.arange(1_000_000, dtype=np.float32).tobytes()),
        "e": ("BF16", [0], b""),
    },
    kind="test",
)


@pytest.mark.parametrize("local", ["copy", "map"])
def test_safetensors_load_unchecked(tmp_path: Path, local: Any) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(FOREIGN)
    with libtz.open(path, options=ReadOptions(local=local)) as f:
        assert f.format == "safetensors"
        assert f.verified == "none"
        assert f.digest is None
        assert f.content_digest is None
        assert f.metadata == {"kind": "test"}
        assert f.info("w").content_digest is None
        tensors = f.load()
        assert torch.equal(tensors["w"].view(-1), torch.arange(1_000_000, dtype=torch.float32))
        assert tensors["odd"].tolist() == [97, 98, 99]
        # Three bytes into the data, a float32 is not aligned. Such tensors are copied.
        assert tensors["w"].data_ptr() % 4 == 0
        assert torch.equal(f.get_slice("w")[1, -5:], tensors["w"][1, -5:])


def test_safetensors_pinned_by_sha256() -> None:
    pin = "sha256:" + hashlib.sha256(FOREIGN).hexdigest()
    with libtz.open(FOREIGN, digest=pin) as f:
        assert f.verified == "pinned"
        assert len(f.load()) == 3
    changed = bytearray(FOREIGN)
    changed[-1] ^= 1
    with raises(IntegrityError, code="digest", expected=pin):
        libtz.open(bytes(changed), digest=pin)
    with raises(IntegrityError, code="digest", expected=OTHER_PIN, found=None):
        libtz.open(FOREIGN, digest=OTHER_PIN)


def test_a_damaged_safetensors_header() -> None:
    with pytest.raises(FormatError):
        libtz.open(FOREIGN[:-1])
    with pytest.raises(FormatError):
        libtz.open(FOREIGN + b"\0")


# ---- Mapping -------------------------------------------------------------------------------------


def test_mapped_tensors_are_the_file_and_private(tmp_path: Path) -> None:
    file = sample()
    path = tmp_path / "model.tz"
    path.write_bytes(file.data)
    with libtz.open(path, options=MAP) as f:
        tensor = f["big"]
        assert f.stats.path == "map"
        assert f.stats.host_memory < MIB
        mapped = Path("/proc/self/maps").read_text()
        assert str(path) in mapped
    tensor.fill_(0)
    assert path.read_bytes() == file.data
    del tensor
    gc.collect()
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_mapped_tensors_are_checked(tmp_path: Path) -> None:
    file = sample()
    with libtz.open(file.data) as f:
        offset = file.data.index(file.tensors["big"].data[:64])
    data = bytearray(file.data)
    data[offset] ^= 1
    path = tmp_path / "model.tz"
    path.write_bytes(data)
    with libtz.open(path, options=MAP) as f, raises(IntegrityError, tensor="big", chunk=0):
        f.load()


@pytest.mark.parametrize("name", ["dtype-after-last", "layout-1", "data-offset-0"])
def test_tensors_of_files_that_do_not_open_are_named(name: str) -> None:
    vector = tz_vectors.load(tz_vectors.VECTORS / "v1" / "invalid" / f"{name}.hex")
    with raises(FormatError, tensor="x") as caught:
        libtz.open(vector.data)
    assert caught.value.offset is not None


EXTENSIBLE = tz_vectors.load(
    tz_vectors.VECTORS / "v1" / "valid" / "dtype-extensible-of-several-chunks.hex"
).data


def test_values_of_an_unknown_dtype_are_refused() -> None:
    with libtz.open(EXTENSIBLE) as f:
        name = next(name for name in f if f.info(name).dtype.startswith("0x"))
        f.verify()
        for load in (f.load, lambda: f[name], lambda: f.get_slice(name)[...]):
            with raises(FormatError, code="feature", rule="TZ1-60", tensor=name) as caught:
                load()
            assert "iter_buffers() gives its bytes" in str(caught.value)
    with libtz.numpy.open(EXTENSIBLE) as f, raises(FormatError, rule="TZ1-60"):
        f.load()


def test_bytes_of_an_unknown_dtype_are_read() -> None:
    expected = tz_reference.File(EXTENSIBLE)
    with libtz.open(EXTENSIBLE) as f:
        for name, data in f.iter_buffers():
            assert len(data) == f.info(name).nbytes
            assert bytes(data) == expected.load_bytes(name)
            buffer = allocate(len(data))
            f.load_into({name: buffer})
            assert bytes(buffer.view()) == bytes(data)


@pytest.mark.parametrize(
    ("field", "rule"),
    [("reserved", "TZ1-39"), ("codec", "TZ1-40"), ("stored_length", "TZ1-41")],
)
def test_the_dtype_is_checked_before_the_chunks_of_the_tensor(field: str, rule: str) -> None:
    """For a tensor with both faults, typed loads report the unknown dtype, and others the fault in
    its chunks."""
    value = b"\1" * 7 if field == "reserved" else 9
    data = tz_kit.broken(EXTENSIBLE, {f"chunk[0].{field}": value})
    with libtz.open(data) as f, raises(FormatError, rule="TZ1-60"):
        f.load()
    with libtz.open(data) as f, raises(FormatError, rule=rule):
        list(f.iter_buffers())


def vector_data(name: str) -> bytes:
    return tz_vectors.load(tz_vectors.VECTORS / "v1" / "invalid" / f"{name}.hex").data


def test_a_pin_makes_loads_compare_digests() -> None:
    """A chunk with the right CRC and a wrong digest is refused only with a pin."""
    data = vector_data("chunk-digest")
    with libtz.open(data) as f:
        assert len(f.load()) == 1
    pin = tz_reference.digest_text(data[:128])
    with libtz.open(data, digest=pin) as f, raises(IntegrityError, rule="TZ1-85"):
        f.load()


def test_checks_of_stored_bytes_can_be_waived() -> None:
    """By who asks for it, for a file without a pin, and for nothing but the stored bytes."""
    data = vector_data("chunk-bit-flip")
    with libtz.open(data) as f, raises(IntegrityError, rule="TZ1-43"):
        f.load()
    with libtz.open(data, options=RAW) as f:
        assert len(f.load()) == 1
    with libtz.open(data, options=RAW) as f, raises(IntegrityError, rule="TZ1-43"):
        f.verify()
    pin = tz_reference.digest_text(data[:128])
    pinned = libtz.open(data, digest=pin, options=RAW)
    with pinned as f, raises(IntegrityError, rule="TZ1-85"):
        f.load()
    changed = libtz.open(vector_data("run-changed"), options=RAW)
    with changed as f, raises(IntegrityError, rule="TZ1-38"):
        f.load()
