"""An open .tz or .safetensors file."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Mapping, Sequence
from typing import TypeVar

from libtz._native import lib
from libtz.arrays.base import Destination, Framework
from libtz.checkpoint.base import Checkpoint
from libtz.checkpoint.catalog import Catalog, Entry
from libtz.checkpoint.loader import Loader
from libtz.checkpoint.slices import ReadItem
from libtz.errors import OptionError
from libtz.format import Verified
from libtz.memory import HostBuffer
from libtz.transfer.progress import Progress
from libtz.transfer.stats import TransferStats
from libtz.transfer.verification import ChunkChecks, Verification, WholeFileSha256
from libtz.transfer.verify import read_through, verify_file

__all__ = ["File"]

T = TypeVar("T")
U = TypeVar("U")


class File(Checkpoint[T]):
    """One file: a catalog of its header, and a loader."""

    # The bytes after the last tensor.
    end_mark = b""

    def __init__(
        self,
        framework: Framework[T],
        catalog: Catalog,
        loader: Loader,
        *,
        is_pinned: bool = False,
        sha256: bytes | None = None,
    ) -> None:
        """Called by `libtz.open`. With `sha256`, only loads of all tensors can be checked."""
        super().__init__(framework, catalog)
        self._catalog = catalog
        self._loader = loader
        self._is_pinned = is_pinned
        self._sha256 = sha256
        level = lib.VERIFY_CRC if loader.options.verify else lib.VERIFY_NONE
        self._chunk_checks = ChunkChecks(lib.VERIFY_DIGEST if is_pinned else level)

    # ---- What is in the file ----

    @property
    def contents(self) -> Catalog:
        """The contents of the header. Raises OptionError before a file pinned by `sha256:` has been
        compared with its digest."""
        if self._sha256 is not None and not self._is_pinned:
            raise self._too_large("nothing in it can be used before all of it has been loaded")
        return self._catalog

    @property
    def header_bytes(self) -> memoryview:
        """The bytes of the header. Raises OptionError as `contents` does."""
        return self._loader.front[: self.contents.header.info.header_size]

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._loader.source.size

    @property
    def verified(self) -> Verified:
        if self._is_pinned:
            return "pinned"
        has_checksums = self.format == "tz" and self._loader.options.verify
        has_checksums |= self._loader.source.is_checked
        return "checksum" if has_checksums else "none"

    @property
    def stats(self) -> TransferStats:
        return self._loader.stats

    @property
    def closed(self) -> bool:
        return self._loader.is_closed

    # ---- Loading ----

    def read_items(
        self, items: Sequence[ReadItem], into: Destination[U], *, streamed: bool
    ) -> Generator[tuple[ReadItem, U], None, None]:
        if len(items) == 1 and (tensor := self._read_small(items[0], into)):
            yield items[0], tensor[0]
            return
        entries = self._catalog.entries(items)
        yield from self._loader.read(entries, into, self._checks(entries), streamed=streamed)
        self._is_pinned |= self._sha256 is not None

    def read_item(self, item: ReadItem, into: Destination[U]) -> U:
        tensor = self._read_small(item, into)
        return super().read_item(item, into) if tensor is None else tensor[0]

    def _read_small(self, item: ReadItem, into: Destination[U]) -> tuple[U] | None:
        """The tensor, if it is small and in order."""
        entry = self._catalog.entry(item)
        if self._sha256 is not None or not self._loader.is_small(entry, into):
            return None
        return self._loader.read_small(entry, into, self._verification())

    def fill(self, buffers: Mapping[str, HostBuffer]) -> None:
        entries = self._catalog.entries(list(map(ReadItem, buffers)))
        self._loader.fill(entries, buffers, self._checks(entries))
        self._is_pinned |= self._sha256 is not None

    def _verification(self) -> Verification:
        return self._chunk_checks

    def _checks(
        self, entries: Sequence[Entry], verification: Verification | None = None
    ) -> Verification:
        """The checks of one load. They cover the whole file if it is pinned by its SHA-256."""
        verification = verification or self._verification()
        if self._sha256 is None:
            return verification
        owners = {entry.owner for entry in entries if entry.item.region is None}
        if len(owners) != len(self._catalog):
            raise self._too_large("it can only be loaded whole")
        source = self._loader.source
        return WholeFileSha256(
            self._sha256, self._loader.front, self.end_mark, verification, source.url
        )

    def _too_large(self, consequence: str) -> OptionError:
        url, size = self._loader.source.url, self._loader.source.size
        return OptionError(
            f"{url} is pinned by the SHA-256 of the whole file and, with {size} bytes, is too large"
            f" to be compared in memory first, so {consequence}; raise ReadOptions.host_memory_max"
            f" to {2 * size}, or convert the file to .tz, whose digest covers every part"
        )

    def verify(self) -> None:
        source = self._loader.source
        if self._sha256 is not None:
            self._check_all(self._verification())
            return
        if self.format != "tz" and not source.is_checked:
            if self._is_pinned:
                return  # it was compared when it was read into memory
            raise OptionError(f"{source.url}: {self.format} files have no checksums")
        progress = Progress(source.size, "verify", self._loader.options.progress)
        done = 0

        def advance(size: int) -> None:
            nonlocal done
            done += size
            progress.show(done)

        try:
            if self.format == "tz":
                verify_file(source, self._catalog.header, progress=advance)
            else:
                read_through(source, progress=advance)
        finally:
            progress.close()

    def _check_all(self, verification: Verification) -> None:
        """Reads every tensor once, and keeps none."""
        entries = self._catalog.entries(list(map(ReadItem, self._catalog)))
        entries.sort(key=lambda entry: entry.tensor.order)
        self._loader.check(entries, self._checks(entries, verification))
        self._is_pinned |= self._sha256 is not None

    def close(self) -> None:
        self._loader.close()

    def __del__(self) -> None:
        loader = getattr(self, "_loader", None)  # None if the constructor failed
        if loader is None or loader.is_closed:
            return
        try:
            if loader.source.holds_resources:
                message = f"{self!r} was not closed"
                warnings.warn(message, ResourceWarning, stacklevel=2, source=self)
        finally:
            loader.close()
