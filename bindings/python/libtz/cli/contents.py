"""Content digests of the tensors of a checkpoint, for `tz convert` and `tz diff`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from libtz._native import lib
from libtz.checkpoint.base import Checkpoint
from libtz.errors import IntegrityError
from libtz.format import TensorInfo, digest_text

__all__ = ["SourceContents", "computed_digests"]

EMPTY = digest_text(lib.blake3(b""))


def computed_digests(file: Checkpoint[Any], names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Names and content digests, computed from the tensors. Reads one tensor at a time."""
    before: tuple[memoryview | None, str] = (None, "")
    for name, data in file.iter_buffers(names):
        if data is not before[0]:  # tied tensors are one object
            before = data, digest_text(lib.blake3(data))
        yield name, before[1]


class SourceContents:
    """The source of a conversion. It remembers the digest of every tensor that is read, so that the
    result can be compared with the source rather than with itself."""

    def __init__(self, file: Checkpoint[Any]) -> None:
        self.file = file
        self.infos: dict[str, TensorInfo] = {name: file.info(name) for name in file.storage_order()}
        # By the name of the tensor that holds the data. Digests in the header take precedence over
        # digests of the bytes read: they date from when the file was written.
        self._digests: dict[str, str] = {}
        for info in self.infos.values():
            if info.content_digest is not None:
                self._digests[info.tied_to or info.name] = info.content_digest
            elif not info.nbytes:  # a writer may never read empty tensors
                self._digests[info.name] = EMPTY

    def iter_buffers(self, names: Iterable[str]) -> Iterator[tuple[str, memoryview]]:
        """As `Checkpoint.iter_buffers`, but in the order of `names`, which may take several passes;
        remembers the digest of each tensor."""
        for run in self._runs(names):
            for name, data in self.file.iter_buffers(run):
                owner = self.infos[name].tied_to or name
                if owner not in self._digests:
                    self._digests[owner] = digest_text(lib.blake3(data))
                yield name, data

    def _runs(self, names: Iterable[str]) -> Iterator[list[str]]:
        """Splits the names where they go back in the file, which is read in its own order."""
        positions = {name: position for position, name in enumerate(self.infos)}
        run: list[str] = []
        before = -1
        for name in names:
            position = positions[self.infos[name].tied_to or name]
            if position < before:
                yield run
                run = []
            run.append(name)
            before = position
        if run:
            yield run

    def compare(self, written: Checkpoint[Any], target: str) -> None:
        """Raises IntegrityError unless `written` holds the same tensors under the same names."""

        def differs(name: str, what: str) -> IntegrityError:
            return IntegrityError(
                f"{target}: tensor {name!r} {what}",
                code="content",
                tensor=name,
            )

        for name in written:
            if name not in self.infos:
                raise differs(name, "is not in the source")
        for name, before in self.infos.items():
            if name not in written:
                raise differs(name, "is missing")
            after = written.info(name)
            if (after.dtype, after.shape) != (before.dtype, before.shape):
                raise differs(name, "has a different type or shape than in the source")
        for name, digest in computed_digests(written, self.infos):
            if digest != self._digests[self.infos[name].tied_to or name]:
                raise differs(name, "has different values than in the source")

    def report(self) -> dict[str, int]:
        """The number of tensors, and their total size in bytes."""
        size = sum(info.nbytes for info in self.infos.values() if info.tied_to is None)
        return {"tensors": len(self.infos), "bytes": size}
