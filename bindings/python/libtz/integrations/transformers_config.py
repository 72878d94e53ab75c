"""Reads config.json of a model folder: the values that describe a model, without those that name
code.

transformers takes kernels, modules and repositories from the same file, and would download and run
them. Such keys are dropped here, at every depth, or the folder is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import torch
import transformers

from libtz.errors import Error, FormatError, OptionError, SourceError
from libtz.locations import Location
from libtz.options import ReadOptions
from libtz.pinned import SetLocation

__all__ = [
    "absence_of",
    "bad_config",
    "checked_config",
    "generation_config",
    "model_class_of",
    "read_json",
    "typed_errors",
]

CONFIG_SIZE_MAX = 16 << 20  # the largest, with long label lists, have a few MB
DEPTH_MAX = 32  # nested configurations of configurations have five levels
INTEGER_MAX = 1 << 24  # the longest contexts have 10 million positions; vocabularies are smaller
LABELS_MAX = 1 << 16  # ImageNet-21k has 21,841
LAYERS_MIN = 256  # some models reuse a layer many times, so files may have fewer tensors

# S3 returns 403 for a missing object if the caller may not list the bucket.
_ABSENT = (HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN)

# Keys that say where code comes from, how it is dispatched, or which attribute another key stands
# for. Keys that begin with an underscore are dropped too: they set private attributes, such as
# `_attn_implementation`.
_CODE_KEYS = frozenset(
    {
        "adapter_kwargs",
        "attn_implementation",
        "attribute_map",
        "auto_map",
        "custom_generate",
        "custom_pipelines",
        "distributed_config",
        "experts_implementation",
        "extra_config_files",
        "extra_files",
        "fusion_config",
        "kernel_config",
        "name_or_path",
        "sub_configs",
        "sub_configs_defaults",
        "trust_remote_code",
        "use_kernels",
    }
)
_QUANTIZATION_KEYS = ("quantization_config", "compression_config")
_DTYPE_KEYS = ("dtype", "torch_dtype")
_TIMM_TYPES = ("timm_backbone", "timm_wrapper")
# To timm, names with a slash or colon are repositories and folders.
_TIMM_NAME = re.compile(r"[A-Za-z0-9_.]+")

_LAYER_COUNT = re.compile(r"(layers|blocks|depth|depths|^n_layer|^num_layer)$")
# Not sizes: the bases of rotary embeddings, which may be 10^9.
_NO_SIZE = re.compile(r"(theta|base)$")
# The implementations that transformers also chooses by itself.
_PLAIN_ATTENTION = (None, "eager", "sdpa")


# ---- Files ---------------------------------------------------------------------------------------


@contextmanager
def absence_of(location: Location, *, optional: bool) -> Iterator[None]:
    """Ignores the error for a file that does not exist, if it is optional."""
    try:
        yield
    except SourceError as error:
        if not (optional and _is_absent(location, error)):
            raise


def _is_absent(location: Location, error: SourceError) -> bool:
    if isinstance(location, SetLocation):
        return location.file is None  # what the manifest lists must be there
    if location.is_local:
        return not Path(location.text).exists()
    return error.status in _ABSENT


def read_json(location: Location, options: ReadOptions, *, optional: bool = False) -> Any:
    """The object of a JSON file; None if the file is optional and absent."""
    text = None
    with absence_of(location, optional=optional):
        text = location.read(options, size_max=CONFIG_SIZE_MAX)
    if text is None:
        return None
    try:
        value = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise bad_config(location, f"not a JSON file: {error}") from None
    if not isinstance(value, dict):
        raise bad_config(location, "not a JSON object")
    return value


def bad_config(location: Location, reason: str) -> FormatError:
    return FormatError(f"{location}: {reason}", code="bad-config")


@contextmanager
def typed_errors(location: Location, reason: str) -> Iterator[None]:
    """Turns the errors that transformers raises for odd values into a FormatError."""
    try:
        yield
    except (Error, MemoryError):
        raise
    except Exception as error:
        raise bad_config(location, f"{reason}: {error}") from error


# ---- Configurations ------------------------------------------------------------------------------


def checked_config(values: dict[str, Any], location: Location, tensor_count: int) -> Any:
    """Makes a transformers configuration of `values`, which were read from `location`.
    `tensor_count`, of the weights file, limits the number of layers."""
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in transformers.CONFIG_MAPPING:
        raise OptionError(
            f"{location}: the installed transformers has no model type {model_type!r}; models"
            " with their own code are not loaded"
        )
    described = _Cleaner(location, max(tensor_count, LAYERS_MIN)).clean(values)
    with typed_errors(location, f"not a configuration of {model_type}"):
        config = transformers.CONFIG_MAPPING[model_type].from_dict(described)
    _check_attention(config, location)
    return config


class _Cleaner:
    """Copies the values of a configuration, except those that name code, and checks sizes."""

    def __init__(self, location: Location, layers_max: int) -> None:
        self._location = location
        self._layers_max = layers_max

    def clean(self, values: Any, key: str = "", depth: int = 0) -> Any:
        if depth > DEPTH_MAX:
            raise bad_config(self._location, f"nested more than {DEPTH_MAX} levels deep")
        if isinstance(values, dict):
            self._refuse_builders(values)
            return {
                name: self.clean(value, name, depth + 1)
                for name, value in values.items()
                if name not in _CODE_KEYS and not name.startswith("_")
            }
        if isinstance(values, list):
            return [self.clean(value, key, depth + 1) for value in values]
        if isinstance(values, int) and not isinstance(values, bool):
            self._check_size(key, values)
        if key in _DTYPE_KEYS and values is not None:
            self._check_dtype(values)
        return values

    def _refuse_builders(self, values: dict[str, Any]) -> None:
        """Refuses models that only transformers can build, with code or settings from elsewhere."""
        for key in _QUANTIZATION_KEYS:
            if values.get(key) is not None:
                raise OptionError(
                    f"{self._location}: only transformers can build quantized models; load the"
                    " weights with libtz.torch.load_file"
                )
        is_timm = values.get("model_type") in _TIMM_TYPES
        names = [values.get("backbone"), values.get("architecture") if is_timm else None]
        for name in filter(None, names):
            is_plain = isinstance(name, str) and _TIMM_NAME.fullmatch(name) is not None
            if not (is_timm and is_plain):
                raise OptionError(
                    f"{self._location}: refers to a model of another repository,"
                    f" {str(name)[:80]!r}; load the weights with libtz.torch.load_file"
                )
        if is_timm and values.get("model_args"):
            raise OptionError(
                f"{self._location}: passes arguments to a function of timm (model_args); load"
                " the weights with libtz.torch.load_file"
            )

    def _check_size(self, key: str, value: int) -> None:
        limit = INTEGER_MAX
        if _LAYER_COUNT.search(key):
            limit = self._layers_max
        elif key == "num_labels":
            limit = LABELS_MAX
        elif _NO_SIZE.search(key):
            return
        if abs(value) > limit:
            reason = " for the tensors in the file" if limit == self._layers_max else ""
            raise bad_config(
                self._location,
                f"{key[:80]} is {_short(value)}; the limit is {limit}{reason}",
            )

    def _check_dtype(self, value: Any) -> None:
        name = value.removeprefix("torch.") if isinstance(value, str) else ""
        if name != "auto" and not isinstance(getattr(torch, name, None), torch.dtype):
            raise bad_config(
                self._location, f"dtype is {str(value)[:80]!r}, which is not a PyTorch dtype"
            )


def _short(value: int) -> str:
    """The number as text. Python refuses to print integers of more than 4,300 digits."""
    return str(value) if value.bit_length() < 128 else f"a number of {value.bit_length()} bits"


def _check_attention(config: Any, location: Location) -> None:
    """Raises FormatError if any value of the configuration selects a kernel."""
    pending, seen = [config], set()
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, transformers.PreTrainedConfig):
            names = (value._attn_implementation, value._experts_implementation)
            if names[0] not in _PLAIN_ATTENTION or names[1] is not None:
                raise bad_config(location, f"selects the kernels {names!r}")
            pending += vars(value).values()
        elif isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, (list, tuple)):
            pending += value


def generation_config(values: dict[str, Any], location: Location) -> Any:
    """The settings of text generation. Keys that transformers does not know are dropped."""
    known = vars(transformers.GenerationConfig())  # type: ignore[no-untyped-call]
    with typed_errors(location, "not a configuration of text generation"):
        return transformers.GenerationConfig.from_dict(
            {
                key: value
                for key, value in values.items()
                if key in known and key not in _CODE_KEYS and not key.startswith("_")
            }
        )


# ---- Models --------------------------------------------------------------------------------------


def model_class_of(values: dict[str, Any], config: Any, location: Location) -> Any:
    """The model class that config.json names. Raises OptionError if it does not suit `config`."""
    names = values.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    found = None
    # The name is not trusted: it may only select a model class.
    if isinstance(name, str):
        with typed_errors(location, f"transformers cannot import {name}"):
            found = getattr(transformers, name, None)
    if not isinstance(found, type) or not issubclass(found, transformers.PreTrainedModel):
        raise OptionError(
            f"{location}: does not name a model class of transformers ({str(names)[:80]}); set"
            " model_class"
        )
    if found.config_class is None or not isinstance(config, found.config_class):
        raise OptionError(
            f"{location}: {name} is not a model of type {config.model_type}; set model_class"
        )
    return found
