"""`tz convert` from HTTP and S3, and to S3."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from tests.servers import Nginx, Seaweed

import libtz
import libtz.torch
from libtz.cli.main import main

TENSORS = {"a": torch.arange(300_000.0), "b": torch.arange(7, dtype=torch.int16)}


def test_from_http(capsys: pytest.CaptureFixture[str], tmp_path: Path, nginx: Nginx) -> None:
    safetensors.torch.save_file(TENSORS, nginx.root / "convert.safetensors")
    target = tmp_path / "model.tz"
    assert main(["convert", f"{nginx.http}/convert.safetensors", str(target)]) == 0
    digest = capsys.readouterr().out.strip()
    found = libtz.torch.load_file(target, digest=digest)
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)
    assert main(["convert", str(target), f"{nginx.http}/model.tz"]) == 2
    assert "http:// is read-only" in capsys.readouterr().err


def test_between_objects(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    aws: Path,
    seaweed: Seaweed,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweed.keys[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweed.keys[1])
    url, copy = "s3://convert/folder/model.safetensors", "s3://convert/copy.tz"
    flags = ["--s3-endpoint", seaweed.endpoint]
    with seaweed.bucket("convert") as client:
        body = safetensors.torch.save(TENSORS)
        client.put_object(Bucket="convert", Key="folder/model.safetensors", Body=body)
        assert main(["convert", url, copy, *flags]) == 0
        digest, said = capsys.readouterr()
        assert "is the source" not in said
        assert main(["convert", copy, copy, "--digest", digest.strip(), *flags]) == 0
        assert (
            "is the source: it is replaced when the upload is complete" in capsys.readouterr().err
        )
        options = libtz.ReadOptions(s3=libtz.S3Options(endpoint=seaweed.endpoint))
        found = libtz.torch.load_file(copy, digest=digest.strip(), options=options)
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)
