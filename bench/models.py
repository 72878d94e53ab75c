"""The models to load, each written once in every format.

Their values are random, with the distribution of trained weights; only the codec depends on them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file as save_safetensors

import libtz.torch

GIB = 1 << 30
Tensors = dict[str, torch.Tensor]

RAW = "model.tz"
COMPRESSED = "compressed.tz"
SAFETENSORS = "model.safetensors"
PICKLE = "model.pt"
TENSORS = "model.tensors"  # tensorizer's format
CANNOT = "cannot"


def transformer(size: int) -> Tensors:
    """The embedding and layers of a transformer in bf16, about `size` bytes."""
    width, inner, words = 2048, 5632, 32000
    layer = {
        "attention.q": (width, width),
        "attention.k": (width // 4, width),
        "attention.v": (width // 4, width),
        "attention.o": (width, width),
        "mlp.gate": (inner, width),
        "mlp.up": (inner, width),
        "mlp.down": (width, inner),
        "norm.1": (width,),
        "norm.2": (width,),
    }
    generator = torch.Generator().manual_seed(1)

    def weight(shape: tuple[int, ...]) -> torch.Tensor:
        deviation = shape[-1] ** -0.5  # of initialised networks, and roughly of trained ones
        return torch.empty(shape).normal_(0, deviation, generator=generator).bfloat16()

    tensors = {"embedding": weight((words, width))}
    total = tensors["embedding"].nbytes
    while total < size:
        for name, shape in layer.items():
            tensor = weight(shape)
            tensors[f"layers.{len(tensors) // len(layer)}.{name}"] = tensor
            total += tensor.nbytes
    return tensors


def small(count: int) -> Tensors:
    """Tensors of 2 to 64 KiB in bf16, as in adapters and convolutional networks."""
    generator = torch.Generator().manual_seed(2)
    kib = torch.randint(2, 65, (count,), generator=generator).tolist()
    return {
        f"blocks.{index}.weight": torch.randn(512 * size, generator=generator).bfloat16()
        for index, size in enumerate(kib)
    }


def tiny(count: int) -> Tensors:
    """Tensors of 8 KiB, so that the load's time is mostly the cost per tensor."""
    generator = torch.Generator().manual_seed(3)
    return {
        f"blocks.{index}.weight": torch.randn(64, 64, generator=generator).bfloat16()
        for index in range(count)
    }


def makers(gib: float) -> dict[str, Callable[[], Tensors]]:
    """Functions that make the models, by name. `gib` is the size of the large model."""
    return {
        "transformer": lambda: transformer(int(gib * GIB)),
        "quarter transformer": lambda: transformer(int(gib * GIB / 4)),  # for slow links
        "5,000 small": lambda: small(5_000),
        "10,000 tiny": lambda: tiny(10_000),
    }


def write(tensors: Tensors, folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, compress in ((RAW, "off"), (COMPRESSED, "auto")):
        options = libtz.WriteOptions(compress=compress)
        libtz.torch.save_file(tensors, folder / name, options=options)
    save_safetensors(tensors, folder / SAFETENSORS)
    torch.save(tensors, folder / PICKLE)
    cannot = {}
    try:
        _write_tensors(tensors, folder / TENSORS)
    except (ImportError, RuntimeError) as error:
        # tensorizer has room for the metadata of about 4,000 tensors.
        cannot["tensorizer"] = f"cannot write its file: {error}"
        (folder / TENSORS).unlink(missing_ok=True)
    (folder / CANNOT).write_text(json.dumps(cannot))


def _write_tensors(tensors: Tensors, path: Path) -> None:
    from tensorizer import TensorSerializer

    serializer = TensorSerializer(str(path))
    serializer.write_state_dict(tensors)
    serializer.close()


def cannot_load(folder: Path) -> dict[str, str]:
    """The packages that could not write the model, with the reasons."""
    found: dict[str, str] = json.loads((folder / CANNOT).read_text())
    return found
