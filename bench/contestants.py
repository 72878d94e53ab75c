"""libtz and the floors, as contestants.

A contestant is a function that takes a `Location`. It imports and prepares what a running server
has ready, and returns the load: a function without arguments that reads the whole model into
tensors (for a floor or a plain client: into memory) and touches every byte. Only the load is timed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from bench import models

Load = Callable[[], Any]


class Location(NamedTuple):
    """Where the model's files are."""

    base: str  # a folder, a URL, or s3://bucket
    digest: str  # of the raw .tz file
    certificate: str = ""  # path of the server's self-signed certificate
    endpoint: str = ""  # of the S3 store; its keys are in the environment

    def file(self, name: str) -> str:
        return f"{self.base}/{name}"


def libtz(
    location: Location,
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
        http=HttpOptions(verify=location.certificate or True),
        s3=S3Options(endpoint=location.endpoint or None),
        **limit,
    )
    digest = location.digest if pinned else None
    return partial(load_file, location.file(file), digest=digest, options=options)


def libtz_mapped(location: Location, *, verify: bool = True) -> Load:
    from libtz import ReadOptions
    from libtz.torch import load_file

    options = ReadOptions(local="map", verify=verify)
    return lambda: touched(load_file(location.file(models.RAW), options=options))


def libtz_one_by_one(location: Location, *, file: str = models.RAW) -> Load:
    from libtz.torch import open

    def load() -> None:
        with open(location.file(file)) as opened:
            for name in opened:
                touched({name: opened[name]})

    return load


def libtz_safe_open(location: Location) -> Load:
    from libtz.compat.safetensors import safe_open

    return partial(one_by_one, safe_open, location.file(models.SAFETENSORS))


def one_by_one(safe_open: Callable[..., Any], path: str) -> None:
    """Reads every tensor alone, with the class of the safetensors package or ours."""
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            touched({name: file.get_tensor(name)})


def preadv(location: Location) -> Load:
    from bench.floors.preadv import load

    return partial(load, location.file(models.RAW))


def direct(location: Location) -> Load:
    from bench.floors.direct import load

    return partial(load, location.file(models.RAW))


def memcpy(location: Location) -> Load:
    from bench.floors import memcpy, preadv

    source = preadv.load(location.file(models.RAW))
    return partial(memcpy.load, source)


def sockets(location: Location, *, file: str = models.RAW) -> Load:
    from bench.floors.sockets import load

    return partial(load, location.file(file), location.certificate)


def sockets_s3(location: Location) -> Load:
    import botocore.auth  # noqa: F401  libtz_s3 imports boto3 before the clock starts, too
    from bench.floors.sockets import load_s3

    keys = (os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
    return partial(
        load_s3, location.endpoint, location.base.removeprefix("s3://"), models.RAW, keys
    )


def libtz_s3(location: Location, **options: Any) -> Load:
    import boto3  # noqa: F401

    return libtz(location, **options)


def touched(tensors: dict[str, Any]) -> dict[str, Any]:
    """Reads every byte, since mapped pages are only loaded when they are read."""
    import torch

    for tensor in tensors.values():
        tensor.reshape(-1).view(torch.int64).sum()
    return tensors
