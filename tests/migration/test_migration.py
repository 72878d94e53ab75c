"""Runs typical scripts with the package that they were written for, and with libtz after an import
swap. Both runs must give the same `results`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.libsodium import needs_libsodium
from tests.servers import Nginx, Seaweed

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parent / "scripts"
NEEDS: dict[str, Any] = dict.fromkeys(("tensorizer_encryption", "tensorizer_vllm"), needs_libsodium)
SERVERS = {"tensorizer_s3"}
SCRIPTS = [
    pytest.param(path.stem, marks=NEEDS.get(path.stem, ()))
    for path in sorted(FOLDER.glob("*.py"))
    if path.stem not in SERVERS
]


def swapped(text: str) -> str:
    """Swaps the imports, as by search and replace."""
    name = r"(tensorizer|safetensors)\b"
    text = re.sub(rf"^from {name}", r"from libtz.compat.\1", text, flags=re.MULTILINE)
    whole = r"from libtz.compat import \1\nimport libtz.compat.\1\2"
    return re.sub(rf"^import {name}(\S*)$", whole, text, flags=re.MULTILINE)


def run(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, *, swap: bool) -> Any:
    path = FOLDER / f"{name}.py"
    text = path.read_text()
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    scope: dict[str, Any] = {"__name__": "__main__"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the packages give other warnings
        exec(compile(swapped(text) if swap else text, path, "exec"), scope)
    origins = {getattr(value, "__module__", None) or "" for value in scope.values()}
    assert any(origin.startswith("libtz.compat.") for origin in origins) == swap
    assert any(origin.startswith(("tensorizer", "safetensors")) for origin in origins) != swap
    return comparable(scope["results"])


def comparable(value: Any) -> Any:
    """The value in a form that `==` compares bit for bit."""
    if isinstance(value, torch.Tensor):
        data = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return type(value).__name__, value.dtype, tuple(value.shape), value.requires_grad, data
    if isinstance(value, np.ndarray):
        return "array", value.dtype, value.shape, value.tobytes()
    if hasattr(value, "items"):  # lists of nested objects are returned as mappings
        return {key: comparable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [comparable(item) for item in value]
    return value


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(name, tmp_path, [], monkeypatch)


def test_servers(
    nginx: Nginx, seaweed: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, secret = seaweed.keys
    with seaweed.bucket("migration"):
        pass
    monkeypatch.setenv("S3_ACCESS_KEY_ID", key)
    monkeypatch.setenv("S3_SECRET_ACCESS_KEY", secret)
    monkeypatch.setenv("S3_ENDPOINT_URL", seaweed.endpoint)
    arguments = ["migration", nginx.http, str(nginx.root)]
    compare("tensorizer_s3", tmp_path, arguments, monkeypatch)


def compare(name: str, folder: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for swap in (False, True):
        place = folder / ("ours" if swap else "theirs")
        place.mkdir()
        results.append(run(name, [str(place), *arguments], monkeypatch, swap=swap))
    theirs, ours = results
    assert theirs
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert ours[key] == value, key


LIBRARIES = """
import os, sys
import libtz.compat.safetensors, libtz.compat.safetensors.numpy, libtz.compat.safetensors.torch
for name in ("", ".torch", ".numpy"):
    sys.modules["safetensors" + name] = sys.modules["libtz.compat.safetensors" + name]
import torch
from transformers import AutoConfig, AutoModelForCausalLM
folder = sys.argv[1]
theirs = AutoModelForCausalLM.from_pretrained(folder)
theirs.save_pretrained(folder + "/again", max_shard_size="40KB")
again = AutoModelForCausalLM.from_pretrained(folder + "/again", dtype=torch.bfloat16)
for name, tensor in theirs.state_dict().items():
    assert torch.equal(again.state_dict()[name], tensor.to(torch.bfloat16)), name

from huggingface_hub import load_torch_model, save_torch_model
for name in ("hub", "dcp"):
    os.mkdir(folder + "/" + name)
save_torch_model(theirs, folder + "/hub", max_shard_size="40KB")
hub = AutoModelForCausalLM.from_config(theirs.config)
load_torch_model(hub, folder + "/hub")
from torch.distributed import checkpoint
state = theirs.state_dict()
writer = checkpoint.HuggingFaceStorageWriter(folder + "/dcp")
checkpoint.save(state, storage_writer=writer, no_dist=True)
loaded = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
reader = checkpoint.HuggingFaceStorageReader(folder + "/dcp")
checkpoint.load(loaded, storage_reader=reader, no_dist=True)
for name, tensor in state.items():
    assert torch.equal(hub.state_dict()[name], tensor), name
    assert torch.equal(loaded[name], tensor), name

assert not [name for name in sys.modules if name.startswith("safetensors._safetensors")]
print(sum(tensor.double().sum() for tensor in theirs.state_dict().values()).item())
"""


def test_libraries_that_are_given_ours_instead(tmp_path: Path) -> None:
    """Runs transformers, huggingface_hub and PyTorch's distributed checkpoints with the module
    replaced before they are imported."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "llama",
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        vocab_size=64,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    make: Any = AutoModelForCausalLM.from_config
    model = make(config)
    model.save_pretrained(tmp_path)
    environment = {**os.environ, "TRANSFORMERS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    output = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LIBRARIES, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert output.returncode == 0, output.stderr
    total = sum(tensor.double().sum() for tensor in model.state_dict().values())
    assert float(output.stdout) == pytest.approx(float(total))
    assert len(list((tmp_path / "again").glob("*.safetensors"))) > 1
