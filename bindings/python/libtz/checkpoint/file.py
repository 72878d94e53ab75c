"""An open .tz or .safetensors file. Nothing is done per tensor when it is opened: names, infos and
chunk entries are looked up when they are asked for.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple

import numpy as np

from libtz._native import lib
from libtz.arrays.base import BufferFramework, Framework, default_framework, device_of, for_device
from libtz.checkpoint.selection import Names, select
from libtz.checkpoint.slices import Selection, TensorSlice, thin
from libtz.errors import Error, IntegrityError, OptionError
from libtz.format import TensorInfo, digest_text, dtype_name, parse_digest
from libtz.memory import HostBuffer
from libtz.options import ReadOptions
from libtz.sources.base import Source
from libtz.structure import NodeKind
from libtz.transfer.load import Job, Policy, Wants
from libtz.transfer.progress import Progress
from libtz.transfer.records import RecordCheck
from libtz.transfer.runs import fetch_runs
from libtz.transfer.stats import TransferStats
from libtz.transfer.upload import Upload
from libtz.transfer.verify import verify_file

__all__ = ["File"]

_FORMATS = {
    lib.FORMAT_TZ: "tz",
    lib.FORMAT_SAFETENSORS: "safetensors",
    lib.FORMAT_COREWEAVE: "tensors",
}


class _Pick(NamedTuple):
    """A tensor that is asked for, and the one whose data it has: itself unless tied."""

    name: str
    entry: lib.Tensor
    owner: int


class _Owners:
    """Tensors with data of their own, each once, as the wants of a plan."""

    def __init__(self, entries: dict[int, lib.Tensor]) -> None:
        self.entries = entries  # by index in the tensor table
        self.position = {owner: want for want, owner in enumerate(entries)}

    @property
    def stored_size(self) -> int:
        return sum(entry.stored_size for entry in self.entries.values())

    def whole(self) -> Wants:
        return Wants(list(self.entries.values()), np.array(list(self.entries), np.uint32))


class File(Mapping[str, Any]):
    """An open file: a mapping from names to tensors, in the writer's order. Each lookup loads.

    Tensors are PyTorch's where PyTorch is installed and NumPy's elsewhere; `libtz.numpy` and
    `load_with` give the choice. Any thread may load, several at once too. After an error in the
    middle of a load the file is closed. A process forked while no load runs may use it too, over
    connections of its own.
    """

    _sha256: bytes | None = None  # of the whole file, which can then only be loaded whole

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __init__(
        self,
        source: Source,
        header: lib.Header,
        front: memoryview,
        options: ReadOptions,
        digest: str | None,
    ) -> None:
        """Called by `libtz.open`."""
        self._source = source
        self._header = header
        self._front = front
        self._options = options
        self._is_pinned = False
        if digest is not None:
            algorithm, pin = parse_digest(digest)
            self._is_pinned = algorithm == "blake3"
            self._sha256 = None if self._is_pinned else pin
        self._names: tuple[str, ...] | None = None
        self._stats = TransferStats()
        self._is_closed = False
        self._planning = threading.Lock()  # the header changes when chunk entries are put

    # ---- What is in the file ----

    @property
    def format(self) -> str:
        """ "tz", "safetensors" or "tensors"."""
        return _FORMATS[self._header.info.format]

    @property
    def digest(self) -> str | None:
        """The file digest, "blake3:…", by which the file can be pinned; None in other formats."""
        if self._header.info.format != lib.FORMAT_TZ:
            return None
        return digest_text(self._header.info.file_digest)

    @property
    def content_digest(self) -> str | None:
        """BLAKE3 over names, types, shapes and content; the same however the file is compressed."""
        digest = self._header.content_digest()
        return None if digest is None else digest_text(digest)

    @property
    def verified(self) -> str:
        """What loaded tensors are checked against: "pinned" digest, "checksum", or "none"."""
        if self._is_pinned:
            return "pinned"
        if self._options.verify and self._header.info.format == lib.FORMAT_TZ:
            return "checksum"
        return "none"

    @property
    def metadata(self) -> Mapping[str, str]:
        count = self._header.info.metadata_count
        return MappingProxyType(dict(self._header.pair(index) for index in range(count)))

    @property
    def stats(self) -> TransferStats:
        """What the last load did."""
        return self._stats

    def structure(self) -> list[lib.Node]:
        """The nodes of a nested object in preorder, tensors by name; none for a flat set."""
        nodes = []
        for node in map(self._header.node, range(self._header.info.node_count)):
            is_tensor = node.kind == NodeKind.TENSOR
            value = self._header.name(node.value) if is_tensor else node.value
            nodes.append(lib.Node(NodeKind(node.kind), node.key, value))
        return nodes

    def __len__(self) -> int:
        return self._header.info.tensor_count

    def __iter__(self) -> Iterator[str]:
        if self._names is None:
            self._names = tuple(map(self._header.name, self._header.order().tolist()))
        return iter(self._names)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._header.find(name) is not None

    def __repr__(self) -> str:
        return f"<libtz.File {self._source.url}: {self.format}, {len(self)} tensors>"

    def info(self, name: str) -> TensorInfo:
        """Raises KeyError when there is no tensor of that name."""
        entry = self._header.tensor(self._index(name))
        digest = entry.content_digest
        return TensorInfo(
            name=entry.name,
            dtype=dtype_name(entry.dtype),
            shape=entry.shape,
            nbytes=entry.decoded_size,
            stored_nbytes=entry.stored_size,
            content_digest=None if digest is None else digest_text(digest),
            tied_to=None if entry.tie is None else self._header.name(entry.tie),
        )

    # ---- Loading ----

    def __getitem__(self, name: str) -> Any:
        return self.load([name])[name]

    def load(self, names: Names = None, device: Any = "cpu") -> dict[str, Any]:
        """Tensors by name. `names` are those to load, in this order; or a function that says of a
        name whether it is wanted, such as `libtz.prefix("encoder.")`; by default all. These two
        give the writer's order.

        Tied tensors come as one object under all their names. Nothing is returned before everything
        was checked.
        """
        framework, upload, move_to = self._for_device(device)
        tensors = self._load(names, framework, upload)
        if move_to is not None:
            moved = {id(tensor): tensor.to(move_to) for tensor in tensors.values()}
            tensors = {name: moved[id(tensor)] for name, tensor in tensors.items()}
        return tensors

    def load_with(self, framework: Framework, names: Names = None) -> dict[str, Any]:
        """As `load`, with tensors of the framework's kind in host memory."""
        return self._load(names, framework, None)

    def load_into(self, blocks: Mapping[str, HostBuffer]) -> None:
        """Loads tensors into memory of the caller's, of exactly their size, none of it twice.

        After an error the memory of the tensors in its `changed` holds anything.
        """
        picks = self._picks(blocks)
        wants = self._wants(picks)
        existing: list[HostBuffer | None] = [None] * len(wants.entries)
        for pick in picks:
            block = blocks[pick.name]
            want = wants.position[pick.owner]
            if block.size != pick.entry.decoded_size or existing[want] is not None:
                raise OptionError(
                    f"tensor {pick.name!r} needs memory of {pick.entry.decoded_size} bytes, once"
                    " for all that are tied to it"
                )
            existing[want] = block
        job: Job | None = None
        try:
            with self._job(wants.whole(), existing=existing) as job:
                job.wait_all()
        except Error as error:
            if job is not None:
                begun = job.begun()
                changed = [pick.name for pick in picks if wants.position[pick.owner] in begun]
                error.changed = tuple(changed)
            raise

    def iter_tensors(self, names: Names = None, device: Any = "cpu") -> Iterator[tuple[str, Any]]:
        """Name and tensor, one by one in file order, each owning its memory. `names` as in `load`.

        The next ones are read meanwhile, in at most `host_memory_max` bytes beyond those that were
        handed out; a tensor larger than that is read when it is its turn. Whoever leaves before the
        end may go on with the file, unless the server has stalled: after five seconds it is closed.
        """
        framework, upload, move_to = self._for_device(device)
        for name, tensor in self._iterate(names, framework, upload):
            yield name, tensor if move_to is None else tensor.to(move_to)

    def iter_buffers(self, names: Names = None) -> Iterator[tuple[str, memoryview]]:
        """As `iter_tensors`, with the bytes of each tensor: for types that no library has."""
        return self._iterate(names, BufferFramework(), None)

    def get_slice(self, name: str, device: Any = "cpu") -> TensorSlice:
        """A tensor to be indexed like one of PyTorch's: `f.get_slice(name)[:, 128:256]` reads only
        the chunks that it needs. Of a device, the part is put together in host memory first."""
        place = device_of(device)
        return TensorSlice(self.info(name), lambda part: self._load_slices([part], place)[0])

    def load_slices(self, slices: Iterable[tuple[str, Any]], device: Any = "cpu") -> list[Any]:
        """As `[f.get_slice(name, device)[index] for name, index in slices]`, in one plan: every
        chunk is read once, in the order of the file, whatever needs it. Each tensor owns its
        memory. For a device, all are in host memory before the first is copied there: parts of rows
        are too small to be copied one by one."""
        parts = [Selection.of(self.info(name), index) for name, index in slices]
        return self._load_slices(parts, device_of(device))

    def verify(self) -> None:
        """Reads the whole file once and raises what is wrong with it, without loading it: both
        checksums of every chunk, the content of every tensor, and that nothing else is in it."""
        if self._header.info.format != lib.FORMAT_TZ:
            raise OptionError(f"{self._source.url}: {self.format} files have no checksums")
        progress = Progress(self._source.size, "verify", self._options.progress)
        done = 0

        def advance(size: int) -> None:
            nonlocal done
            done += size
            progress.show(done)

        try:
            verify_file(self._source, self._header, progress=advance)
        finally:
            progress.close()

    def close(self) -> None:
        """Loads of other threads end with an error. Tensors stay. Idempotent."""
        self._is_closed = True
        self._source.close()

    def __enter__(self) -> File:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # ---- How loading is done ----

    def _index(self, name: str) -> int:
        index = self._header.find(name)
        if index is None:
            raise KeyError(name)
        return index

    def _picks(self, names: Names) -> list[_Pick]:
        if names is None:
            indices: list[int] = self._header.order().tolist()
        else:
            indices = [self._index(name) for name in select(names, self)]
        return [
            _Pick(entry.name, entry, index if entry.tie is None else entry.tie)
            for index, entry in zip(indices, self._header.tensors(indices), strict=True)
        ]

    def _wants(self, picks: Sequence[_Pick]) -> _Owners:
        entries: dict[int, lib.Tensor] = {}
        for pick in picks:
            if pick.owner not in entries:
                is_owner = pick.entry.tie is None
                entries[pick.owner] = pick.entry if is_owner else self._header.tensor(pick.owner)
        return _Owners(entries)

    def _load(self, names: Names, framework: Framework, upload: Upload | None) -> dict[str, Any]:
        picks = self._picks(names)
        for pick in picks:
            framework.require(dtype_name(pick.entry.dtype), pick.name)
        wants = self._wants(picks)
        observer = self._observer(wants)
        observe = None if observer is None else observer.update
        with self._job(wants.whole(), upload=upload, observe=observe) as job:
            job.wait_all()
            if observer is not None and observer.digest() != self._sha256:
                raise IntegrityError(f"{self._source.url} is not the file that the digest pins")
            tensors = [
                self._made(job, want, framework, entry)
                for want, entry in enumerate(wants.entries.values())
            ]
        self._is_pinned |= observer is not None
        return {pick.name: tensors[wants.position[pick.owner]] for pick in picks}

    def _observer(self, wants: _Owners) -> Any:
        """For a file pinned by SHA-256: what its bytes, in order, are hashed with."""
        if self._sha256 is None:
            return None
        if not self._is_all(wants):
            raise OptionError(
                f"{self._source.url} is pinned by the SHA-256 of all of it, so it can only be"
                " loaded whole"
            )
        return hashlib.sha256(self._front)

    def _is_all(self, wants: _Owners) -> bool:
        return wants.stored_size + self._header.info.header_size == self._source.size

    def _iterate(
        self, names: Names, framework: Framework, upload: Upload | None
    ) -> Iterator[tuple[str, Any]]:
        picks = self._picks(names)
        order = {pick.owner: pick.entry.order for pick in picks if pick.entry.tie is None}
        for pick in picks:
            framework.require(dtype_name(pick.entry.dtype), pick.name)
            if pick.owner not in order:
                order[pick.owner] = self._header.tensor(pick.owner).order
        picks.sort(key=lambda pick: (order[pick.owner], pick.entry.order))
        wants = self._wants(picks)
        if self._sha256 is not None:
            raise self._only_whole()
        last: tuple[int, Any] = (-1, None)
        with self._job(wants.whole(), upload=upload, is_streamed=True) as job:
            for pick in picks:
                want = wants.position[pick.owner]
                if want != last[0]:
                    last = (-1, None)  # before the next one is waited for
                    job.wait(want)
                    last = (want, self._made(job, want, framework, wants.entries[pick.owner]))
                    job.release(want)
                yield pick.name, last[1]

    def _load_slices(self, parts: Sequence[Selection], place: Any) -> list[Any]:
        tensors = self._load_parts(parts)
        if place is not None:
            for number, tensor in enumerate(tensors):
                tensors[number] = tensor.to(place)
        return tensors

    def _load_parts(self, parts: Sequence[Selection]) -> list[Any]:
        framework = default_framework()
        entries = []
        indices = []
        for part in parts:
            framework.require(part.info.dtype, part.info.name)
            entry = self._header.tensor(self._index(part.info.name))
            owner = self._index(part.info.name) if entry.tie is None else entry.tie
            indices.append(owner)
            entries.append(entry if entry.tie is None else self._header.tensor(owner))
        if self._sha256 is not None:
            raise self._only_whole()
        wants = Wants(entries, np.array(indices, np.uint32), [part.box for part in parts])
        with self._job(wants) as job:
            job.wait_all()
            placed = [job.placed(want) for want in range(len(parts))]
        tensors = []
        for part, (block, position) in zip(parts, placed, strict=True):
            # Scalars are always wanted whole, and so share one place.
            if block is not None and (part.is_thinned or not part.info.shape):
                block, position = thin(block, position, part), 0
            tensors.append(framework.make(block, position, part.info.dtype, part.shape))
        return tensors

    @contextmanager
    def _job(
        self,
        wants: Wants,
        *,
        upload: Upload | None = None,
        is_streamed: bool = False,
        observe: Any = None,
        existing: Sequence[HostBuffer | None] | None = None,
    ) -> Iterator[Job]:
        if self._is_closed:
            raise OptionError(f"{self._source.url} is closed")
        flat, check = self._planned(wants)
        policy = Policy(
            options=self._options,
            verify=self._verify_level(),
            is_streamed=is_streamed,
            observe=observe,
            upload=upload,
            existing=existing,
            check=check,
        )
        with self._planning:
            # np.unique imports numpy.ma at its first call, which takes 6 ms.
            owners = np.flatnonzero(np.bincount(flat.indices)).astype(np.uint32)
            read = fetch_runs(self._source, self._header, owners, self._front)
            job = Job(self._source, self._header, flat, policy)
        try:
            with job:
                yield job
        except GeneratorExit:
            raise
        except BaseException:
            self.close()
            raise
        finally:
            self._stats = job.stats(read)

    def _only_whole(self) -> OptionError:
        return OptionError(f"{self._source.url} is pinned by SHA-256; only load() can check that")

    def _verify_level(self) -> int:
        if self._is_pinned:
            return lib.VERIFY_DIGEST
        return lib.VERIFY_CRC if self._options.verify else lib.VERIFY_NONE

    def _made(self, job: Job, want: int, framework: Framework, entry: lib.Tensor) -> Any:
        """The tensor of a want that is complete."""
        if job.is_on_device:
            return job.device_tensor(want)
        block, position = job.placed(want)
        return framework.make(block, position, dtype_name(entry.dtype), entry.shape)

    def _for_device(self, device: Any) -> tuple[Framework, Upload | None, Any]:
        return for_device(device)

    def _planned(self, wants: Wants) -> tuple[Wants, RecordCheck | None]:
        return wants, None
