"""Files of CoreWeave's Tensorizer, opened: what they have that other files have not.

Each tensor has a record header before its data, with hashes over both. They come with the data and
are checked as soon as a tensor is there (transfer/records.py). What hashes cover is always a whole
tensor in host memory: so slices are cut from whole tensors, and devices get copies of what was
checked. With `ReadOptions(verify=False)` no record header is read, slices read only what they need,
and devices are filled directly.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from libtz._native import lib
from libtz.arrays.base import Framework, default_framework
from libtz.checkpoint.file import File
from libtz.checkpoint.selection import Names
from libtz.checkpoint.slices import Selection
from libtz.errors import FormatError, OptionError
from libtz.format import TensorInfo, dtype_name, item_size
from libtz.memory import HostBuffer, allocate
from libtz.transfer.decryption import Decryption, DecryptionOptionError
from libtz.transfer.load import Job, Wants
from libtz.transfer.records import RecordCheck, RecordNote, record_wants
from libtz.transfer.upload import Upload

__all__ = ["CoreweaveFile"]

# After the last tensor's data: the size of a next record header.
END_MARK = bytes(8)


class CoreweaveFile(File):
    """A `File` of the format "tensors"."""

    def __init__(self, *arguments: Any) -> None:
        """Called by `libtz.open`."""
        super().__init__(*arguments)
        # Whether a SHA-256 is checked where there is a CRC-32, which finds accidents three times as
        # fast. Of encrypted tensors it always is.
        self.checks_every_hash = True
        self._has_hashes: bool | None = None  # unknown until something was loaded
        self._key: Decryption | None = None
        self._notes: dict[int, RecordNote] = {}  # of tensors that were

    @property
    def is_encrypted(self) -> bool:
        return bool(self._header.info.is_encrypted)

    @property
    def verified(self) -> str:
        """See `File.verified`. Whether a file has hashes shows when it is loaded: "checksum" says
        that all tensors loaded so far had some, and that they were right."""
        if self._is_pinned:
            return "pinned"
        return "checksum" if self._has_hashes else "none"

    def info(self, name: str) -> TensorInfo:
        entry = self._header.tensor(self._index(name))
        return dataclasses.replace(super().info(name), nbytes=_memory_size(entry))

    def kind(self, name: str) -> str:
        """What a tensor was when it was saved: "parameter" or "buffer" of a module, or "state"."""
        flags = self._header.tensor(self._index(name)).flags
        if flags & lib.TENSOR_PARAMETER:
            return "parameter"
        return "buffer" if flags & lib.TENSOR_BUFFER else "state"

    def is_dotted(self, name: str) -> bool:
        """Whether the file has a dot before the name, as it has for tensors that belong to the root
        module itself. libtz leaves it out, as state dicts do."""
        return bool(self._header.tensor(self._index(name)).flags & lib.TENSOR_DOTTED)

    def note(self, name: str) -> RecordNote:
        """Of a tensor that was loaded."""
        return self._notes[self._index(name)]

    # ---- Loading ----

    def load(self, names: Names = None, device: Any = "cpu") -> dict[str, Any]:
        _, _, move_to = self._for_device(device)
        if move_to is None or self._sha256 is not None:
            return super().load(names, device)
        # One by one, since host memory need not hold all of it.
        wanted = [pick.name for pick in self._picks(names)]
        tensors = dict(self.iter_tensors(wanted, device))
        return {name: tensors[name] for name in wanted}

    def load_into(self, blocks: Mapping[str, HostBuffer]) -> None:
        entries = {pick.name: pick.entry for pick in self._picks(blocks)}
        without = {name for name, entry in entries.items() if entry.flags & lib.TENSOR_META}
        for name in without:
            if blocks[name].size != _memory_size(entries[name]):
                raise OptionError(f"tensor {name!r} needs {_memory_size(entries[name])} bytes")
        super().load_into({name: block for name, block in blocks.items() if name not in without})
        for name in without:
            np.frombuffer(blocks[name].view(), np.uint8)[:] = 0

    def verify(self) -> None:
        """Reads the whole file once and raises what is wrong with it. Tensors without hashes are
        not wrong, but then `verified` is "none". A tensor is in memory as a whole."""
        if not self._options.verify:
            options = dataclasses.replace(self._options, verify=True)
            strict = CoreweaveFile(self._source, self._header, self._front, options, None)
            strict.verify()
            self._has_hashes = strict._has_hashes
            return
        wants = self._wants(super()._picks(None))
        with self._job(wants.whole(), is_streamed=True) as job:
            for want in range(len(wants.entries)):
                job.wait(want)
                job.release(want)

    # ---- How loading is done ----

    @property
    def _reads_records(self) -> bool:
        return self._options.verify or self.is_encrypted or self._sha256 is not None

    def _for_device(self, device: Any) -> tuple[Framework, Upload | None, Any]:
        framework, upload, move_to = super()._for_device(device)
        if upload is None or not self._reads_records:
            return framework, upload, move_to
        import torch

        return framework, None, torch.device(device)

    def _picks(self, names: Names) -> list[Any]:
        picks = super()._picks(names)
        size = sum(_memory_size(p.entry) for p in picks if p.entry.flags & lib.TENSOR_META)
        if size > self._options.meta_size_max:
            raise OptionError(
                f"{self._source.url}: tensors of {size} bytes in all have a shape but no values;"
                " zeros in their place are more than ReadOptions.meta_size_max allows"
            )
        return picks

    def _planned(self, wants: Wants) -> tuple[Wants, RecordCheck | None]:
        if wants.boxes is not None or not self._reads_records:
            return wants, None
        indices = wants.indices.tolist()
        tensors = [*wants.tensors, *record_wants(self._header, indices, wants.tensors)]
        check = RecordCheck(
            self._header,
            indices,
            verify=self._options.verify,
            every_hash=self.checks_every_hash,
            decryption=self._decryption(),
            notes=self._notes,
        )
        both = np.concatenate([wants.indices, wants.indices])
        return Wants(tensors, both, with_records=True), check

    def _decryption(self) -> Decryption | None:
        if not self.is_encrypted:
            return None
        if not self._options.decryption.is_given:
            raise DecryptionOptionError(
                f"{self._source.url} is encrypted; ReadOptions.decryption takes its key"
            )
        if self._key is None:  # kept, since deriving a key costs much
            self._key = Decryption(self._options.decryption, self._source.url)
        return self._key

    @contextmanager
    def _job(self, wants: Wants, **how: Any) -> Iterator[Job]:
        with super()._job(wants, **how) as job:
            yield job
            check = job.check
            if check is not None and self._options.verify and wants.tensors:
                self._has_hashes = self._has_hashes is not False and check.has_all_hashes
            if any(entry.order == len(self) - 1 for entry in wants.tensors):
                self._check_end()

    def _check_end(self) -> None:
        offset = self._source.size - len(END_MARK)
        mark = bytearray(len(END_MARK))
        self._source.read_into(offset, len(mark), [memoryview(mark)])
        if mark != END_MARK:
            raise FormatError(
                f"{self._source.url}, byte {offset}: more follows the last tensor that the index"
                " names (trailing)",
                code="trailing",
                offset=offset,
            )

    def _is_all(self, wants: Any) -> bool:
        return len(wants.entries) == len(self)

    def _observer(self, wants: Any) -> Any:
        state = super()._observer(wants)
        return None if state is None else _WholeFile(state)

    def _load_parts(self, parts: Sequence[Selection]) -> list[Any]:
        picks = {pick.name: pick for pick in self._picks([part.info.name for part in parts])}
        is_meta = any(pick.entry.flags & lib.TENSOR_META for pick in picks.values())
        if not self._reads_records and not is_meta:
            return super()._load_parts(parts)
        framework = default_framework()
        for part in parts:
            framework.require(part.info.dtype, part.info.name)
        tensors: list[Any] = [None] * len(parts)
        for name, data in self.iter_buffers(picks):
            for place, part in enumerate(parts):
                if part.info.name == name:
                    tensors[place] = _cut(data, part, framework)
        return tensors

    def _made(self, job: Job, want: int, framework: Framework, entry: lib.Tensor) -> Any:
        if not entry.flags & lib.TENSOR_META:
            return super()._made(job, want, framework, entry)
        return framework.make(
            allocate(_memory_size(entry)), 0, dtype_name(entry.dtype), entry.shape
        )


class _WholeFile:
    """SHA-256 of all bytes of the file: what no plan reads is known."""

    def __init__(self, state: Any) -> None:
        self._state = state
        self.update = state.update

    def digest(self) -> bytes:
        self._state.update(END_MARK)
        digest: bytes = self._state.digest()
        return digest


def _memory_size(entry: lib.Tensor) -> int:
    if not entry.flags & lib.TENSOR_META:
        return entry.decoded_size
    return math.prod(entry.shape) * item_size(dtype_name(entry.dtype))


def _cut(data: memoryview, part: Selection, framework: Framework) -> Any:
    """A slice of a whole tensor."""
    dtype = part.info.dtype
    if math.prod(part.shape) == 0:
        return framework.make(None, 0, dtype, part.shape)
    units = np.frombuffer(data, np.uint8).reshape(*part.info.shape, item_size(dtype))
    every = tuple(slice(*bounds) for bounds in zip(*part.box, part.steps, strict=True))
    owner = np.array(units[every], order="C").reshape(-1)
    return framework.make(
        HostBuffer(owner, 0, owner.nbytes, lib.address(owner)), 0, dtype, part.shape
    )
