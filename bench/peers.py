"""Other libraries, as contestants; see `contestants.py`. Each is called as its documentation says.

Whoever loads safetensors files gets the same model as one; tensorizer gets it as its own file.
Plain clients of S3 only bring the file into memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from bench import models
from bench.contestants import Load, Place, touched

PART_SIZE = 16 << 20
CONNECTIONS = 4


def safetensors(place: Place) -> Load:
    """Maps the file."""
    from safetensors.torch import load_file

    return lambda: touched(load_file(place.file(models.SAFETENSORS)))


def torch_load(place: Place, *, mmap: bool = False) -> Load:
    import torch

    load = partial(torch.load, place.file(models.PICKLE), mmap=mmap, weights_only=True)
    return (lambda: touched(load())) if mmap else load


def tensorizer(place: Place, *, verify: bool = False) -> Load:
    from tensorizer import TensorDeserializer
    from tensorizer.stream_io import CAInfo, open_stream

    def load() -> Any:
        certificate = CAInfo(cacert=place.certificate) if place.certificate else None
        with open_stream(
            place.file(models.TENSORS),
            s3_endpoint=place.endpoint or None,
            force_http=place.endpoint.startswith("http://") or None,
            certificate_handling=certificate,
        ) as stream:
            tensors = TensorDeserializer(stream, device="cpu", verify_hash=verify)
            return dict(tensors.items())

    return load


def runai(place: Place) -> Load:
    from runai_model_streamer import SafetensorsStreamer

    def load() -> Any:
        with SafetensorsStreamer() as streamer:
            streamer.stream_file(place.file(models.SAFETENSORS))
            return dict(streamer.get_tensors())

    return load


def fastsafetensors(place: Place) -> Load:
    from fastsafetensors import fastsafe_open

    def load() -> Any:
        file = place.file(models.SAFETENSORS)
        with fastsafe_open(filenames=[file], device="cpu", nogds=True) as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118

    return load


def boto3(place: Place) -> Load:
    import io

    import boto3

    def load() -> Any:
        client = boto3.client("s3", endpoint_url=place.endpoint)
        body = io.BytesIO()
        client.download_fileobj(place.base.removeprefix("s3://"), models.RAW, body)
        return body

    return load


def obstore(place: Place) -> Load:
    """In ranges over four threads: one request alone brings half as much."""
    from obstore.store import S3Store

    def load() -> Any:
        store = S3Store.from_url(
            place.base, endpoint=place.endpoint, client_options={"allow_http": True}
        )
        size = store.head(models.RAW)["size"]
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            get = partial(_get_range, store)
            return list(pool.map(get, _parts(size)))

    return load


def _get_range(store: Any, part: tuple[int, int]) -> Any:
    return store.get_range(models.RAW, start=part[0], end=part[1])


def _parts(size: int) -> Iterator[tuple[int, int]]:
    return ((begin, min(begin + PART_SIZE, size)) for begin in range(0, size, PART_SIZE))


def s3torchconnector(place: Place) -> Load:
    from s3torchconnector import S3Checkpoint, S3ClientConfig

    def load() -> Any:
        config = S3ClientConfig(force_path_style=True)
        checkpoint = S3Checkpoint("us-east-1", endpoint=place.endpoint, s3client_config=config)
        with checkpoint.reader(place.file(models.RAW)) as reader:
            return reader.read()

    return load
