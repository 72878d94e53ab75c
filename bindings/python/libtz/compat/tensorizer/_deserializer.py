"""`TensorDeserializer`: reads .tensors, .tz and .safetensors files through libtz's engine."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterable, Iterator, KeysView, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from numpy.typing import NDArray

from libtz import opening
from libtz.arrays.torch_arrays import TorchFramework
from libtz.arrays.torch_dtypes import TORCH_DTYPES
from libtz.checkpoint.base import Checkpoint
from libtz.checkpoint.coreweave import CoreweaveFile
from libtz.compat._errors import (
    NotImplementedOptionError,
    RuntimeOptionError,
    TypeOptionError,
    ValueOptionError,
)
from libtz.compat.tensorizer._arrays import bits, numpy_has, raw_array
from libtz.compat.tensorizer._encryption import DecryptionParams
from libtz.compat.tensorizer._entries import Entry, arranged, entries_of, layers, leaves
from libtz.compat.tensorizer._errors import CryptographyError, HashMismatchError, translated
from libtz.compat.tensorizer._loading import load_into, module_entries
from libtz.compat.tensorizer._types import FilterFuncType, TensorType
from libtz.compat.tensorizer.stream_io import ObjectReader, open_stream
from libtz.errors import OptionError
from libtz.locations import Location
from libtz.options import DecryptionOptions, ReadOptions
from libtz.torch import tensor_bytes

__all__ = ["TensorDeserializer"]


class TensorDeserializer(Mapping[Any, Any], AbstractContextManager["TensorDeserializer"]):
    """The tensors of a file by name, each as a torch.nn.Parameter that owns its memory.

    `file_obj` is a path, a URL (http, https, s3), a file descriptor or a seekable binary file. All
    tensors are loaded at once, or, with `lazy_load`, when they are requested; they are kept. Data
    are always checked, by their CRC-32 or another checksum of the file. `verify_hash` requires and
    checks a SHA-256 too. `dtype` casts floating-point tensors. `num_readers` limits the connections
    or threads.

    Raises ValueError, TypeError, CryptographyError, HashMismatchError and `libtz.SourceError`.
    """

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    # A remnant of the compression that Tensorizer no longer has.
    total_compressed_tensor_bytes = 0

    def __init__(
        self,
        file_obj: Any,
        device: torch.device | str | None = None,
        filter_func: FilterFuncType | None = None,
        dtype: torch.dtype | None = None,
        *,
        lazy_load: bool = False,
        plaid_mode: bool | None = None,
        plaid_mode_buffers: int | None = None,
        num_readers: int | None = None,
        verify_hash: bool = False,
        encryption: DecryptionParams | None = None,
    ) -> None:
        self._file: Checkpoint[torch.Tensor] | None = None
        self._file_obj: Any = None
        if plaid_mode or plaid_mode_buffers:
            warnings.warn(
                "plaid_mode has no effect, as in Tensorizer since 2.9: tensors are always copied to"
                " their device piece by piece, through bounded memory",
                stacklevel=2,
            )
        if encryption is not None and not isinstance(encryption, DecryptionParams):
            raise TypeOptionError(
                f"encryption must be a DecryptionParams, not {type(encryption).__name__}"
            )
        self._device = _device(device)
        self._dtype = dtype
        self._verify_hash = verify_hash
        with translated():
            self._open(file_obj, _read_options(num_readers, encryption), filter_func)
        self._tensors: dict[str, torch.nn.Parameter] = {}
        self._position = 0  # of generators, in the file's order
        self._bytes_read = 0
        if not lazy_load:
            try:
                self._fetch(self._entries, verify_hash)
            except BaseException:
                self.close()
                raise

    def _open(
        self, file_obj: Any, options: ReadOptions, filter_func: FilterFuncType | None
    ) -> None:
        source, self._file_obj, options = _resolved(file_obj, options)
        try:
            self._file = _opened(source, options)
            entries = entries_of(self._file)
        except BaseException:
            self.close()
            raise
        self._is_filtered = filter_func is not None
        self._entries = [
            entry for entry in entries if filter_func is None or filter_func(entry.label)
        ]
        self._layers = layers(self._entries)

    def _opened(self) -> Checkpoint[torch.Tensor]:
        if self._file is None:
            raise ValueOptionError("the deserializer is closed")
        return self._file

    # ---- The mapping ----

    def __getitem__(self, name: Any) -> Any:
        """A parameter, or, for an inner node of a nested object, a mapping. Lists have int keys."""
        layer = self._layers[self._key(name)]
        self._fetch(leaves(layer))
        return arranged(layer, self._held, has_lists=False)

    def _key(self, name: Any) -> Any:
        # In Tensorizer, the names of a root module's own tensors begin with a dot.
        if name not in self._layers and isinstance(name, str) and name.startswith("."):
            bare = self._layers.get(name[1:])
            if isinstance(bare, Entry) and bare.label == name:
                return name[1:]
        return name

    def __iter__(self) -> Iterator[Any]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __contains__(self, name: object) -> bool:
        return self._key(name) in self._layers

    def keys(self) -> KeysView[Any]:
        """The names, or first steps of paths, in file order."""
        return self._layers.keys()

    def tree(
        self,
        prefix: Iterable[str | int] | None = None,
        *,
        default: Any = None,
        filter_func: FilterFuncType | None = None,
    ) -> Any:
        """The nested object, or the part at the path `prefix`, as dicts, lists and parameters;
        `default` if there is none. `filter_func` receives whole paths."""
        if isinstance(prefix, (str, int)):
            raise TypeOptionError(
                f"prefix must be a sequence of keys, such as ({prefix!r},); got {prefix!r}"
            )
        picked = [e for e in self._entries if filter_func is None or filter_func(e.label)]
        layer: Any = layers(picked)
        for step in prefix or ():
            layer = layer.get(step) if isinstance(layer, dict) else None
        if not layer:
            return default
        self._fetch(leaves(layer))
        return arranged(layer, self._held, has_lists=True)

    # ---- Loading ----

    def _held(self, entry: Entry) -> torch.nn.Parameter:
        return self._tensors[entry.name]

    def _fetch(
        self, entries: Iterable[Entry], verify_hash: bool | None = None
    ) -> Mapping[str, torch.nn.Parameter]:
        """Loads the tensors that are not held yet. Returns all that are held."""
        names = [entry.name for entry in entries if entry.name not in self._tensors]
        if names:
            self._tensors.update(self._stream(names, verify_hash, is_streamed=False))
        return self._tensors

    def _stream(
        self, names: list[str], verify_hash: bool | None, *, is_streamed: bool = True
    ) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Loads tensors in file order. One by one if `is_streamed`; otherwise all at once, which is
        faster, unless they are cast and would be in memory twice."""
        file = self._opened()
        must_have = self._must_have_hash(file, verify_hash)
        with translated():
            loaded: Iterable[tuple[str, Any]]
            if is_streamed or self._dtype is not None:
                loaded = file.iter_tensors(names, self._device)
            else:
                loaded = file.load(names, self._device).items()
            try:
                for name, tensor in loaded:
                    if must_have:
                        _require_hash(file, name)
                    yield name, self._parameter(tensor)
            finally:
                self._bytes_read += file.stats.bytes_read

    def _must_have_hash(self, file: Checkpoint[torch.Tensor], verify_hash: bool | None) -> bool:
        """Whether tensors must have a SHA-256. Those of .tensors files are only then checked by
        it."""
        must_have = self._verify_hash if verify_hash is None else verify_hash
        if isinstance(file, CoreweaveFile):
            file.checks_every_hash = must_have
        return must_have

    def _parameter(self, tensor: torch.Tensor) -> torch.nn.Parameter:
        can_learn = tensor.is_floating_point() or tensor.is_complex()
        if self._dtype is not None and tensor.is_floating_point():
            tensor = tensor.to(self._dtype)
        return torch.nn.Parameter(tensor, requires_grad=can_learn)

    def read_tensors(
        self,
        filter_func: FilterFuncType | None = None,
        num_tensors: int = -1,
        verify_hash: bool | None = None,
    ) -> Iterator[tuple[int, int, Any, torch.Tensor]]:
        """Yields (module number, TensorType, name or path, tensor) in the file's order, through
        bounded memory. Another call continues where the last one ended."""
        entries = self._next(filter_func, num_tensors)
        held = {e.name: self._tensors[e.name] for e in entries if e.name in self._tensors}
        streamed = self._stream([e.name for e in entries if e.name not in held], verify_hash)
        for entry in entries:
            tensor = held[entry.name] if entry.name in held else next(streamed)[1]
            self._position = self._entries.index(entry, self._position) + 1
            yield self._module_number(entry), entry.tensor_type, entry.label, tensor

    def read_numpy_arrays(
        self,
        filter_func: FilterFuncType | None = None,
        num_tensors: int = -1,
        allow_raw_data: bool = False,
        verify_hash: bool | None = None,
    ) -> Iterator[tuple[int, int, Any, NDArray[Any], bool, str | None]]:
        """As `read_tensors`: (…, array, whether its type is opaque, PyTorch's type if so). Types
        that NumPy does not have are opaque, and only yielded with `allow_raw_data`."""
        if self._device.type != "cpu":
            raise RuntimeOptionError("NumPy arrays are in host memory; use device='cpu'")
        file = self._opened()
        must_have = self._must_have_hash(file, verify_hash)
        for entry in self._next(filter_func, num_tensors):
            dtype = file.info(entry.name).dtype
            with translated():
                tensor = file.load([entry.name])[entry.name]
                if must_have:
                    _require_hash(file, entry.name)
            torch_dtype = TORCH_DTYPES[dtype]
            is_opaque = not numpy_has(torch_dtype)
            if is_opaque and not allow_raw_data:
                raise ValueOptionError(
                    f"tensor {entry.label!r}: NumPy has no dtype for {torch_dtype};"
                    " allow_raw_data=True returns its bytes"
                )
            self._position = self._entries.index(entry, self._position) + 1
            array = raw_array(tensor) if is_opaque else tensor.numpy()
            name = str(torch_dtype) if is_opaque else None
            yield self._module_number(entry), entry.tensor_type, entry.label, array, is_opaque, name

    def _next(self, filter_func: FilterFuncType | None, count: int) -> list[Entry]:
        if count < -1:
            raise ValueOptionError(f"num_tensors must be -1 or more; got {count}")
        entries = [
            entry
            for entry in self._entries[self._position :]
            if filter_func is None or filter_func(entry.label)
        ]
        return entries if count == -1 else entries[:count]

    def _module_number(self, entry: Entry) -> int:
        file = self._opened()
        return file.note(entry.name).module if isinstance(file, CoreweaveFile) else 0

    # ---- Modules ----

    def load_into_module(
        self,
        m: torch.nn.Module,
        filter_func: FilterFuncType | None = None,
        verify_hash: bool | None = None,
    ) -> int:
        """Assigns the tensors to the module, and returns their number.

        Parameters keep their `requires_grad`, buffers stay buffers, and ties are kept if the file
        agrees. If names or shapes do not match, raises an error that lists all mismatches, and the
        module is not modified.
        """
        entries = [e for e in self._entries if filter_func is None or filter_func(e.label)]
        self._require_module(entries)
        is_all = filter_func is None and not self._is_filtered
        load_into(m, entries, lambda picked: self._fetch(picked, verify_hash), is_all=is_all)
        return len(entries)

    def _require_module(self, entries: list[Entry]) -> None:
        is_nested = any(isinstance(entry.label, tuple) for entry in entries)
        is_state = self._opened().format == "tensors" and any(
            entry.tensor_type is TensorType.STATE_DICT for entry in entries
        )
        if is_nested or is_state:
            raise NotImplementedOptionError(
                "the file was written by write_state_dict, not by write_module; use the"
                " deserializer as a state dict: module.load_state_dict(deserializer)"
            )

    def verify_module(self, m: torch.nn.Module) -> tuple[bool, list[tuple[str, bool]]]:
        """Compares the module with the file, bit for bit. Returns whether all tensors are equal,
        and the result for each."""
        file = self._opened()
        targets = module_entries(m)
        results: dict[str, bool] = {entry.name: False for entry in self._entries}
        present = [
            entry.name
            for entry in self._entries
            if (target := targets.get(entry.name)) is not None
            and target.tensor is not None
            and not target.tensor.is_meta
            and target.tensor.dtype == TORCH_DTYPES.get(entry.dtype)
            and tuple(target.tensor.shape) == entry.shape
        ]
        with translated():
            for name, stored in file.iter_tensors(present):
                tensor = targets[name].tensor
                if tensor is not None:
                    tensor_bytes.check(name, tensor)
                    results[name] = torch.equal(bits(tensor.detach().cpu()), bits(stored))
        return all(results.values()), list(results.items())

    def to_redis(self, redis_client: Any, key_prefix: str, force: bool = False) -> None:
        """Always raises OptionError: libtz does not support Redis."""
        raise OptionError("libtz does not write to Redis; serve the file over HTTP or S3")

    # ---- Numbers ----

    @property
    def total_tensor_bytes(self) -> int:
        """The size in bytes of the tensors that pass the filter."""
        return sum(entry.nbytes for entry in self._entries)

    @property
    def total_bytes_read(self) -> int:
        """The bytes read from the source by all loads so far."""
        return self._bytes_read

    read_bytes = total_bytes_read

    @property
    def cache_status(self) -> str | None:
        """Always raises OptionError: libtz does not keep response headers."""
        raise OptionError("libtz does not keep the headers of HTTP responses")

    # ---- The end ----

    def close(self) -> None:
        """Closes the file, and the file object that was passed. Loaded tensors stay valid.
        Idempotent."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
        if self._file_obj is not None:
            self._file_obj.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def _require_hash(file: Checkpoint[torch.Tensor], name: str) -> None:
    """Raises HashMismatchError if a loaded tensor has no hash."""
    if isinstance(file, CoreweaveFile):
        has_hash = file.note(name).has_sha256
    else:
        has_hash = file.verified != "none"
    if not has_hash:
        raise HashMismatchError(
            f"{file.url}, tensor {name!r}: the file contains no hash to verify it",
            code="no-hash",
            tensor=name,
        )


def _device(device: torch.device | str | None) -> torch.device:
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeOptionError(f"device {device}: CUDA is not available on this machine")
    return device


def _read_options(num_readers: int | None, encryption: DecryptionParams | None) -> ReadOptions:
    options = ReadOptions(progress=False)
    if encryption is not None:
        key = DecryptionOptions(key=encryption.key, passphrase=encryption.source)
        options = replace(options, decryption=key)
    if num_readers is not None:
        if isinstance(num_readers, bool) or not isinstance(num_readers, int):
            raise TypeOptionError(f"num_readers must be an int, not {type(num_readers).__name__}")
        if num_readers < 1:
            raise ValueOptionError(f"num_readers must be at least 1; got {num_readers}")
        options = replace(options, connections_max=num_readers)
    return options


def _opened(source: Any, options: ReadOptions) -> Checkpoint[torch.Tensor]:
    file = opening.open_as(TorchFramework(), source, options=options)
    if isinstance(file, CoreweaveFile) and file.is_encrypted and not options.decryption.is_given:
        file.close()
        raise CryptographyError(f"{file.url} is encrypted; pass encryption=DecryptionParams…")
    return file


def _resolved(file_obj: Any, options: ReadOptions) -> tuple[Any, Any, ReadOptions]:
    """The source for `libtz.open`, and a file object to close at the end."""
    if isinstance(file_obj, bytes):
        file_obj = os.fsdecode(file_obj)
    if isinstance(file_obj, str) and not Location.of(file_obj).is_local:
        file_obj = open_stream(file_obj)
    if isinstance(file_obj, int):
        file_obj = os.fdopen(file_obj, "rb")
    if isinstance(file_obj, ObjectReader) and (remote := file_obj.remote) is not None:
        return remote.url, file_obj, replace(options, http=remote.http, s3=remote.s3)
    if isinstance(file_obj, (str, os.PathLike)):
        return file_obj, None, options
    is_binary = not isinstance(file_obj, io.TextIOBase) and hasattr(file_obj, "read")
    if not is_binary or not getattr(file_obj, "readable", lambda: True)():
        raise ValueOptionError(
            "file_obj must be a path, a URL, or a seekable binary file opened for reading, such as"
            " open_stream(path, 'rb')"
        )
    return file_obj, file_obj, options
