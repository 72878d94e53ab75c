"""Writes .tz files: declare all tensors, then write their data one by one.

    specs = [TensorSpec("a", "f32", (2, 3)), TensorSpec("b", "bf16", (1 << 30,))]
    with libtz.Writer("model.tz", specs, metadata={"made-by": "me"}) as writer:
        writer.write("a", array)             # a buffer, an array, a CPU tensor ...
        writer.write("b", pieces_of_b())     # ... or an iterable of them, if it exceeds memory
    print(writer.digest)

The declaration determines the size of the header. So data are written at their final offsets, and
the header is written last. Nothing appears under the target's name before the file is complete:
leaving the `with` block normally commits it, and an exception discards everything. Equal input and
options give equal bytes.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from math import prod
from operator import index
from typing import Any

from libtz._native import lib
from libtz.errors import Error, OptionError
from libtz.format import dtype_code
from libtz.locations import TargetLike
from libtz.options import WriteOptions
from libtz.sinks.base import Extent, Sink
from libtz.writing.base import CheckpointWriter, Ending, TensorSpec, listed
from libtz.writing.buffers import byte_view, is_buffer
from libtz.writing.pipeline import Pipeline

__all__ = ["Writer"]

DIMENSION_MAX = (1 << 64) - 1  # the file stores them as 64-bit integers


class Writer(CheckpointWriter):
    """Writes a .tz file; see `CheckpointWriter` for the methods. Not thread-safe.

    For tensors in memory, `libtz.torch.save_file` and `libtz.numpy.save_file` are simpler.
    """

    def __init__(
        self,
        target: TargetLike,
        specs: Iterable[TensorSpec],
        *,
        metadata: Mapping[str, str] | None = None,
        structure: Sequence[lib.Node] = (),
        options: WriteOptions | None = None,
    ) -> None:
        """Checks the declaration and lays out the file. The target is not opened yet.

        `structure` arranges the tensors in a nested object. Its tensor nodes hold names, as in
        `Checkpoint.structure`. Raises OptionError if the format cannot hold the tensors.
        """
        super().__init__(target, options)
        declared = listed(specs)
        native = _native_specs(declared)
        self._codes = [spec.dtype for spec in native]
        self._sizes = [_decoded_size(spec) for spec in native]
        self._indices = {spec.name: number for number, spec in enumerate(declared)}
        self._builder = lib.Builder(
            native,
            label=self._label,
            metadata=metadata,
            nodes=_native_nodes(structure, self._indices),
            chunk_size=self._options.chunk_size,
        )
        # Among tied tensors, only the one with the smallest name has data. Empty tensors have none.
        self._declare(
            spec.name for number, spec in enumerate(declared) if self._builder.has_data(number)
        )
        self._pipeline: Pipeline | None = None
        self._content_digest: str | None = None

    @property
    def pending(self) -> tuple[str, ...]:
        """The names of the tensors that still have to be written, in the required order.

        Empty tensors need not be written. Among tied tensors, only the one whose name is the
        smallest, bytewise, is written.
        """
        return super().pending

    @property
    def content_digest(self) -> str:
        """The content digest, "blake3:…", which does not depend on chunk size and compression.
        Raises OptionError before the file is complete."""
        if self._content_digest is None:
            raise OptionError(f"{self._label}: there is no digest before the file is complete")
        return self._content_digest

    def _extent(self) -> Extent:
        info = self._builder.info
        return Extent(info.header_size, info.file_size_max)

    def _begin(self, sink: Sink) -> None:
        compress = self._options.compress == "auto"
        self._pipeline = Pipeline(self._builder, sink, compress=compress)

    def _put(self, name: Hashable, data: Any) -> None:
        number = self._index_of(name)
        size = self._sizes[number]
        if is_buffer(data):
            view = byte_view(data)
            if len(view) != size:
                raise self._wrong_size(name, size, f"{len(view)}")
            pieces = None
        else:
            pieces = (byte_view(piece) for piece in data)
        if not size:
            if pieces is not None and any(len(piece) for piece in pieces):
                raise self._wrong_size(name, size, "more")
            return
        pipeline = self._running_pipeline()
        with self._failing():
            if pieces is None:
                pipeline.put(number, self._codes[number], view)
            else:
                taken = pipeline.put_pieces(number, self._codes[number], size, pieces)
                if taken != size:
                    count = "more" if taken > size else f"{taken}"
                    raise self._wrong_size(name, size, count)
        self._done()

    def _index_of(self, name: Hashable) -> int:
        """The index of the spec, if it is its turn. Empty tensors may be written at any time."""
        number = self._indices.get(str(name))
        if number is not None and not self._sizes[number]:
            return number
        if number is not None and not self._builder.has_data(number):
            expected = f"expected {self.pending[0]!r}" if self.pending else "all have been written"
            raise OptionError(
                f"{self._label}: tensor {name!r} is tied; only the tied tensor with the smallest"
                f" name is written; {expected}"
            )
        self._check_turn(name)
        return self._indices[str(name)]

    def _running_pipeline(self) -> Pipeline:
        self._opened()
        if self._pipeline is None:  # for the type checker: an open writer has one
            raise OptionError(f"{self._label}: the writer is {self._state}")
        return self._pipeline

    def _drain(self) -> None:
        if self._pipeline is not None:
            self._pipeline.drain()

    def _stop(self) -> None:
        if self._pipeline is not None:
            self._pipeline.stop()
            self._pipeline = None

    def _end(self) -> Ending:
        header, file_size, digest = self._builder.finish()
        # Check the header with our own reader before the file becomes visible.
        opened = lib.Header.open(header, file_size, label=self._label, pin=digest)
        content_digest = opened.content_digest() if isinstance(opened, lib.Header) else None
        if content_digest is None:
            raise Error(f"{self._label}: the header cannot be read back; please report this")
        self._content_digest = f"blake3:{content_digest.hex()}"
        return Ending(header, file_size, f"blake3:{digest.hex()}")


def _native_nodes(structure: Sequence[lib.Node], indices: Mapping[str, int]) -> list[lib.Node]:
    """The nodes, with tensors by index instead of by name."""
    nodes = []
    for node in structure:
        if node.kind == lib.NODE_TENSOR:
            number = indices.get(node.value) if isinstance(node.value, str) else None
            if number is None:
                raise OptionError(
                    f"the structure contains tensor {node.value!r}, which is not declared; its"
                    " nodes hold the names of tensors, as those of Checkpoint.structure() do"
                )
            node = node._replace(value=number)
        nodes.append(node)
    return nodes


def _native_specs(specs: Sequence[TensorSpec]) -> list[lib.TensorSpec]:
    indices: dict[str, int] = {}
    for number, spec in enumerate(specs):
        if indices.setdefault(spec.name, number) != number:
            raise OptionError(f"tensor {spec.name!r} is declared twice")
    native = []
    for spec in specs:
        code = dtype_code(spec.dtype) if isinstance(spec.dtype, str) else 0
        if not code:
            raise OptionError(f"tensor {spec.name!r}: {spec.dtype!r} is not a dtype of the format")
        if lib.dtype(code) is None and spec.nbytes is None:
            raise OptionError(
                f"tensor {spec.name!r}: dtype {spec.dtype!r} has no known size; set nbytes to"
                " that of the tensor from which this one is copied"
            )
        tie = None
        if spec.tied_to is not None:
            tie = indices.get(spec.tied_to)
            if tie is None:
                raise OptionError(
                    f"tensor {spec.name!r} is tied to {spec.tied_to!r}, which is not declared"
                )
        native.append(lib.TensorSpec(spec.name, _shape(spec), code, tie, _nbytes(spec)))
    return native


def _shape(spec: TensorSpec) -> tuple[int, ...]:
    try:
        shape = tuple(index(size) for size in spec.shape)
    except TypeError:
        shape = (-1,)
    if any(not 0 <= size <= DIMENSION_MAX for size in shape):
        raise OptionError(
            f"tensor {spec.name!r}: a shape must be a sequence of integers from 0 to 2^64 - 1, not"
            f" {spec.shape!r}"
        )
    return shape


def _nbytes(spec: TensorSpec) -> int:
    """The declared size; 0 if there is none."""
    if spec.nbytes is None:
        return 0
    try:
        size = index(spec.nbytes)
    except TypeError:
        size = -1
    if not 0 <= size <= DIMENSION_MAX:
        raise OptionError(
            f"tensor {spec.name!r}: nbytes must be an integer from 0 to 2^64 - 1, not"
            f" {spec.nbytes!r}"
        )
    return size


def _decoded_size(spec: lib.TensorSpec) -> int:
    info = lib.dtype(spec.dtype)
    return prod(spec.shape) * (info.unit_bits // 8) if info else spec.decoded_size
