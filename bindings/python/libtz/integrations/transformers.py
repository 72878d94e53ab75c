"""Models of the transformers library, from a folder, a web server or S3.

    from libtz.integrations.transformers import fetch_tokenizer, load_pretrained

    model = load_pretrained("https://host/models/bert", device="cuda")
    tokenizer = AutoTokenizer.from_pretrained(fetch_tokenizer("https://host/models/bert", "./bert"))

The folder is what `save_pretrained` writes, and its weights may be in a .tz file. Nothing of
transformers is patched, and no code comes from the folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import torch
import transformers

from libtz.arrays.torch_arrays import TorchFramework
from libtz.arrays.torch_dtypes import TORCH_DTYPES
from libtz.checkpoint.base import Checkpoint
from libtz.errors import FormatError, OptionError, SourceError
from libtz.format import TensorInfo
from libtz.locations import Location, is_plain_name
from libtz.opening import open_as
from libtz.options import ReadOptions
from libtz.torch.cast import load_as
from libtz.torch.no_init import no_init

__all__ = ["fetch_tokenizer", "load_pretrained"]

# Elsewhere than in local folders, the first that is there is taken.
WEIGHTS = (
    "model.tz",
    "model.safetensors",
    "model.safetensors.index.json",
    "model.tz.index.json",
)
TOKENIZER_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)

CONFIG_SIZE_MAX = 16 << 20  # the largest, with long label lists, have a few MB
TOKENIZER_SIZE_MAX = 256 << 20  # the largest have some 40 MB

# S3 answers 403 for an object that is not there when the caller may not list the bucket.
_ABSENT = (HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN)
# What PyTorch takes for the dtype of new tensors.
_DEFAULT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

_DEFAULTS = ReadOptions()


def load_pretrained(
    source: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    model_class: Any = None,
    weights: str | None = None,
    digest: str | None = None,
    options: ReadOptions = _DEFAULTS,
) -> Any:
    """The model of a folder or URL prefix, on `device`, in evaluation mode.

    `model_class` is a class of transformers, an Auto class too; by default the one that config.json
    names. Floating-point weights become `dtype`, or stay what they are in the file. `digest` pins
    the file of the weights.

    `weights` is the name of their file in the folder; by default model.tz, model.safetensors or an
    index of shards. A local folder that has them in two formats is refused, as by `libtz.open`,
    since one may be older; of a URL, model.tz comes first.

    Weights whose names are the model's go straight to the device. Older or converted checkpoints
    are handed, loaded, to `from_pretrained(state_dict=…)`, which knows how to rename and merge
    them.
    """
    folder = Location.of(source).folder()
    config = _read_config(folder, options)
    framework = _model_class(folder, config) if model_class is None else model_class
    with _open_weights(folder, weights, digest, options) as file:
        model = _empty(file, framework, config, dtype)
        if not _fill(model, file, device, dtype):
            model = _converted(file, type(model), config, dtype).to(device)
    if model.can_generate():
        settings = _read_json(folder.sibling("generation_config.json"), options, optional=True)
        if settings is not None:
            model.generation_config = transformers.GenerationConfig.from_dict(settings)
    return model.eval()


def fetch_tokenizer(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    options: ReadOptions = _DEFAULTS,
) -> Path:
    """Copies config.json and the tokenizer's files into a local folder, which is returned, for
    `AutoTokenizer.from_pretrained`. Files that are there already are written anew."""
    origin = Location.of(source).folder()
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", *TOKENIZER_FILES):
        with _absence_of(origin.sibling(name), optional=name != "config.json"):
            data = origin.sibling(name).read(options, size_max=TOKENIZER_SIZE_MAX)
            partial = target / f".{name}.{os.getpid()}"
            partial.write_bytes(data)
            partial.replace(target / name)
    return target


# ---- Files ---------------------------------------------------------------------------------------


@contextmanager
def _absence_of(location: Location, *, optional: bool) -> Iterator[None]:
    """Passes over a file that is not there."""
    try:
        yield
    except SourceError as error:
        is_here = location.is_local and Path(location.text).exists()
        is_absent = not is_here if location.is_local else error.status in _ABSENT
        if not (optional and is_absent):
            raise


def _read_json(location: Location, options: ReadOptions, *, optional: bool = False) -> Any:
    text = None
    with _absence_of(location, optional=optional):
        text = location.read(options, size_max=CONFIG_SIZE_MAX)
    if text is None:
        return None
    try:
        value = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{location}: not a JSON file: {error}", code="bad-config") from None
    if not isinstance(value, dict):
        raise FormatError(f"{location}: not a JSON object", code="bad-config")
    return value


def _open_weights(
    folder: Location, weights: str | None, digest: str | None, options: ReadOptions
) -> Checkpoint[torch.Tensor]:
    if weights is not None:
        if not is_plain_name(weights):
            raise OptionError(f"weights is the name of a file in the folder, not {weights!r}")
        return open_as(TorchFramework(), folder.sibling(weights), digest=digest, options=options)
    if folder.is_local:
        found = [name for name in WEIGHTS if Path(folder.sibling(name).text).exists()]
        if len({".tz" in name for name in found}) > 1:
            raise OptionError(
                f"{folder} holds weights in two formats; give weights=, one of {', '.join(found)}"
            )
    for name in WEIGHTS:
        location = folder.sibling(name)
        with _absence_of(location, optional=True):
            return open_as(TorchFramework(), location, digest=digest, options=options)
    raise SourceError(
        f"{folder} has no weights (or they may not be read): {', '.join(WEIGHTS)}",
        url=str(folder),
    )


# ---- Models --------------------------------------------------------------------------------------


def _read_config(folder: Location, options: ReadOptions) -> Any:
    location = folder.sibling("config.json")
    values = _read_json(location, options)
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in transformers.CONFIG_MAPPING:
        raise OptionError(
            f"{location}: this transformers has no model type {kind!r}; models that bring"
            " their own code are not loaded"
        )
    if values.get("quantization_config") is not None:
        raise OptionError(
            f"{location}: quantized models are built by transformers alone; load the weights"
            " by libtz.torch.load_file"
        )
    try:
        return transformers.CONFIG_MAPPING[kind].from_dict(values)
    except Exception as error:  # whatever a class of transformers says to odd values
        raise FormatError(
            f"{location}: not a configuration of {kind}: {error}", code="bad-config"
        ) from error


def _model_class(folder: Location, config: Any) -> Any:
    names = config.architectures or []
    found = getattr(transformers, names[0], None) if names else None
    # The name comes with the files: nothing but a model is made by it.
    if not isinstance(found, type) or not issubclass(found, transformers.PreTrainedModel):
        raise OptionError(
            f"{folder}: config.json names no model of transformers ({names}); give model_class"
        )
    return found


def _empty(
    file: Checkpoint[torch.Tensor], framework: Any, config: Any, dtype: torch.dtype | None
) -> Any:
    """The model, its parameters on the meta device."""
    kinds = [TORCH_DTYPES.get(file.info(name).dtype) for name in file]
    floating = [kind for kind in kinds if kind is not None and kind.is_floating_point]
    with no_init(), _default_dtype(dtype or next(iter(floating), None)):
        # Auto classes are made from a configuration by a function of theirs.
        return framework(config) if _is_model(framework) else framework.from_config(config)


def _fill(
    model: Any,
    file: Checkpoint[torch.Tensor],
    device: torch.device | str,
    dtype: torch.dtype | None,
) -> bool:
    """Makes the file's tensors the model's own; False, with nothing done, if names, shapes or types
    have to be changed by transformers."""
    if dtype is not None and getattr(model, "_keep_in_fp32_modules", None):
        return False
    infos = {name: file.info(name) for name in file}
    state = model.state_dict(keep_vars=True)
    # Old files hold buffers that models now make themselves.
    own = {name for name, _ in model.named_buffers()} - state.keys()
    names = [name for name in infos if name not in own]
    if any(name not in state or infos[name].shape != tuple(state[name].shape) for name in names):
        return False
    stored: dict[int, str] = {}  # the name under which the file has a tensor of the model
    for name in names:
        first = stored.setdefault(id(state[name]), name)
        if first != name and _data_name(infos[first]) != _data_name(infos[name]):
            return False
    if any(id(tensor) not in stored for tensor in state.values()):
        return False
    tensors = load_as(file, stored.values(), device, dtype)
    model.load_state_dict(
        {name: tensors[stored[id(tensor)]] for name, tensor in state.items()}, assign=True
    )
    model.tie_weights()
    model.to(device)  # buffers that are not saved
    return True


def _data_name(info: TensorInfo) -> str:
    """Whose data a tensor has."""
    return info.tied_to or info.name


def _converted(
    file: Checkpoint[torch.Tensor], framework: type[Any], config: Any, dtype: torch.dtype | None
) -> Any:
    return framework.from_pretrained(
        None, config=config, state_dict=file.load(), dtype="auto" if dtype is None else dtype
    )


def _is_model(framework: Any) -> bool:
    return isinstance(framework, type) and issubclass(framework, transformers.PreTrainedModel)


@contextmanager
def _default_dtype(dtype: torch.dtype | None) -> Iterator[None]:
    before = torch.get_default_dtype()
    if dtype in _DEFAULT_DTYPES:
        torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
