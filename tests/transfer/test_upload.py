"""Loading to devices: the same code on the CPU, and CUDA if there is a GPU."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tests.files import File, Tensor, make_file, random_tensor, sample, weights
from tests.raising import raises

import libtz
from libtz.arrays.base import Destination
from libtz.arrays.torch_arrays import TorchFramework, make_empty
from libtz.arrays.torch_dtypes import TORCH_DTYPES
from libtz.checkpoint.slices import ReadItem
from libtz.errors import IntegrityError, OptionError
from libtz.options import ReadOptions
from libtz.transfer.staging import Use
from libtz.transfer.target import StagingBuffer
from libtz.transfer.upload import HostUpload, Upload

MIB = 1 << 20


class LateLane(HostUpload):
    """Makes copies only when they are waited for, like a busy device."""

    def __init__(self) -> None:
        super().__init__(make_empty)
        self.slots = 0
        self.late: list[Sequence[tuple[Any, Any]]] = []
        self.busy = threading.Lock()

    def slot(self, size: int) -> StagingBuffer:
        self.slots += 1
        return super().slot(size)

    def copy(self, pairs: Sequence[tuple[Any, Any]]) -> Use | None:
        self.late.append(pairs)
        return self

    def publish(self) -> None:
        self.synchronize()

    def synchronize(self) -> None:
        with self.busy:
            while self.late:
                super().copy(self.late.pop(0))


@pytest.fixture(scope="module", params=["raw", "compressed"])
def file(request: pytest.FixtureRequest) -> File:
    return sample(compress=request.param == "compressed")


@dataclass
class StagedDevice:
    """Host memory used as a device."""

    stage: Upload

    def upload(self) -> Upload:
        return self.stage

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor


def load_with(
    file: libtz.Checkpoint[torch.Tensor], upload: Upload, *, streamed: bool = False
) -> dict[str, torch.Tensor]:
    into = Destination(TorchFramework(), StagedDevice(upload))
    items = [ReadItem(name) for name in file]
    loaded = file.read_items(items, into, streamed=streamed)
    return {item.name: tensor for item, tensor in loaded}


def assert_loaded(tensors: dict[str, torch.Tensor], file: File, device: str = "cpu") -> None:
    assert set(tensors) == set(file.tensors)
    with libtz.open(file.data) as f:
        expected = f.load()
    for name, tensor in tensors.items():
        assert tensor.device.type == device
        assert tensor.dtype == TORCH_DTYPES[file.tensors[name].dtype]
        assert tensor.shape == expected[name].shape
        assert tensor.untyped_storage().nbytes() == expected[name].nbytes
        there = tensor.cpu().contiguous().view(-1).view(torch.uint8)
        assert torch.equal(there, expected[name].contiguous().view(-1).view(torch.uint8)), name


@pytest.mark.parametrize("upload", [HostUpload(make_empty), LateLane()], ids=["host", "late"])
def test_staged_loads_give_the_same(file: File, upload: HostUpload) -> None:
    with libtz.open(file.data) as f:
        tensors = load_with(f, upload)
        assert f.stats.path == "staged"
        assert tensors["a.tied"] is tensors["a.weight"]
        assert_loaded(tensors, file)
        assert_loaded(load_with(f, upload, streamed=True), file)


def test_slots_come_back_under_a_small_budget() -> None:
    tensors = {f"{i}": random_tensor("u8", (3 * MIB + i,), i) for i in range(20)}
    tensors["w"] = Tensor("bf16", (5 * MIB,), weights(5 * MIB))
    file = make_file(tensors, compress=True)
    upload = LateLane()
    with libtz.open(file.data, options=ReadOptions(host_memory_max=8 * MIB)) as f:
        loaded = load_with(f, upload)
        assert f.stats.host_memory <= 8 * MIB
        assert upload.slots * MIB <= 8 * MIB
    assert_loaded(loaded, file)


def test_damage_is_found_before_anything_is_handed_out() -> None:
    file = sample()
    data = bytearray(file.data)
    data[data.index(file.tensors["big"].data[:64])] ^= 1
    with libtz.open(bytes(data)) as f, raises(IntegrityError, tensor="big"):
        load_with(f, LateLane())


def test_devices_without_a_lane_of_their_own() -> None:
    """Tensors are made in host memory and moved; "meta" stands in for such a device."""
    file = sample()
    with libtz.open(file.data) as f:
        tensors = f.load(device="meta")
        assert tensors["a.tied"] is tensors["a.weight"]
        assert all(tensor.is_meta for tensor in tensors.values())
        assert [name for name, tensor in f.iter_tensors(device="meta") if tensor.is_meta]
        part = f.get_slice("big", device="meta")[3:5]
        assert (part.is_meta, part.shape[0]) == (True, 2)
        wanted = [("big", slice(3, 5)), ("a.tied", ...), ("a.tied", ...)]
        parts = f.load_slices(wanted, device="meta")
        assert all(part.is_meta for part in parts)
        for part, other in zip(parts, f.load_slices(wanted), strict=True):
            assert (part.shape, part.dtype) == (other.shape, other.dtype)
            assert not other.is_meta


def test_a_device_that_is_not_there_is_told_before_anything_is_read() -> None:
    place = f"cuda:{torch.cuda.device_count()}"
    with libtz.open(sample().data) as f:
        for load in (
            f.load,
            lambda device: next(f.iter_tensors(device=device)),
            lambda device: f.get_slice("big", device),
            lambda device: f.load_slices([("big", 0)], device),
        ):
            with pytest.raises(OptionError, match=place):
                load(device=place)
            with pytest.raises(OptionError, match="not a device"):
                load(device="nonsense")
        assert f.load()


# ---- CUDA ----------------------------------------------------------------------------------------

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture
def stream() -> Iterator[None]:
    with torch.cuda.stream(torch.cuda.Stream()):  # type: ignore[no-untyped-call]
        yield


@pytest.mark.cuda
@needs_cuda
def test_cuda_gives_the_same(file: File) -> None:
    with libtz.open(file.data) as f:
        assert_loaded(f.load(device="cuda"), file, "cuda")
        assert f.stats.path == "pinned"
        assert_loaded(dict(f.iter_tensors(device="cuda:0")), file, "cuda")
        assert f.get_slice("big")[3:5].device.type == "cpu"
        part = f.get_slice("big", device="cuda")[3:5]
        assert part.device.type == "cuda"
        assert part.cpu().equal(f.get_slice("big")[3:5])


@pytest.mark.cuda
@needs_cuda
@pytest.mark.usefixtures("stream")
def test_cuda_on_a_stream_of_the_callers() -> None:
    """Memory that was just freed may still be read by queued kernels; copies must not overtake."""
    tensors = {f"{i}": random_tensor("u8", (32 * MIB,), i) for i in range(8)}
    file = make_file(tensors)
    for _ in range(3):
        busy = torch.ones(256 * MIB // 4, device="cuda")
        for _ in range(50):
            busy.mul_(1.0001)
        total = busy.sum()
        del busy
        with libtz.open(io.BytesIO(file.data)) as f:
            for name, tensor in f.iter_tensors(device="cuda"):
                assert bytes(tensor.cpu().numpy()) == file.tensors[name].data
        assert torch.isfinite(total)
