"""The base class of the writers of all formats: declare all tensors, then write their data.

The behaviour that formats share is implemented here: the order of the tensors, the state of the
file, and that nothing appears under the target's name before the file is complete.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike, fspath
from types import TracebackType
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar, final

from libtz.errors import OptionError
from libtz.fields import options_or_default, require_type
from libtz.locations import Location, TargetLike, resolve_sink
from libtz.options import WriteOptions
from libtz.sinks.base import Extent, Sink
from libtz.sources.url import redacted

__all__ = ["CheckpointWriter", "Ending", "TensorSpec", "listed", "untied"]

W = TypeVar("W", bound="CheckpointWriter")


@dataclass(frozen=True)
class TensorSpec:
    """A tensor to be written. `dtype` is one of the format's names, such as "bf16" (section 11 of
    the specification). `shape` counts storage units. `tied_to` is the name of another tensor with
    the same dtype and shape, whose data this one shares.

    `nbytes` is the size in memory, in bytes. It follows from dtype and shape unless the dtype is a
    number such as "0x01ff". Those are for tensors copied from another .tz file, whose dtype this
    version does not know."""

    name: str
    dtype: str
    shape: Sequence[int]
    tied_to: str | None = None
    nbytes: int | None = None


def listed(specs: Iterable[TensorSpec]) -> list[TensorSpec]:
    """The specs as a list. Raises OptionError if something else is among them."""
    found = list(specs)
    for spec in found:
        require_type(spec, "each of specs", TensorSpec)
    return found


class Ending(NamedTuple):
    """What remains to be written once all tensors are, and the digest of the file."""

    header: bytes
    file_size: int
    digest: str | None


class CheckpointWriter(ABC):
    """Writes one file. Not thread-safe.

    Leaving a `with` block normally completes the file. An exception discards everything and leaves
    the target as it was. Without `with`, call `close` or `abort`.

    Methods raise OptionError for data that do not match the declaration and for a writer that is
    closed or has failed, and SourceError if the target cannot be written.

    A format supplies `_extent`, `_put` and `_end`, and, if needed, `arranged`, `_begin`, `_drain`
    and `_stop`.
    """

    holds_metadata: ClassVar[bool] = True

    def __init__(self, target: TargetLike | Location, options: WriteOptions | None) -> None:
        """`target` is a path, a URL or a seekable binary file. It is not opened yet."""
        self._target = target
        self._options = options_or_default(options, WriteOptions)
        self._label = _label(target)
        self._state: Literal["new", "open", "closed", "failed"] = "new"
        self._sink: Sink | None = None
        self._declared: set[Hashable] = set()
        self._pending: deque[Hashable] = deque()
        self._digest: str | None = None

    # ---- What a format supplies ----

    @classmethod
    def arranged(cls, specs: Iterable[TensorSpec]) -> list[TensorSpec]:
        """The same tensors in the order that suits this format best, and without ties if the format
        has none."""
        return list(specs)

    @abstractmethod
    def _extent(self) -> Extent:
        """What is known about the file's size before its first byte is written."""

    @abstractmethod
    def _put(self, name: Hashable, data: Any) -> None:
        """Takes the data of the next tensor. Calls `_check_turn` first and `_done` at the end."""

    @abstractmethod
    def _end(self) -> Ending:
        """Called when every tensor is written and drained."""

    def _begin(self, sink: Sink) -> None:  # noqa: B027 - most formats need nothing
        """Called when the sink has been made, before the first write."""

    def _drain(self) -> None:  # noqa: B027
        """Returns when all data put so far have been passed to the sink."""

    def _stop(self) -> None:  # noqa: B027
        """Ends threads. May be called more than once."""

    # ---- Common to all formats ----

    @property
    def pending(self) -> tuple[Any, ...]:
        """The names of the tensors that still have to be written, in the required order."""
        return tuple(self._pending)

    @property
    def digest(self) -> str:
        """The digest that pins the file, "blake3:…" or "sha256:…". Raises OptionError before the
        file is complete."""
        if self._digest is None:
            if self._state == "closed":
                raise OptionError(f"{self._label}: this writer does not compute a digest")
            raise OptionError(f"{self._label}: there is no digest before the file is complete")
        return self._digest

    @property
    def content_digest(self) -> str | None:
        """The digest of the tensors, independent of their storage. None if the format has none."""
        return None

    @final
    def write(self, name: str, data: Any) -> None:
        """Writes one tensor. `data` is its bytes, row-major and little-endian: a contiguous buffer,
        array or CPU tensor, or an iterable of such pieces. They are not used after this returns.

        Raises OptionError if it is not the tensor's turn, or if the size of the data is not the
        declared one, and SourceError if the target cannot be written.
        """
        self.write_later(name, data)
        self.drain()

    @final
    def write_later(self, name: Hashable, data: Any) -> None:
        """The same as `write`, but faster for many tensors. A buffer is read at some time before
        `drain` or `close` returns; it must stay unchanged until then. An iterable is read before
        this returns. Raises the errors of `write`, also for tensors passed before."""
        self._check_usable()
        self._put(name, data)

    @final
    def drain(self) -> None:
        """Waits until all data passed to `write_later` have been written. They are not used after
        this returns. Raises the errors of `write`."""
        self._check_usable()
        with self._failing():
            self._drain()

    @final
    def close(self) -> None:
        """Completes the file. Does nothing if it is complete. Raises OptionError, and discards
        everything, if a tensor has not been written or an earlier write failed."""
        if self._state == "closed":
            return
        try:
            if self._state == "failed":
                raise OptionError(
                    f"{self._label}: an earlier write failed, and the file was discarded"
                )
            sink = self._opened()
            if self._pending:
                more = len(self._pending) - 1
                raise OptionError(
                    f"{self._label}: tensor {self._pending[0]!r} was declared but not written"
                    + (f", and {more} more" if more else "")
                )
            self._drain()
            ending = self._end()
            self._stop()
            sink.write_at(0, memoryview(ending.header))
            self._digest = ending.digest
            sink.commit(ending.file_size)
        except BaseException:
            self.abort()
            raise
        self._state = "closed"
        self._sink = None

    @final
    def abort(self) -> None:
        """Discards everything and leaves the target as it was. Does nothing after `close`."""
        if self._state == "closed":
            return
        self._state = "failed"
        self._digest = None
        self._stop()
        if self._sink is not None:
            sink, self._sink = self._sink, None
            sink.abort()

    @final
    def __enter__(self: W) -> W:
        if self._state != "new":
            raise OptionError(f"{self._label}: a writer writes only one file; create another one")
        self._opened()
        return self

    @final
    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error_type is None:
            self.close()
        else:
            self.abort()

    # ---- For the formats ----

    def _opened(self) -> Sink:
        """The sink, which is made on first use."""
        self._check_usable()
        if self._sink is None:
            header_size, file_size_max = self._extent()
            self._sink = resolve_sink(
                self._target, self._options, header_size=header_size, file_size_max=file_size_max
            )
            self._state = "open"
            self._begin(self._sink)
        return self._sink

    def _check_usable(self) -> None:
        if self._state in ("closed", "failed"):
            raise OptionError(f"{self._label}: the writer is {self._state}")

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Marks the writer as failed after an exception: a tensor may be half-written, so only
        `abort` is useful."""
        try:
            yield
        except BaseException:
            self._state = "failed"
            raise

    def _declare(self, names: Iterable[Hashable]) -> None:
        """Adds the names of tensors that need data, in this order."""
        for name in names:
            self._declared.add(name)
            self._pending.append(name)

    def _check_turn(self, name: Hashable) -> None:
        """Raises OptionError unless it is this tensor's turn."""
        if self._pending and self._pending[0] == name:
            return
        expected = (
            f"expected {self._pending[0]!r}" if self._pending else "all tensors have been written"
        )
        if name not in self._declared:
            raise OptionError(f"{self._label}: no tensor {name!r} was declared; {expected}")
        if name not in self._pending:
            raise OptionError(f"{self._label}: tensor {name!r} was already written; {expected}")
        raise OptionError(
            f"{self._label}: tensors must be written in the declared order; got {name!r},"
            f" {expected}"
        )

    def _done(self) -> None:
        """Notes that the next pending tensor was written."""
        self._pending.popleft()

    def _wrong_size(self, name: Hashable, size: int, got: str) -> OptionError:
        return OptionError(
            f"{self._label}: tensor {name!r} takes {size} bytes by its dtype and shape, but {got}"
            " were given"
        )


def untied(specs: Iterable[TensorSpec]) -> list[TensorSpec]:
    """The same tensors without ties. Tensors that shared data are adjacent, so that the data are
    read only once."""
    each = listed(specs)
    positions = {spec.name: position for position, spec in enumerate(each)}

    def order(spec: TensorSpec) -> tuple[int, int]:
        return positions[spec.tied_to or spec.name], positions[spec.name]

    return [replace(spec, tied_to=None) for spec in sorted(each, key=order)]


def _label(target: Any) -> str:
    """The target's name for messages, without secrets."""
    if isinstance(target, Location):
        return str(target)
    if isinstance(target, (str, PathLike)):
        return redacted(fspath(target))
    return str(getattr(target, "name", f"<{type(target).__name__}>"))
