"""One file that is written, whatever its format: declare all tensors, then hand over their data.

What formats have in common is written here once: the order of the tensors, the state of the file,
and that nothing appears under the target's name before the file is complete.
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
from libtz.locations import Location, resolve_sink
from libtz.options import WriteOptions
from libtz.sinks.base import Extent, Sink
from libtz.sources.url import shown

__all__ = ["CheckpointWriter", "Ending", "TensorSpec", "untied"]

W = TypeVar("W", bound="CheckpointWriter")


@dataclass(frozen=True)
class TensorSpec:
    """A tensor to be written. `dtype` is a name of the format ("bf16", section 11 of the
    specification), `shape` counts its storage units, `tied_to` names another tensor of the same
    dtype and shape whose data this one shares."""

    name: str
    dtype: str
    shape: Sequence[int]
    tied_to: str | None = None


class Ending(NamedTuple):
    """What completes a file whose tensors are all written."""

    header: bytes
    file_size: int
    digest: str | None


class CheckpointWriter(ABC):
    """Writes one file. Not for use by several threads at once.

    Leaving a `with` block normally completes the file; an exception discards everything, and the
    target is as it was before. Without `with`, call `close` or `abort`.

    A format supplies `_extent`, `_put`, `_end`, and what of `arranged`, `_begin`, `_drain` and
    `_stop` it needs.
    """

    holds_metadata: ClassVar[bool] = True

    def __init__(self, target: Any, options: WriteOptions | None) -> None:
        """`target` is a path, a URL or a seekable binary file. It is not touched yet."""
        self._target = target
        self._options = options or WriteOptions()
        self._label = _label(target)
        self._state: Literal["new", "open", "closed", "failed"] = "new"
        self._sink: Sink | None = None
        self._declared: set[Hashable] = set()
        self._pending: deque[Hashable] = deque()
        self._digest: str | None = None

    # ---- What a format supplies ----

    @classmethod
    def arranged(cls, specs: Iterable[TensorSpec]) -> list[TensorSpec]:
        """The same tensors as this format stores them best: in the order to write them, and each
        with data of its own if the format has no ties."""
        return list(specs)

    @abstractmethod
    def _extent(self) -> Extent:
        """What is known of the file's size before its first byte is written."""

    @abstractmethod
    def _put(self, name: Hashable, data: Any) -> None:
        """Takes the data of the next tensor, which `_check_turn` allows, and calls `_done`."""

    @abstractmethod
    def _end(self) -> Ending:
        """Called when every tensor is written and drained."""

    def _begin(self, sink: Sink) -> None:  # noqa: B027 - most formats need nothing
        """Called when the sink is there, before the first write."""

    def _drain(self) -> None:  # noqa: B027
        """Returns when everything put so far is with the sink."""

    def _stop(self) -> None:  # noqa: B027
        """Ends threads. Called more than once."""

    # ---- Written once ----

    @property
    def pending(self) -> tuple[Any, ...]:
        """The names of the tensors that still have to be written, in the order in which they
        must be."""
        return tuple(self._pending)

    @property
    def digest(self) -> str:
        """The digest that pins the file, "blake3:…" or "sha256:…", once the file is complete."""
        if self._digest is None:
            if self._state == "closed":
                raise OptionError(f"{self._label}: this writer makes no digest of its file")
            raise OptionError(f"{self._label}: the digest is known when the file is complete")
        return self._digest

    @property
    def content_digest(self) -> str | None:
        """The digest of the tensors, whatever their storage, once the file is complete; None if
        the format has none."""
        return None

    @final
    def write(self, name: str, data: Any) -> None:
        """Writes one tensor: its bytes as a contiguous buffer, array or CPU tensor, row-major and
        little-endian, or an iterable of such pieces. The data may change again when this returns.

        OptionError if it is not the tensor's turn, or if the data have another size than declared;
        SourceError if the target cannot be written.
        """
        self.write_later(name, data)
        self.drain()

    @final
    def write_later(self, name: Hashable, data: Any) -> None:
        """As `write`, but faster for many tensors: a buffer is read some time before `drain` or
        `close` returns, and must stay alive and unchanged until then. An iterable is read before
        this returns."""
        self._check_usable()
        self._put(name, data)

    @final
    def drain(self) -> None:
        """Returns when everything handed over so far is written, and may change again."""
        self._check_usable()
        with self._failing():
            self._drain()

    @final
    def close(self) -> None:
        """Completes the file. Every tensor must have been written. Does nothing if it is
        complete."""
        if self._state == "closed":
            return
        try:
            if self._state == "failed":
                raise OptionError(f"{self._label}: an earlier write failed; nothing was written")
            sink = self._opened()
            if self._pending:
                more = len(self._pending) - 1
                raise OptionError(
                    f"{self._label}: tensor {self._pending[0]!r} was declared but not written"
                    + (f", and so were {more} more" if more else "")
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
        """Discards everything; the target is as it was before. Does nothing after `close`."""
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
            raise OptionError(f"{self._label}: a writer writes one file, make another one")
        self._opened()
        return self

    @final
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
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
        """A failure inside leaves a tensor half-written: only `abort` makes sense afterwards."""
        try:
            yield
        except BaseException:
            self._state = "failed"
            raise

    def _declare(self, names: Iterable[Hashable]) -> None:
        """Names of tensors to come that need data, in this order."""
        for name in names:
            self._declared.add(name)
            self._pending.append(name)

    def _check_turn(self, name: Hashable) -> None:
        """OptionError unless it is this tensor's turn."""
        if self._pending and self._pending[0] == name:
            return
        expected = f"expected {self._pending[0]!r}" if self._pending else "all are written"
        if name not in self._declared:
            raise OptionError(f"{self._label}: no tensor {name!r} was declared; {expected}")
        if name not in self._pending:
            raise OptionError(f"{self._label}: tensor {name!r} was already written; {expected}")
        raise OptionError(
            f"{self._label}: tensors are written in the declared order; got {name!r}, {expected}"
        )

    def _done(self) -> None:
        """The tensor whose turn it was is written."""
        self._pending.popleft()

    def _wrong_size(self, name: Hashable, size: int, got: str) -> OptionError:
        return OptionError(
            f"{self._label}: tensor {name!r} has {size} bytes by its dtype and shape, but got {got}"
        )


def untied(specs: Iterable[TensorSpec]) -> list[TensorSpec]:
    """The same tensors, each with data of its own. Those that shared data stand one after another,
    so that a reader of the data reads them once."""
    listed = list(specs)
    places = {spec.name: place for place, spec in enumerate(listed)}

    def order(spec: TensorSpec) -> tuple[int, int]:
        return places[spec.tied_to or spec.name], places[spec.name]

    return [replace(spec, tied_to=None) for spec in sorted(listed, key=order)]


def _label(target: Any) -> str:
    """How messages name the target: without anything secret."""
    if isinstance(target, Location):
        return str(target)
    if isinstance(target, (str, PathLike)):
        return shown(fspath(target))
    return str(getattr(target, "name", f"<{type(target).__name__}>"))
