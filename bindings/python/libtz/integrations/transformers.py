"""Loads models of the transformers library from a folder, a web server or S3.

from libtz.integrations.transformers import fetch_tokenizer, load_pretrained

    digest = "blake3:…"  # of the set, as `tz digest --set` prints it
    model = load_pretrained("https://host/models/bert", digest=digest, device="cuda")
    folder = fetch_tokenizer("https://host/models/bert", "./bert", digest=digest)
    tokenizer = AutoTokenizer.from_pretrained(folder)

The folder is one that `save_pretrained` wrote; its weights may also be in a .tz file. transformers
is not patched. No code is taken from the folder, and the folder cannot select code from elsewhere.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import torch

from libtz.arrays.torch_arrays import TorchFramework
from libtz.checkpoint.base import Checkpoint
from libtz.errors import Error, OptionError, SourceError
from libtz.fields import options_or_default
from libtz.format import TensorInfo
from libtz.integrations.transformers_building import empty_model
from libtz.integrations.transformers_config import (
    absence_of,
    checked_config,
    generation_config,
    model_class_of,
    read_json,
)
from libtz.locations import Location, is_plain_name
from libtz.manifest import MANIFEST_NAME
from libtz.opening import open_as
from libtz.options import ReadOptions
from libtz.pinned import SetLocation, pinned_folder
from libtz.torch.cast import check_dtype, load_as

__all__ = ["fetch_tokenizer", "load_pretrained"]

# For URLs, the first one that exists is used.
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

TOKENIZER_SIZE_MAX = 256 << 20  # the largest have about 40 MB
NAMES_SHOWN_MAX = 20


def load_pretrained(
    source: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    model_class: Any = None,
    weights: str | None = None,
    digest: str | None = None,
    options: ReadOptions | None = None,
) -> Any:
    """Loads the model in a folder or under a URL prefix, on `device`, in evaluation mode.

    `model_class` is a class of transformers, possibly an Auto class; by default, the one that
    config.json names. Floating-point weights are cast to `dtype`; None keeps the dtypes of the
    file.

    `digest` is the digest of a set (see `libtz.sets`): it pins the weights, config.json and every
    other file that is read. With it, `source` may be the manifest. The digest of the weights alone
    is refused: config.json determines what the weights mean (the number of layers, the activation,
    constants), so a changed config.json could make a different model of the same weights.

    `weights` is the name of the weights file in the folder; by default model.tz, model.safetensors
    or an index of shards. A local folder with weights in two formats is refused, as by
    `libtz.open`, because one may be older. Under a URL, model.tz comes first.

    If the names in the file are those of the model, the weights are loaded straight to the device.
    Older or converted checkpoints are loaded and passed to `from_pretrained(state_dict=…)`, which
    can rename and merge them. A tensor of the model that the file does not have is an error:
    nothing is initialised with random numbers.

    Keys of config.json that select code are ignored: kernels (`attn_implementation`), modules
    (`auto_map`) and repositories.

    Raises:
        OptionError: the file lacks tensors of the model, the model is quantized, this version of
            transformers has no class for it, or the folder has no manifest for the digest.
        FormatError: config.json is invalid, or describes a model that is too large for the file.
        IntegrityError, SourceError: as `libtz.open` and `libtz.torch.load_file`.
    """
    options = options_or_default(options, ReadOptions)
    check_dtype(dtype)
    folder = _folder_of(source, digest, options)
    location = folder.sibling("config.json")
    values = read_json(location, options)
    with _open_weights(folder, weights, options) as file:
        config = checked_config(values, location, len(file))
        framework = model_class
        if framework is None:
            framework = model_class_of(values, config, location)
        model = empty_model(framework, config, file, dtype, location)
        if not _fill(model, file, device, dtype):
            model = _converted(file, type(model), config, dtype).to(device)
    if model.can_generate():
        location = folder.sibling("generation_config.json")
        settings = read_json(location, options, optional=True)
        if settings is not None:
            model.generation_config = generation_config(settings, location)
    return model.eval()


def fetch_tokenizer(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    digest: str | None = None,
    options: ReadOptions | None = None,
) -> Path:
    """Copies config.json and the tokenizer's files into a local folder, for
    `AutoTokenizer.from_pretrained`. Returns the folder. `digest`, that of a set, pins all files.

    Each file appears when it is complete. An existing file or symbolic link of the same name is
    replaced; the target of the link is not modified. The files are copied unchanged: they may name
    code, which transformers only runs with `trust_remote_code=True`.

    Raises:
        SourceError: a file could not be read or written.
        OptionError: there is a folder in the place of a file, or the source has no manifest for
            the digest.
        IntegrityError: a file is not the one that the digest pins.
    """
    options = options_or_default(options, ReadOptions)
    origin = _folder_of(source, digest, options)
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SourceError(
            f"{target} cannot be created: {error.strerror or type(error).__name__}",
            url=str(target),
        ) from error
    for name in ("config.json", *TOKENIZER_FILES):
        with absence_of(origin.sibling(name), optional=name != "config.json"):
            data = origin.sibling(name).read(options, size_max=TOKENIZER_SIZE_MAX)
            Location.of(target / name).write(data, options)
    return target


# ---- Files ---------------------------------------------------------------------------------------


def _folder_of(
    source: str | os.PathLike[str], digest: str | None, options: ReadOptions
) -> Location:
    """The model's folder; with a digest, as the set of files that it pins."""
    location = pinned_folder(Location.of(source), digest, options)
    if digest is not None and not isinstance(location, SetLocation):
        raise OptionError(
            f"{location}: the digest pins no model, only that of a set does, whose {MANIFEST_NAME}"
            " is in the folder; the weights alone are not enough, since config.json decides what"
            " they mean. `tz digest --set` writes the manifest, and prints the digest of the set"
        )
    return location


def _open_weights(
    folder: Location, weights: str | None, options: ReadOptions
) -> Checkpoint[torch.Tensor]:
    if weights is not None:
        if not is_plain_name(weights):
            raise OptionError(f"weights must be the name of a file in the folder, not {weights!r}")
        return open_as(TorchFramework(), folder.sibling(weights), options=options)
    if folder.is_local or isinstance(folder, SetLocation):
        names = folder.files(options) or ()
        found = [name for name in WEIGHTS if name in names]
        if len({".tz" in name for name in found}) > 1:
            raise OptionError(
                f"{folder} contains weights in two formats; set weights= to one of"
                f" {', '.join(found)}"
            )
    for name in WEIGHTS:
        location = folder.sibling(name)
        with absence_of(location, optional=True):
            return open_as(TorchFramework(), location, options=options)
    raise SourceError(
        f"{folder} contains none of {', '.join(WEIGHTS)}, or does not allow reading them",
        url=str(folder),
        errno=errno.ENOENT,
    )


# ---- Weights -------------------------------------------------------------------------------------


def _fill(
    model: Any,
    file: Checkpoint[torch.Tensor],
    device: torch.device | str,
    dtype: torch.dtype | None,
) -> bool:
    """Assigns the file's tensors to the model. Returns False, and does nothing, if transformers has
    to convert names, shapes or dtypes."""
    if dtype is not None and getattr(model, "_keep_in_fp32_modules", None):
        return False
    infos = {name: file.info(name) for name in file}
    state = model.state_dict(keep_vars=True)
    # Old files contain buffers that models now create themselves.
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
    """The name of the tensor that holds the data."""
    return info.tied_to or info.name


def _converted(
    file: Checkpoint[torch.Tensor], framework: type[Any], config: Any, dtype: torch.dtype | None
) -> Any:
    """Lets transformers convert the file's tensors. Raises OptionError if tensors are missing."""
    state = file.load()
    try:
        model, report = framework.from_pretrained(
            None,
            config=config,
            state_dict=state,
            dtype="auto" if dtype is None else dtype,
            output_loading_info=True,
        )
    except (Error, MemoryError):
        raise
    except Exception as error:  # mismatched shapes among others
        raise OptionError(f"{file.url} does not fit {framework.__name__}: {error}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        more = len(missing) - NAMES_SHOWN_MAX
        names = ", ".join(map(repr, missing[:NAMES_SHOWN_MAX]))
        raise OptionError(
            f"{file.url} lacks {len(missing)} tensors of {framework.__name__}: {names}"
            f"{f' and {more} more' if more > 0 else ''}; set model_class= to a class whose tensors"
            " are all in the file"
        )
    return model
