"""libtz and the floors, as contestants.

A contestant is a function of a `Place`. It imports and prepares what a running server would have
at hand, and returns the load: a function without arguments that brings the whole model into
tensors (a floor or a plain client: into memory) and touches every byte. Only the load is timed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from bench import models

Load = Callable[[], Any]


class Place(NamedTuple):
    """Where the model's files lie."""

    base: str  # a folder, a URL, or s3://bucket
    digest: str  # of the raw .tz file
    certificate: str = ""  # of the server, where it is one that nobody knows
    endpoint: str = ""  # of the S3 store; its keys are in the environment, where all look for them

    def file(self, name: str) -> str:
        return f"{self.base}/{name}"


def libtz(
    place: Place,
    *,
    file: str = models.RAW,
    verify: bool = True,
    pinned: bool = False,
    connections_max: int | None = None,
) -> Load:
    from libtz import HttpOptions, ReadOptions, S3Options
    from libtz.torch import load_file

    limit = {} if connections_max is None else {"connections_max": connections_max}
    options = ReadOptions(
        verify=verify,
        http=HttpOptions(verify=place.certificate or True),
        s3=S3Options(endpoint=place.endpoint or None),
        **limit,
    )
    digest = place.digest if pinned else None
    return partial(load_file, place.file(file), digest=digest, options=options)


def libtz_mapped(place: Place, *, verify: bool = True) -> Load:
    from libtz import ReadOptions
    from libtz.torch import load_file

    options = ReadOptions(local="map", verify=verify)
    return lambda: touched(load_file(place.file(models.RAW), options=options))


def preadv(place: Place) -> Load:
    from bench.floors.preadv import load

    return partial(load, place.file(models.RAW))


def direct(place: Place) -> Load:
    from bench.floors.direct import load

    return partial(load, place.file(models.RAW))


def memcpy(place: Place) -> Load:
    from bench.floors import memcpy, preadv

    source = preadv.load(place.file(models.RAW))
    return partial(memcpy.load, source)


def sockets(place: Place, *, file: str = models.RAW) -> Load:
    from bench.floors.sockets import load

    return partial(load, place.file(file), place.certificate)


def sockets_s3(place: Place) -> Load:
    import botocore.auth  # noqa: F401  libtz's client of S3 is imported before the clock starts, too
    from bench.floors.sockets import load_s3

    keys = (os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
    return partial(load_s3, place.endpoint, place.base.removeprefix("s3://"), models.RAW, keys)


def libtz_s3(place: Place, **options: Any) -> Load:
    import boto3  # noqa: F401

    return libtz(place, **options)


def touched(tensors: dict[str, Any]) -> dict[str, Any]:
    """Mapped pages cost their time when they are read; read them."""
    import torch

    for tensor in tensors.values():
        tensor.reshape(-1).view(torch.int64).sum()
    return tensors
