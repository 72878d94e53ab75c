"""Models of the transformers library, from a folder, a web server or S3.

    from libtz.integrations.transformers import fetch_tokenizer, load_pretrained

    digest = "blake3:…"  # of the set, as `tz digest --set` prints it
    model = load_pretrained("https://host/models/bert", digest=digest, device="cuda")
    folder = fetch_tokenizer("https://host/models/bert", "./bert", digest=digest)
    tokenizer = AutoTokenizer.from_pretrained(folder)

The folder is what `save_pretrained` writes, and its weights may be in a .tz file. Nothing of
transformers is patched. No code comes from the folder, and the folder does not choose code that
comes from elsewhere.
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
from libtz.sinks.file import FileSink
from libtz.torch.cast import check_dtype, load_as

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

TOKENIZER_SIZE_MAX = 256 << 20  # the largest have some 40 MB
NAMES_SHOWN_MAX = 20

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
    names. Floating-point weights become `dtype`, or stay what they are in the file.

    `digest` is that of a set (see `libtz.sets`): it pins weights, config.json and everything else
    that is read. The digest of the weights alone is refused. config.json says what the weights mean
    (how many layers there are, which activation, which constants), so whoever can change it gets
    another model out of the same weights. With a digest, `source` may be the manifest.

    `weights` is the name of the weights' file in the folder; by default model.tz, model.safetensors
    or an index of shards. A local folder that has them in two formats is refused, as by
    `libtz.open`, since one may be older; of a URL, model.tz comes first.

    Weights whose names are the model's go straight to the device. Older or converted checkpoints
    are handed, loaded, to `from_pretrained(state_dict=…)`, which knows how to rename and merge
    them. A tensor of the model that the file does not have is an error: nothing is filled with
    random numbers.

    What config.json says about code is ignored: kernels (`attn_implementation`), modules
    (`auto_map`) and repositories.

    Raises:
        OptionError: the file lacks tensors of the model, the model is quantized, this version of
            transformers has no class for it, or the folder has no manifest for the digest.
        FormatError: config.json is not valid, or describes a model that the file is too small for.
        IntegrityError, SourceError: as `libtz.open` and `libtz.torch.load_file`.
    """
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
    options: ReadOptions = _DEFAULTS,
) -> Path:
    """Copies config.json and the tokenizer's files into a local folder, which is returned, for
    `AutoTokenizer.from_pretrained`. `digest`, that of a set, pins them all.

    Each is a plain file of the folder when it is complete. A file or symbolic link of the same name
    is replaced, and what a link points to stays as it is. The files are copied unchanged: they may
    name code, which transformers runs only with `trust_remote_code=True`.

    Raises:
        SourceError: a file could not be read or written.
        OptionError: a folder is where a file should be, or the source has no manifest for the
            digest.
        IntegrityError: a file is not the one that the digest pins.
    """
    origin = _folder_of(source, digest, options)
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SourceError(
            f"{target} cannot be made: {error.strerror or type(error).__name__}", url=str(target)
        ) from error
    for name in ("config.json", *TOKENIZER_FILES):
        with absence_of(origin.sibling(name), optional=name != "config.json"):
            data = origin.sibling(name).read(options, size_max=TOKENIZER_SIZE_MAX)
            sink = FileSink(target / name)
            try:
                sink.write_at(0, memoryview(data))
                sink.commit(len(data))
            finally:
                sink.abort()
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
            raise OptionError(f"weights is the name of a file in the folder, not {weights!r}")
        return open_as(TorchFramework(), folder.sibling(weights), options=options)
    if folder.is_local or isinstance(folder, SetLocation):
        names = folder.files(options) or ()
        found = [name for name in WEIGHTS if name in names]
        if len({".tz" in name for name in found}) > 1:
            raise OptionError(
                f"{folder} holds weights in two formats; give weights=, one of {', '.join(found)}"
            )
    for name in WEIGHTS:
        location = folder.sibling(name)
        with absence_of(location, optional=True):
            return open_as(TorchFramework(), location, options=options)
    raise SourceError(
        f"{folder} has no weights (or they may not be read): {', '.join(WEIGHTS)}",
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
    """A model that transformers fills with the file's tensors, if they are all that it needs."""
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
        raise OptionError(f"{file!r} does not fit {framework.__name__}: {error}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        more = len(missing) - NAMES_SHOWN_MAX
        names = ", ".join(map(repr, missing[:NAMES_SHOWN_MAX]))
        raise OptionError(
            f"{file!r} has no tensors for {len(missing)} of those of {framework.__name__}: {names}"
            f"{f' and {more} more' if more > 0 else ''}; give model_class= a class that the file"
            " has all tensors of"
        )
    return model
