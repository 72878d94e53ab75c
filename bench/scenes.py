"""What is measured: model, source and contestants. The others are compared with the first
contestant."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from bench import contestants as us
from bench import models, peers
from bench.contestants import Load, Location

Contestant = Callable[[Location], Load]


class Scene(NamedTuple):
    title: str
    model: str  # a key of models.makers
    where: str  # see main.serve
    contestants: dict[str, Contestant]


PREADV = {"preadv, two threads": us.preadv}
SOCKETS = {"raw sockets + CRC": us.sockets}
SOCKETS_S3 = {"raw sockets + CRC": us.sockets_s3}

OURS: dict[str, Contestant] = {
    "libtz": us.libtz,
    "libtz, pinned": partial(us.libtz, pinned=True),
    "libtz, not verified": partial(us.libtz, verify=False),
    "libtz, safetensors": partial(us.libtz, file=models.SAFETENSORS),
}
OURS_S3: dict[str, Contestant] = {
    "libtz": us.libtz_s3,
    "libtz, pinned": partial(us.libtz_s3, pinned=True),
    "libtz, not verified": partial(us.libtz_s3, verify=False),
}
COPYING_PEERS: dict[str, Contestant] = {
    "tensorizer": peers.tensorizer,
    "runai-model-streamer": peers.runai,
    "fastsafetensors": peers.fastsafetensors,
    "torch.load": peers.torch_load,
}
TENSORIZER: dict[str, Contestant] = {
    "tensorizer": peers.tensorizer,
    "tensorizer, verified": partial(peers.tensorizer, verify=True),
}
S3_PEERS: dict[str, Contestant] = {
    "runai-model-streamer": peers.runai,
    "tensorizer": peers.tensorizer,
    "boto3": peers.boto3,
    "obstore": peers.obstore,
    "s3torchconnector": peers.s3torchconnector,
}


def connections() -> dict[str, Contestant]:
    ways = {"verified": {}, "pinned": {"pinned": True}, "not verified": {"verify": False}}
    return SOCKETS | {
        f"{count}, {way}": partial(us.libtz, connections_max=count, **options)
        for count in (1, 2, 4, 8, 16, 32)
        for way, options in ways.items()
    }


def link(gbit: int, model: str = "transformer") -> Scene:
    return Scene(
        f"HTTP through a link of {gbit} Gbit/s",
        model,
        f"link-{gbit}",
        {
            **SOCKETS,
            "libtz, raw": us.libtz,
            "libtz, raw, not verified": partial(us.libtz, verify=False),
            "libtz, compressed": partial(us.libtz, file=models.COMPRESSED),
            "tensorizer": peers.tensorizer,
        },
    )


SCENES = {
    "warm": Scene(
        "Local file in the page cache, copied",
        "transformer",
        "local",
        {**PREADV, "memcpy, two threads": us.memcpy, **OURS, **COPYING_PEERS},
    ),
    "mapped": Scene(
        "Local file in the page cache, mapped and read once",
        "transformer",
        "local",
        {
            "safetensors": peers.safetensors,
            "libtz": us.libtz_mapped,
            "libtz, not verified": partial(us.libtz_mapped, verify=False),
            "torch.load, mmap": partial(peers.torch_load, mmap=True),
        },
    ),
    "cold": Scene(
        "Local file that is not in the page cache",
        "transformer",
        "cold",
        {
            "direct I/O": us.direct,
            "libtz": us.libtz,
            "libtz, not verified": partial(us.libtz, verify=False),
            "libtz, compressed": partial(us.libtz, file=models.COMPRESSED),
            "safetensors": peers.safetensors,
            **COPYING_PEERS,
        },
    ),
    "http": Scene("HTTP, nginx", "transformer", "http", SOCKETS | OURS | TENSORIZER),
    "https": Scene("HTTPS, nginx", "transformer", "https", SOCKETS | OURS | TENSORIZER),
    "s3": Scene(
        "S3: signed GETs, checked by nginx", "transformer", "s3", SOCKETS_S3 | OURS_S3 | S3_PEERS
    ),
    "seaweed": Scene("S3: SeaweedFS", "transformer", "seaweed", SOCKETS_S3 | OURS_S3 | S3_PEERS),
    "connections": Scene("HTTP, most connections allowed", "transformer", "http", connections()),
    "small": Scene(
        "5,000 tensors of 2 to 64 KiB, local file in the page cache",
        "5,000 small",
        "local",
        {**PREADV, **OURS, "safetensors": peers.safetensors, **COPYING_PEERS},
    ),
    "small-http": Scene(
        "5,000 tensors of 2 to 64 KiB, HTTP", "5,000 small", "http", SOCKETS | OURS | TENSORIZER
    ),
    "tiny": Scene(
        "10,000 tensors of 8 KiB, local file in the page cache",
        "10,000 tiny",
        "local",
        {**PREADV, **OURS, "safetensors": peers.safetensors, **COPYING_PEERS},
    ),
    "one-by-one": Scene(
        "10,000 tensors of 8 KiB, local file in the page cache, opened and read one by one",
        "10,000 tiny",
        "local",
        {
            "safetensors": peers.safetensors_one_by_one,
            "libtz, safe_open": us.libtz_safe_open,
            "libtz": us.libtz_one_by_one,
            "libtz, compressed": partial(us.libtz_one_by_one, file=models.COMPRESSED),
            "libtz, safetensors": partial(us.libtz_one_by_one, file=models.SAFETENSORS),
        },
    ),
    "tiny-http": Scene(
        "10,000 tensors of 8 KiB, HTTP", "10,000 tiny", "http", SOCKETS | OURS | TENSORIZER
    ),
    "link-1": link(1, "quarter transformer"),
    "link-10": link(10),
    "link-25": link(25),
}


def kind(contestant: Contestant) -> str:
    """The kind of a contestant, for tables and plots."""
    function = contestant.func if isinstance(contestant, partial) else contestant
    if function.__module__ == peers.__name__:
        return "peer"
    return "ours" if function.__name__.startswith("libtz") else "floor"
