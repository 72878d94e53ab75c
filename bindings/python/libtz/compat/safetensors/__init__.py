"""The functions of the safetensors package, implemented with libtz.

    from libtz.compat.safetensors import safe_open
    from libtz.compat.safetensors.torch import load_file, save_file

Signatures are those of safetensors 0.8, including `serialize`, `deserialize` and the private names
that converters import from `safetensors.torch`. Deliberate differences:

- Reading also accepts .tz files, URLs, folders and indexes of shards.
- Errors are libtz's: `SafetensorError` is `libtz.Error`, the base class of all. They are also
  `ValueError`, `RuntimeError`, `TypeError` or `FileNotFoundError` where the package raises those.
- Ambiguous headers are refused: duplicate names, gaps, bytes after the end.
- The frameworks are PyTorch and NumPy. Most others accept NumPy arrays.
- `load_model` does not modify the module if names or shapes do not match.
- A file appears under its name only when it is complete.
"""

from __future__ import annotations

import errno
from types import TracebackType
from typing import Any, NamedTuple

from libtz.arrays.base import Destination
from libtz.arrays.default import default_framework
from libtz.arrays.numpy_arrays import NumpyFramework
from libtz.checkpoint.base import Checkpoint
from libtz.checkpoint.file import File
from libtz.checkpoint.slices import ReadItem, Region
from libtz.compat._errors import (
    IndexOptionError,
    RuntimeOptionError,
    TypeOptionError,
    ValueOptionError,
)
from libtz.compat.safetensors._raw import (
    TensorSpec,
    described,
    deserialize,
    serialize,
    serialize_file,
    spelling,
)
from libtz.errors import Error as SafetensorError
from libtz.errors import OptionError, SourceError
from libtz.format import dtype_name
from libtz.opening import open_as
from libtz.options import ReadOptions
from libtz.writing.safetensors import METADATA_KEY

__all__ = [
    "SafetensorError",
    "TensorSpec",
    "deserialize",
    "read_options",
    "safe_open",
    "serialize",
    "serialize_file",
]

# The release with this interface.
__version__ = "0.8.0"

_TORCH = frozenset({"pt", "torch", "pytorch"})
_NUMPY = frozenset({"np", "numpy"})
_BACKENDS = {
    "mmap": ReadOptions(local="map", progress=False),
    "pread": ReadOptions(local="copy", progress=False),
}


def read_options(backend: str) -> ReadOptions:
    """The options for a backend of the package: "mmap" or "pread". Raises OptionError."""
    options = _BACKENDS.get(backend)
    if options is None:
        raise OptionError(f"backend must be 'mmap' or 'pread'; got {backend!r}")
    return options


class safe_open:  # noqa: N801 - the package's name
    """An open file. Each tensor is read when it is requested, and owns its memory, unless `backend`
    is "mmap", where it may be a private mapping of the file.

    Its constructor and methods raise `SafetensorError` and its subclasses.
    """

    def __init__(
        self, filename: Any, framework: str, device: Any = "cpu", *, backend: str = "mmap"
    ) -> None:
        if not isinstance(framework, str):
            raise TypeOptionError(f"framework must be a str, not {type(framework).__name__}")
        if framework not in _TORCH | _NUMPY:
            raise OptionError(
                f"framework must be 'pt' or 'np'; got {framework!r}. Most other frameworks accept"
                " NumPy arrays"
            )
        is_numpy = framework in _NUMPY
        self._framework = NumpyFramework() if is_numpy else default_framework()
        self._device = "cpu" if device is None else device
        try:
            into = self._framework.device(self._device)
        except OptionError as error:
            raise (error if is_numpy else RuntimeOptionError(error.message)) from None
        try:
            self._file = open_as(self._framework, filename, options=read_options(backend))
        except SourceError as error:
            if error.errno == errno.ENOENT and error.status is None:
                message = f"No such file or directory: {error.url}"  # as the package says it
                raise SourceError(message, url=error.url, errno=error.errno) from error
            raise

        self._into = Destination(self._framework, into)
        # As the package, which has all of the header when a file is open.
        self._catalog = self._file.contents if isinstance(self._file, File) else None
        if self._catalog is not None:
            self._catalog.prepare()

    def keys(self) -> list[str]:
        """The names in alphabetical order."""
        return sorted(self._opened())

    def offset_keys(self) -> list[str]:
        """The names in the order of the file."""
        return list(self._opened())

    def metadata(self) -> dict[str, str] | None:
        """The metadata. None if the file has none, which differs from empty metadata."""
        file = self._opened()
        metadata = dict(file.metadata)
        return metadata if metadata or _has_empty_metadata(file) else None

    def get_tensor(self, name: str) -> Any:
        """One tensor. Raises SafetensorError if there is none of that name."""
        try:
            return self._file.read_item(ReadItem(name), self._into)
        except (KeyError, TypeError):
            self._check_name(name)
            raise

    def get_tensors(self) -> dict[str, Any]:
        """All tensors by name."""
        return self._opened().load(None, self._device)

    def get_slice(self, name: str) -> SafeSlice:
        """A tensor that is read by indexing. Raises SafetensorError if there is none of that
        name."""
        file, catalog = self._opened(), self._catalog
        try:
            if catalog is None:
                info = file.info(name)
                dtype, shape = info.dtype, info.shape
            else:
                tensor = catalog.tensor(name)
                dtype, shape = dtype_name(tensor.dtype), tensor.shape
        except (KeyError, TypeError):
            self._check_name(name)
            raise
        self._framework.require(dtype, name)
        return SafeSlice(name, dtype, shape, file, self._into)

    def __enter__(self) -> safe_open:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def _opened(self) -> Checkpoint[Any]:
        if self._file.closed:
            raise OptionError(f"{self._file!r} is closed")
        return self._file

    def _check_name(self, name: str) -> None:
        """Raises SafetensorError if there is no tensor of that name."""
        file = self._opened()
        if not isinstance(name, str):
            raise TypeOptionError(f"the name of a tensor must be a str; got {name!r}")
        if name not in file:
            raise OptionError(f"{file.url} does not contain tensor {name!r}")


def checkpoint_of(file: safe_open) -> Checkpoint[Any]:
    """The open file behind a `safe_open`, whose methods are only those of the package."""
    return file._opened()


class _safe_open_handle(safe_open):  # noqa: N801 - the package's name
    """`safe_open` of a file object, which is opened again by its name."""

    def __init__(
        self, f: Any, framework: str, device: Any = "cpu", *, backend: str = "mmap"
    ) -> None:
        f.fileno  # noqa: B018 - other objects raise AttributeError, as with the package
        super().__init__(f.name, framework, device, backend=backend)


def _has_empty_metadata(file: Checkpoint[Any]) -> bool:
    """Whether the header of a file without metadata has an empty entry for them."""
    if not isinstance(file, File) or file.format != "safetensors":
        return False
    # Quotes within a JSON string are escaped, and no tensor may have this name.
    return f'"{METADATA_KEY}"'.encode() in bytes(file.header_bytes)


class _Part(NamedTuple):
    """See slices.Described."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class SafeSlice:
    """A tensor that is read by indexing."""

    __slots__ = ("_dtype", "_file", "_into", "_name", "_shape")

    def __init__(
        self,
        name: str,
        dtype: str,
        shape: tuple[int, ...],
        file: Checkpoint[Any],
        into: Destination[Any],
    ) -> None:
        self._name = name
        self._dtype = dtype
        self._shape = shape
        self._file = file
        self._into = into

    def get_shape(self) -> list[int]:
        """The shape in elements; PyTorch counts bytes for packed dtypes."""
        if spelling(self._dtype)[1] == 1:
            return list(self._shape)
        return described(self._dtype, self._shape)[1]

    def get_dtype(self) -> str:
        """The dtype as in .safetensors files, such as "BF16"."""
        return spelling(self._dtype)[0]

    def __getitem__(self, index: Any) -> Any:
        """Reads the indexed part. For other indices than integers, slices and `...`, the whole
        tensor is read."""
        part = _Part(self._name, self._dtype, self._shape)
        try:
            region = Region.of(part, index)
        except (OptionError, IndexError):
            tensor = self._file.read_item(ReadItem(self._name, Region.of(part, ...)), self._into)
        else:
            return self._file.read_item(ReadItem(self._name, region), self._into)
        # The framework knows more kinds of indices, and what is wrong with others.
        try:
            return tensor[index]
        except (IndexError, TypeError, ValueError) as error:
            error_types = {IndexError: IndexOptionError, TypeError: TypeOptionError}
            error_type = error_types.get(type(error), ValueOptionError)
            raise error_type(f"an index of tensor {self._name!r}: {error}") from error
