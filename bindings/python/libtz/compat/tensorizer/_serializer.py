"""`TensorSerializer`: writes modules and state dicts to .tensors or .tz files."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch.nn.parameter import is_lazy

from libtz.arrays.numpy_arrays import dtype_name
from libtz.arrays.torch_dtypes import FORMAT_NAMES
from libtz.compat._errors import TypeOptionError, ValueOptionError
from libtz.compat.tensorizer._encryption import EncryptionParams, sealing_key
from libtz.compat.tensorizer._errors import translated
from libtz.compat.tensorizer._types import TensorPath, TensorType
from libtz.compat.tensorizer.stream_io import ObjectWriter, open_stream
from libtz.errors import OptionError
from libtz.locations import Location
from libtz.options import WriteOptions
from libtz.torch import saving, tensor_bytes
from libtz.writing.coreweave import CoreweaveWriter, Pieces, Role, TensorRecord

__all__ = ["TensorSerializer"]

DEPTH_MAX = 128  # of nested state dicts, as in .tz files

# Room in the index for tensors that are not known at the beginning: enough for 9,000 with names of
# 60 bytes, or for a few in addition to those of a module.
ROOM_FOR_TENSORS = (1 << 20) - 4096
ROOM_AFTER_MODULE = 128 * 1024

# The size of the parts of an S3 upload depends on how large the object may become.
UNKNOWN_SIZE_MAX = 512 << 30
KNOWN_SIZE_MAX = 64 << 30


class _Item(NamedTuple):
    """A tensor to be written. `done` is called afterwards."""

    path: TensorPath
    tensor_type: TensorType
    module: int
    tensor: Any
    done: Callable[[], None] | None


class TensorSerializer:
    """Writes tensors to a path, an s3:// URL, a file descriptor or a seekable binary file.

    It writes a .tensors file that Tensorizer can read. With `format="tz"`, or if the name ends with
    .tz, it writes a .tz file, like `libtz.torch.save_model`. That happens in `close()`, and the
    tensors must not change before.

    At a path or URL, nothing appears before `close()`, which the end of a `with` block calls. An
    error in the block discards everything. `close()` also closes a file object.

    Raises ValueError, TypeError, CryptographyError and `libtz.SourceError`.
    """

    # Remnants of the compression that Tensorizer no longer has.
    compress_tensors = False
    lz4_frame = None
    total_compressed_tensor_bytes = 0

    def __init__(
        self,
        file_obj: Any,
        compress_tensors: bool = False,
        *,
        encryption: EncryptionParams | None = None,
        limit_cpu_concurrency: int | None = None,
        format: Literal["tensors", "tz"] | None = None,
    ) -> None:
        self._writer: CoreweaveWriter | None = None
        self._is_closed = True  # until there is something to close
        if compress_tensors:
            raise ValueOptionError(
                "compress_tensors never compressed anything; use format='tz' for lossless"
                " compression"
            )
        _check_threads(limit_cpu_concurrency)
        if encryption is not None and not isinstance(encryption, EncryptionParams):
            raise TypeOptionError(
                f"encryption must be an EncryptionParams, not {type(encryption).__name__}"
            )
        if format not in (None, "tensors", "tz"):
            raise ValueOptionError(f"format must be 'tensors' or 'tz'; got {format!r}")
        self.cpu_limit = limit_cpu_concurrency or os.cpu_count() or 1
        self._threads = limit_cpu_concurrency
        self._options = WriteOptions()
        self._format = format or _format_of(file_obj)
        if self._format == "tz" and encryption is not None:
            raise ValueOptionError("only .tensors files can be encrypted, not .tz files")
        self._key = None if encryption is None else sealing_key(encryption)
        with translated():
            self._target, self._file = self._resolved(file_obj)
        self._gathered: list[_Item] = []  # for a .tz file
        self._size = 0
        self._is_closed = False

    def _resolved(self, target: Any) -> tuple[Any, Any]:
        """The target for the writer, and a file object to close at the end."""
        if isinstance(target, bytes):
            target = os.fsdecode(target)
        if isinstance(target, (str, os.PathLike)):
            location = Location.of(target)
            target = location.text if location.is_local else open_stream(target, "wb+")
        if isinstance(target, str):
            path = Path(target)
            path.parent.mkdir(parents=True, exist_ok=True)
            return path, None
        if isinstance(target, int):
            target = os.fdopen(target, "wb+")
        if isinstance(target, ObjectWriter) and (remote := target.take()) is not None:
            self._options = remote.write_options()
            return remote.url, target
        _check_file(target)
        return target, target

    # ---- What is written ----

    @property
    def total_tensor_bytes(self) -> int:
        """The size in bytes of all tensors written so far."""
        return self._size

    def write_tensor(
        self, idx: int, name: str, tensor_type: TensorType | int, tensor: torch.Tensor | Any
    ) -> None:
        """Writes one PyTorch tensor or NumPy array. `idx` is the number of its module."""
        if not isinstance(name, str):
            raise TypeOptionError(f"name must be a str, not {type(name).__name__}")
        item = _Item((name,), TensorType(tensor_type), idx, tensor, None)
        self._write([item], is_bulk=False)

    def write_module(
        self,
        m: torch.nn.Module,
        remove_tensors: bool = False,
        *,
        include_non_persistent_buffers: bool = True,
    ) -> None:
        """Writes all parameters and buffers. With `remove_tensors`, each is replaced by None after
        it was written."""
        items = _module_items(m, remove_tensors, include_non_persistent_buffers)
        self._write(list(items), is_bulk=True)

    def write_state_dict(self, state_dict: Mapping[str, Any] | Sequence[Any]) -> None:
        """Writes a dict or list of tensors, dicts and lists. The keys of dicts must be str. Tuples
        are loaded as lists."""
        items = [
            _Item(path, TensorType.STATE_DICT, 0, tensor, None)
            for path, tensor in _flatten(state_dict)
        ]
        self._write(items, is_bulk=True)

    def _write(self, items: list[_Item], *, is_bulk: bool) -> None:
        if self._is_closed:
            raise ValueOptionError("the serializer is closed")
        with translated():
            if self._format == "tz":
                self._gather(items)
                return
            declared = [(_record(item), item) for item in items]
            records = [record for record, _ in declared]
            writer = self._writer
            if writer is None:
                writer = self._writer = self._open(records, is_bulk)
                records = []
            try:
                writer.declare(records)
                for record, item in declared:
                    writer.write_pieces(record.name, _pieces(item.tensor), item.done)
                writer.drain()
            except BaseException:
                self.abort()
                raise
            self._size = writer.data_size

    def _open(self, records: list[TensorRecord], is_bulk: bool) -> CoreweaveWriter:
        size_max = None
        if isinstance(self._target, str):  # S3
            known = sum(record.nbytes for record in records)
            size_max = max(KNOWN_SIZE_MAX, 4 * known) if is_bulk else UNKNOWN_SIZE_MAX
        return CoreweaveWriter(
            self._target,
            records,
            key=self._key,
            room=ROOM_AFTER_MODULE if is_bulk else ROOM_FOR_TENSORS,
            size_max=size_max,
            threads=self._threads,
            options=self._options,
        )

    # ---- .tz files ----

    def _gather(self, items: list[_Item]) -> None:
        known = {item.path for item in self._gathered}
        for item in items:
            if item.path in known:
                raise OptionError(f"tensor {_path_text(item.path)!r} is written twice")
            known.add(item.path)
            tensor_bytes.check(_path_text(item.path), _as_torch(item.tensor))
            self._size += item.tensor.nbytes
        self._gathered += items
        for item in items:
            if item.done is not None:
                item.done()  # we hold a reference to the tensor

    def _write_tz(self) -> None:
        tensors = {item.path: _as_torch(item.tensor) for item in self._gathered}
        self._gathered.clear()
        if all(len(path) == 1 and isinstance(path[0], str) for path in tensors):
            # The root module's tensors have names as in its state dict.
            named = {str(path[0]).removeprefix("."): tensor for path, tensor in tensors.items()}
            saving.save_file(named, self._target, copy_overlapping=True, options=self._options)
        else:
            saving.save(
                _nested(tensors), self._target, copy_overlapping=True, options=self._options
            )

    # ---- The end ----

    def close(self) -> None:
        """Completes and closes the file. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            with translated():
                if self._format == "tz":
                    self._write_tz()
                else:
                    if self._writer is None:
                        self._writer = self._open([], is_bulk=True)
                    self._writer.close()
        finally:
            self._close_file()

    def abort(self) -> None:
        """Discards everything. Does nothing after `close`."""
        if self._is_closed:
            return
        self._is_closed = True
        self._gathered.clear()
        try:
            if self._writer is not None:
                self._writer.abort()
        finally:
            self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> TensorSerializer:
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        if error_type is None:
            self.close()
        else:
            self.abort()

    def __del__(self) -> None:
        if not self._is_closed and (self._writer is not None or self._gathered):
            warnings.warn("a TensorSerializer was not closed, so there is no file", stacklevel=1)
        self.abort()


# ---- Arguments -----------------------------------------------------------------------------------


def _check_threads(limit: Any) -> None:
    if limit is None:
        return
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeOptionError(f"limit_cpu_concurrency must be an int, not {type(limit).__name__}")
    if limit < 1:
        raise ValueOptionError(f"limit_cpu_concurrency must be at least 1; got {limit}")


def _format_of(target: Any) -> Literal["tensors", "tz"]:
    name = target if isinstance(target, (str, bytes, os.PathLike)) else _name_of(target)
    return "tz" if os.fsdecode(name).lower().endswith(".tz") else "tensors"


def _name_of(file: Any) -> str:
    if isinstance(file, ObjectWriter):
        return file.url
    name = getattr(file, "name", "")
    return name if isinstance(name, str) else ""


def _check_file(file: Any) -> None:
    is_writable = isinstance(file, io.TextIOBase) or not hasattr(file, "write")
    is_writable = not is_writable and getattr(file, "writable", lambda: True)()
    if not is_writable or not getattr(file, "seekable", lambda: True)():
        raise ValueOptionError(
            "file_obj must be a path, an s3:// URL, or a seekable binary file opened for writing,"
            " such as open_stream(path, 'wb+')"
        )


# ---- Tensors -------------------------------------------------------------------------------------


def _module_items(root: torch.nn.Module, is_removed: bool, has_volatile: bool) -> Iterator[_Item]:
    for number, (prefix, module) in enumerate(root.named_modules()):
        parameters = [(name, TensorType.PARAM) for name in module._parameters]
        buffers = [
            (name, TensorType.BUFFER)
            for name in module._buffers
            if has_volatile or name not in module._non_persistent_buffers_set
        ]
        for name, tensor_type in parameters + buffers:
            tensor = getattr(module, name)
            if tensor is None:
                continue
            done = partial(setattr, module, name, None) if is_removed else None
            yield _Item((f"{prefix}.{name}",), tensor_type, number, tensor, done)


def _flatten(root: Any) -> Iterator[tuple[TensorPath, torch.Tensor]]:
    """Every tensor of a nested state dict, with its path."""
    stack: list[tuple[TensorPath, Iterator[tuple[Any, Any]]]] = [((), _children((), root))]
    while stack:
        prefix, children = stack[-1]
        child = next(children, None)
        if child is None:
            stack.pop()
            continue
        path = (*prefix, child[0])
        if isinstance(child[1], torch.Tensor):
            yield path, child[1]
            continue
        if len(path) > DEPTH_MAX:
            raise ValueOptionError(f"{path[:3]}…: nested deeper than {DEPTH_MAX} levels")
        stack.append((path, _children(path, child[1])))


def _children(path: TensorPath, container: Any) -> Iterator[tuple[Any, Any]]:
    where = "the state dict" if not path else repr(_path_text(path))
    if isinstance(container, Mapping):
        for key in container:
            if not isinstance(key, str):
                raise TypeOptionError(f"{where}: keys must be str, not {type(key).__name__}")
        children: Iterable[tuple[Any, Any]] = list(container.items())
    elif isinstance(container, Sequence) and not isinstance(container, (str, bytes, bytearray)):
        children = list(enumerate(container))
    else:
        found = type(container).__name__
        raise TypeOptionError(f"{where} must be a tensor, a dict or a list, not {found}")
    if path and not children:
        warnings.warn(f"{where} is empty, so it will not be in the file", stacklevel=5)
    return iter(children)


def _path_text(path: TensorPath) -> str:
    return "/".join(map(str, path))


def _nested(tensors: Mapping[TensorPath, torch.Tensor]) -> Any:
    """Rebuilds the dicts and lists from paths."""
    root: dict[Any, Any] = {}
    for path, tensor in tensors.items():
        layer = root
        for step in path[:-1]:
            layer = layer.setdefault(step, {})
        layer[path[-1]] = tensor
    return _with_lists(root)


def _with_lists(layer: Any) -> Any:
    if not isinstance(layer, dict):
        return layer
    values = {key: _with_lists(value) for key, value in layer.items()}
    return list(values.values()) if values and isinstance(next(iter(values)), int) else values


def _record(item: _Item) -> TensorRecord:
    tensor, name = item.tensor, _path_text(item.path)
    if isinstance(tensor, np.ndarray):
        dtype = dtype_name(name, tensor)
        is_meta = False
    else:
        is_meta = isinstance(tensor, torch.Tensor) and tensor.is_meta and not is_lazy(tensor)
        if not is_meta:
            tensor_bytes.check(name, tensor)
        if tensor.dtype not in FORMAT_NAMES:
            raise OptionError(f"tensor {name!r} has dtype {tensor.dtype}, which files cannot hold")
        dtype = FORMAT_NAMES[tensor.dtype]
    shape = tuple(tensor.shape)
    return TensorRecord(item.path, dtype, shape, Role(item.tensor_type), item.module, is_meta)


def _pieces(tensor: Any) -> Pieces:
    """A function that returns the bytes, which a writer calls twice."""
    if isinstance(tensor, np.ndarray):
        stored = np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("<"))
        return lambda: [stored]
    if tensor.is_meta:
        return lambda: []
    if tensor.device.type == "cpu" and not tensor.is_contiguous():
        tensor = tensor.detach().contiguous()

    def pieces() -> Iterable[Any]:
        data = tensor_bytes.data_of(tensor)
        return [data] if isinstance(data, torch.Tensor) else data

    return pieces


def _as_torch(tensor: Any) -> torch.Tensor:
    if isinstance(tensor, np.ndarray):
        return torch.from_numpy(np.array(tensor, tensor.dtype.newbyteorder("="), order="C"))
    return tensor  # type: ignore[no-any-return]
