"""Who takes part: each loads the whole model into tensors (the floors: into memory) and touches
every byte.

A contestant is a function of a `Place`. One sample is one process, so nobody inherits another's
memory or caches, and peak memory can be told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Place(NamedTuple):
    """Where the model lies, in each contestant's own format."""

    tz: str
    digest: str
    safetensors: str
    pickle: str


def preadv(place: Place) -> Any:
    from bench.floors.preadv import load

    return load(place.tz)


def sockets(place: Place) -> Any:
    from bench.floors.sockets import load

    return load(place.tz)


def libtz(place: Place) -> Any:
    from libtz.torch import load_file

    return load_file(place.tz)


def libtz_pinned(place: Place) -> Any:
    from libtz.torch import load_file

    return load_file(place.tz, digest=place.digest)


def libtz_unverified(place: Place) -> Any:
    from libtz import ReadOptions
    from libtz.torch import load_file

    return load_file(place.tz, options=ReadOptions(verify=False))


def libtz_safetensors(place: Place) -> Any:
    from libtz.torch import load_file

    return load_file(place.safetensors)


def libtz_mapped(place: Place) -> Any:
    from libtz import ReadOptions
    from libtz.torch import load_file

    return _touched(load_file(place.tz, options=ReadOptions(local="map")))


def safetensors(place: Place) -> Any:
    from safetensors.torch import load_file

    return _touched(load_file(place.safetensors))


def torch_load(place: Place) -> Any:
    import torch

    return torch.load(place.pickle, weights_only=True)


def _touched(tensors: dict[str, Any]) -> dict[str, Any]:
    """Mapped pages cost their time when they are read; read them."""
    import torch

    for tensor in tensors.values():
        tensor.reshape(-1).view(torch.int64).sum()
    return tensors


SCENES: dict[str, list[Callable[[Place], Any]]] = {
    "local": [
        preadv,
        libtz,
        libtz_pinned,
        libtz_unverified,
        libtz_safetensors,
        libtz_mapped,
        safetensors,
        torch_load,
    ],
    "http": [sockets, libtz, libtz_pinned, libtz_unverified, libtz_safetensors],
}
