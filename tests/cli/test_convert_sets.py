"""`tz convert` of sharded models as transformers writes them: every value under its own name.

transformers sorts the index by name and puts tensors into files in the order of the modules, so the
two orders differ. The results are read by the safetensors and tensorizer packages, not by libtz.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import tz_reference

from libtz.cli.main import main
from libtz.writing.tz import Writer

transformers = pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # warnings of transformers about itself
]

SMALL: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def llama(is_tied: bool) -> Any:
    return transformers.LlamaConfig(**SMALL, tie_word_embeddings=is_tied)


def mixtral() -> Any:
    return transformers.MixtralConfig(**SMALL, num_local_experts=3, num_experts_per_tok=2)


def qwen3_moe() -> Any:
    return transformers.Qwen3MoeConfig(
        **SMALL, head_dim=8, num_experts=3, num_experts_per_tok=2, moe_intermediate_size=16
    )


def t5() -> Any:
    return transformers.T5Config(
        vocab_size=96, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4
    )


def whisper() -> Any:
    return transformers.WhisperConfig(
        vocab_size=96,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_mel_bins=8,
        max_source_positions=20,
        max_target_positions=20,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )


def qwen2_5_vl() -> Any:
    return transformers.Qwen2_5_VLConfig(
        text_config={
            **SMALL,
            "rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [1, 1, 2]},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 4,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
        },
    )


MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaForCausalLM(llama(False)),
    "llama-tied": lambda: transformers.LlamaForCausalLM(llama(True)),
    "mixtral": lambda: transformers.MixtralForCausalLM(mixtral()),
    "qwen3-moe": lambda: transformers.Qwen3MoeForCausalLM(qwen3_moe()),
    "t5": lambda: transformers.T5ForConditionalGeneration(t5()),
    "whisper": lambda: transformers.WhisperForConditionalGeneration(whisper()),
    "qwen2.5-vl": lambda: transformers.Qwen2_5_VLForConditionalGeneration(qwen2_5_vl()),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shards and an index."""
    torch.manual_seed(7)
    folder = tmp_path_factory.mktemp("model")
    MODELS[request.param]().to(torch.bfloat16).save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 2
    return folder


def stored(folder: Path) -> dict[str, torch.Tensor]:
    """The contents of the shards, read by the safetensors package."""
    tensors: dict[str, torch.Tensor] = {}
    for shard in folder.glob("model-*.safetensors"):
        tensors |= safetensors.torch.load_file(shard)
    return tensors


def read(path: Path) -> dict[str, tuple[tuple[int, ...], bytes]]:
    """Shapes and bytes by name, read by a package that is independent of libtz."""
    if path.suffix == ".safetensors":
        return {name: of(tensor) for name, tensor in safetensors.torch.load_file(path).items()}
    if path.suffix == ".tensors":
        tensorizer = pytest.importorskip("tensorizer")
        with tensorizer.TensorDeserializer(str(path), device="cpu", verify_hash=True) as file:
            return {name: of(tensor.detach()) for name, tensor in file.items()}
    file = tz_reference.open(str(path))
    return {name: (tuple(tensor.shape), tensor.data) for name, tensor in each(file)}


def each(file: Any) -> Any:
    return ((name, file.load(name)) for name in file.names())


def of(tensor: torch.Tensor) -> tuple[tuple[int, ...], bytes]:
    return tuple(tensor.shape), tensor.contiguous().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("target", ["out.tz", "out.safetensors", "out.tensors"])
@pytest.mark.parametrize("source", ["folder", "index"])
def test_every_value_keeps_its_name(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, target: str
) -> None:
    expected = {name: of(tensor) for name, tensor in stored(model).items()}
    index = model / "model.safetensors.index.json"
    names = list(json.loads(index.read_text())["weight_map"])
    assert names == sorted(names)
    path = tmp_path / target
    given = str(model if source == "folder" else index)
    assert main(["convert", given, str(path)]) == 0, capsys.readouterr().err
    assert read(path) == expected
    for suffix in {".tz", ".safetensors", ".tensors"} - {path.suffix}:
        again = tmp_path / f"again{suffix}"
        assert main(["convert", str(path), str(again)]) == 0, capsys.readouterr().err
        assert read(again) == expected


def test_values_under_other_names_are_found(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A valid result in which one tensor has another tensor's values."""
    put = Writer._put
    earlier: dict[int, bytes] = {}

    def mixing_up(writer: Writer, name: str, data: Any) -> None:
        """Every tensor gets the values of the first one of its size."""
        put(writer, name, earlier.setdefault(len(data), bytes(data)))

    monkeypatch.setattr(Writer, "_put", mixing_up)
    assert main(["convert", str(model), str(tmp_path / "out.tz")]) == 1
    assert "different values than in the source" in capsys.readouterr().err
