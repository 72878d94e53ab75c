"""Writes a file: declare all tensors, then hand over their data one by one.

    specs = [TensorSpec("a", "f32", (2, 3)), TensorSpec("b", "bf16", (1 << 30,))]
    with libtz.Writer("model.tz", specs, metadata={"made-by": "me"}) as writer:
        writer.write("a", array)             # a buffer, an array, a CPU tensor ...
        writer.write("b", blocks_of_b())     # ... or an iterable of them, for what exceeds memory
    print(writer.digest)

The header's size follows from the declaration, so data go straight to their place and the header is
written last. Nothing appears under the target's name before the file is complete: leaving the
`with` block normally commits, an exception discards everything. Equal input and options give
equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from operator import index
from os import PathLike, fspath
from typing import Any, Literal

from libtz._native import lib
from libtz.errors import Error, OptionError
from libtz.locations import resolve_sink
from libtz.options import WriteOptions
from libtz.sinks.base import Sink
from libtz.sources.url import shown
from libtz.writing.buffers import byte_view, is_buffer
from libtz.writing.pipeline import Pipeline

__all__ = ["TensorSpec", "Writer"]

DIMENSION_MAX = (1 << 64) - 1  # as the file holds them


@dataclass(frozen=True)
class TensorSpec:
    """A tensor to be written. `dtype` is a name of the format ("bf16", section 11 of the
    specification), `shape` counts its storage units, `tied_to` names another tensor of the same
    dtype and shape whose data this one shares."""

    name: str
    dtype: str
    shape: Sequence[int]
    tied_to: str | None = None


class Writer:
    """See the module's documentation. Not for use by several threads at once."""

    def __init__(
        self,
        target: Any,
        specs: Iterable[TensorSpec],
        *,
        metadata: Mapping[str, str] | None = None,
        structure: Sequence[lib.Node] = (),
        options: WriteOptions | None = None,
    ) -> None:
        """Checks the declaration and lays out the file; the target is not touched yet.

        `structure` arranges the tensors in a nested object; its tensor nodes are indices of
        `specs`.
        """
        self._target = target
        self._options = options or WriteOptions()
        self._label = _label(target)
        self._specs = list(specs)
        native = _native_specs(self._specs)
        self._codes = [spec.dtype for spec in native]
        self._sizes = [_decoded_size(spec) for spec in native]
        self._indices = {spec.name: number for number, spec in enumerate(self._specs)}
        self._builder = lib.Builder(
            native,
            label=self._label,
            metadata=metadata,
            nodes=structure,
            chunk_size=self._options.chunk_size,
        )
        # Of tied tensors only the one with the smallest name has data, empty tensors have none.
        self._order = [i for i in range(len(native)) if self._builder.has_data(i)]
        self._written = 0  # of those
        self._state: Literal["new", "open", "closed", "failed"] = "new"
        self._sink: Sink | None = None
        self._pipeline: Pipeline | None = None
        self._digest: str | None = None
        self._content_digest: str | None = None

    @property
    def pending(self) -> tuple[str, ...]:
        """The tensors that still have to be written, in the order in which they must be.

        Those are all that were declared, except empty ones, and of tied tensors only the one with
        the (bytewise) smallest name.
        """
        return tuple(self._specs[number].name for number in self._order[self._written :])

    @property
    def digest(self) -> str:
        """The file digest, "blake3:…", once the file is complete."""
        return self._known(self._digest)

    @property
    def content_digest(self) -> str:
        """The content digest, whatever the chunk size and compression, once the file is
        complete."""
        return self._known(self._content_digest)

    def write(self, name: str, data: Any) -> None:
        """Writes one tensor: its bytes as a contiguous buffer, array or CPU tensor, or an
        iterable of such pieces. The data may change again when this returns."""
        self.put(name, data)
        with self._failing():
            self._running_pipeline().drain()

    def put(self, name: str, data: Any) -> None:
        """As `write`, but faster for many tensors: a buffer is read some time before `close`
        returns, and must not change until then. An iterable is read before this returns."""
        if self._state in ("closed", "failed"):
            raise OptionError(f"{self._label}: the writer is {self._state}")
        number, size = self._place_of(name)
        if is_buffer(data):
            view = byte_view(data)
            if len(view) != size:
                raise self._wrong_size(name, size, f"{len(view)} bytes")
            blocks = None
        else:
            blocks = (byte_view(block) for block in data)
        if number is None:
            if blocks is not None and any(len(block) for block in blocks):
                raise self._wrong_size(name, size, "more")
            return
        pipeline = self._running_pipeline()
        with self._failing():
            if blocks is None:
                pipeline.put(number, self._codes[number], view)
            else:
                taken = pipeline.put_blocks(number, self._codes[number], size, blocks)
                if taken != size:
                    count = "more" if taken > size else f"{taken} bytes"
                    raise self._wrong_size(name, size, count)
        self._written += 1

    def close(self) -> None:
        """Completes the file. Every tensor must have been written."""
        if self._state == "closed":
            return
        if self._state == "new":
            self._open()
        try:
            if self._state == "failed":
                raise OptionError(f"{self._label}: an earlier write failed; nothing was written")
            if self._written < len(self._order):
                raise OptionError(
                    f"{self._label}: {len(self._order) - self._written} tensors were declared but "
                    f"not written, the first is {self.pending[0]!r}"
                )
            self._finish()
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Discards everything; the target is as it was before. Does nothing after `close`."""
        if self._state == "closed":
            return
        self._state = "failed"
        if self._pipeline is not None:
            self._pipeline.stop()
            self._pipeline = None
        if self._sink is not None:
            sink, self._sink = self._sink, None
            sink.abort()

    def __enter__(self) -> Writer:
        self._open()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _open(self) -> None:
        if self._state != "new":
            raise OptionError(f"{self._label}: a writer writes one file, make another one")
        info = self._builder.info
        self._sink = resolve_sink(
            self._target,
            self._options,
            header_size=info.header_size,
            file_size_max=info.file_size_max,
        )
        compress = self._options.compress == "auto"
        self._pipeline = Pipeline(self._builder, self._sink, compress=compress)
        self._state = "open"

    def _running_pipeline(self) -> Pipeline:
        if self._state == "new":
            self._open()
        if self._state != "open" or self._pipeline is None:
            raise OptionError(f"{self._label}: the writer is {self._state}")
        return self._pipeline

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """A failure inside leaves a tensor half-written: only `abort` makes sense afterwards."""
        try:
            yield
        except BaseException:
            self._state = "failed"
            raise

    def _place_of(self, name: str) -> tuple[int | None, int]:
        """Which spec `name` is, None for an empty one, and its size; if it is its turn."""
        number = self._indices.get(name)
        if number is None:
            raise OptionError(f"{self._label}: no tensor {name!r} was declared")
        if self._sizes[number] == 0:
            return None, 0
        if self._written < len(self._order) and self._order[self._written] == number:
            return number, self._sizes[number]
        if number in self._order[: self._written]:
            raise OptionError(f"{self._label}: tensor {name!r} was already written")
        expected = f"expected {self.pending[0]!r}" if self.pending else "all are written"
        if not self._builder.has_data(number):
            raise OptionError(
                f"{self._label}: tensor {name!r} is tied and gets its data from the one with the "
                f"smallest name; {expected}"
            )
        raise OptionError(
            f"{self._label}: tensors are written in the declared order; got {name!r}, {expected}"
        )

    def _wrong_size(self, name: str, size: int, got: str) -> OptionError:
        return OptionError(
            f"{self._label}: tensor {name!r} has {size} bytes by its dtype and shape, but got {got}"
        )

    def _finish(self) -> None:
        pipeline = self._running_pipeline()
        pipeline.drain()
        pipeline.stop()
        if self._sink is None:  # for the type checker: open writers have one
            raise OptionError(f"{self._label}: the writer is {self._state}")
        header, file_size, digest = self._builder.finish()
        # Our own reader has the last word on the header, before anything becomes visible.
        opened = lib.Header.open(header, file_size, label=self._label, pin=digest)
        content_digest = opened.content_digest() if isinstance(opened, lib.Header) else None
        if content_digest is None:
            raise Error(f"{self._label}: the header does not open; please report this")
        self._sink.write_at(0, memoryview(header))
        self._sink.commit(file_size)
        self._state = "closed"
        self._digest = f"blake3:{digest.hex()}"
        self._content_digest = f"blake3:{content_digest.hex()}"

    def _known(self, digest: str | None) -> str:
        if digest is None:
            raise OptionError(f"{self._label}: the digest is known when the file is complete")
        return digest


def _label(target: Any) -> str:
    """How messages name the target: without anything secret."""
    if isinstance(target, (str, PathLike)):
        return shown(fspath(target))
    return str(getattr(target, "name", f"<{type(target).__name__}>"))


def _native_specs(specs: Sequence[TensorSpec]) -> list[lib.TensorSpec]:
    indices: dict[str, int] = {}
    for number, spec in enumerate(specs):
        if indices.setdefault(spec.name, number) != number:
            raise OptionError(f"tensor {spec.name!r} is declared twice")
    native = []
    for spec in specs:
        code = lib.dtype_code(spec.dtype) if isinstance(spec.dtype, str) else 0
        if not code:
            raise OptionError(f"tensor {spec.name!r}: {spec.dtype!r} is not a dtype of the format")
        tie = None
        if spec.tied_to is not None:
            tie = indices.get(spec.tied_to)
            if tie is None:
                raise OptionError(
                    f"tensor {spec.name!r} is tied to {spec.tied_to!r}, which is not declared"
                )
        native.append(lib.TensorSpec(spec.name, _shape(spec), code, tie))
    return native


def _shape(spec: TensorSpec) -> tuple[int, ...]:
    try:
        shape = tuple(index(size) for size in spec.shape)
    except TypeError:
        shape = (-1,)
    if any(not 0 <= size <= DIMENSION_MAX for size in shape):
        raise OptionError(
            f"tensor {spec.name!r}: a shape is a sequence of integers from 0 on, not {spec.shape!r}"
        )
    return shape


def _decoded_size(spec: lib.TensorSpec) -> int:
    info = lib.dtype(spec.dtype)
    return prod(spec.shape) * (info.unit_bits // 8) if info else 0
