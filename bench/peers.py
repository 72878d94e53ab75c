"""Other packages, as contestants; see `contestants.py`. Each is called as its documentation says.

tensorizer and torch.load read the model in their own formats, the others as a safetensors file.
Plain S3 clients only read the file into memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from bench import models
from bench.contestants import Load, Location, one_by_one, touched

PART_SIZE = 16 << 20
CONNECTIONS = 4


def safetensors(location: Location) -> Load:
    """Maps the file."""
    from safetensors.torch import load_file

    return lambda: touched(load_file(location.file(models.SAFETENSORS)))


def safetensors_one_by_one(location: Location) -> Load:
    """Maps the file."""
    from safetensors import safe_open

    return partial(one_by_one, safe_open, location.file(models.SAFETENSORS))


def torch_load(location: Location, *, mmap: bool = False) -> Load:
    import torch

    load = partial(torch.load, location.file(models.PICKLE), mmap=mmap, weights_only=True)
    return (lambda: touched(load())) if mmap else load


def tensorizer(location: Location, *, verify: bool = False) -> Load:
    from tensorizer import TensorDeserializer
    from tensorizer.stream_io import CAInfo, open_stream

    def load() -> Any:
        certificate = CAInfo(cacert=location.certificate) if location.certificate else None
        with open_stream(
            location.file(models.TENSORS),
            s3_endpoint=location.endpoint or None,
            force_http=location.endpoint.startswith("http://") or None,
            certificate_handling=certificate,
        ) as stream:
            tensors = TensorDeserializer(stream, device="cpu", verify_hash=verify)
            return dict(tensors.items())

    return load


def runai(location: Location) -> Load:
    from runai_model_streamer import SafetensorsStreamer

    def load() -> Any:
        with SafetensorsStreamer() as streamer:
            streamer.stream_file(location.file(models.SAFETENSORS))
            return dict(streamer.get_tensors())

    return load


def fastsafetensors(location: Location) -> Load:
    from fastsafetensors import fastsafe_open

    def load() -> Any:
        file = location.file(models.SAFETENSORS)
        with fastsafe_open(filenames=[file], device="cpu", nogds=True) as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118

    return load


def boto3(location: Location) -> Load:
    import io

    import boto3

    def load() -> Any:
        client = boto3.client("s3", endpoint_url=location.endpoint)
        body = io.BytesIO()
        client.download_fileobj(location.base.removeprefix("s3://"), models.RAW, body)
        return body

    return load


def obstore(location: Location) -> Load:
    """Reads ranges in four threads: a single request reaches half the speed."""
    from obstore.store import S3Store

    def load() -> Any:
        store = S3Store.from_url(
            location.base, endpoint=location.endpoint, client_options={"allow_http": True}
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


def s3torchconnector(location: Location) -> Load:
    from s3torchconnector import S3Checkpoint, S3ClientConfig

    def load() -> Any:
        config = S3ClientConfig(force_path_style=True)
        checkpoint = S3Checkpoint("us-east-1", endpoint=location.endpoint, s3client_config=config)
        with checkpoint.reader(location.file(models.RAW)) as reader:
            return reader.read()

    return load
