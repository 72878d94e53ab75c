"""Files of CoreWeave's Tensorizer, opened: what they have that other files have not.

Each tensor has a record header before its data, with hashes over both. They come with the data and
are checked as soon as a tensor is there (transfer/records.py). What hashes cover is always a whole
tensor in host memory: so slices are cut from whole tensors, and devices get copies of what was
checked. With `ReadOptions(verify=False)` no record header is read, slices read only what they need,
and devices are filled directly.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np

from libtz._native import lib
from libtz.arrays.base import Framework
from libtz.checkpoint.catalog import Catalog
from libtz.checkpoint.file import File
from libtz.checkpoint.loader import Loader
from libtz.checkpoint.slices import ReadItem
from libtz.errors import FormatError
from libtz.format import Verified
from libtz.sources.base import Source
from libtz.transfer.decryption import Decryption, DecryptionOptionError
from libtz.transfer.load import Wants
from libtz.transfer.records import RecordCheck, RecordNote, record_wants
from libtz.transfer.verification import ChunkChecks, Verification

__all__ = ["CoreweaveFile"]

T = TypeVar("T")

# After the last tensor's data: the size of a next record header.
END_MARK = bytes(8)


class CoreweaveFile(File[T]):
    """A file of the format "tensors"."""

    end_mark = END_MARK

    def __init__(
        self,
        framework: Framework[T],
        catalog: Catalog,
        loader: Loader,
        *,
        is_pinned: bool = False,
        sha256: bytes | None = None,
    ) -> None:
        """Called by `libtz.open`."""
        super().__init__(framework, catalog, loader, is_pinned=is_pinned, sha256=sha256)
        # Whether a SHA-256 is checked where there is a CRC-32, which finds accidents three times as
        # fast. Of encrypted tensors it always is.
        self.checks_every_hash = True
        self._key: Decryption | None = None
        self._log = _Log()

    @property
    def is_encrypted(self) -> bool:
        return bool(self._catalog.header.info.is_encrypted)

    @property
    def verified(self) -> Verified:
        """See `Checkpoint.verified`. Whether a file has hashes shows when it is loaded: "checksum"
        says that all tensors loaded so far had some, and that they were right."""
        if self._is_pinned:
            return "pinned"
        return "checksum" if self._log.has_hashes else "none"

    def module_role(self, name: str) -> Literal["parameter", "buffer", "state"]:
        """What a tensor was when it was saved: a parameter or buffer of a module, or an entry of a
        state dict."""
        flags = self.catalog.tensor(name).flags
        if flags & lib.TENSOR_PARAMETER:
            return "parameter"
        return "buffer" if flags & lib.TENSOR_BUFFER else "state"

    def is_dotted(self, name: str) -> bool:
        """Whether the file has a dot before the name, as it has for tensors that belong to the root
        module itself. libtz leaves it out, as state dicts do."""
        return bool(self.catalog.tensor(name).flags & lib.TENSOR_DOTTED)

    def note(self, name: str) -> RecordNote:
        """Of a tensor that was loaded."""
        return self._log.notes[self.catalog.index(name)]

    def verify(self) -> None:
        """See `Checkpoint.verify`. Tensors without hashes are not wrong, but then `verified` is
        "none". A tensor is in memory as a whole."""
        entries = self.catalog.entries(list(map(ReadItem, self)))
        self._loader.check(entries, self._record_checks(verify=True))

    def _verification(self) -> Verification:
        is_verified = self._loader.options.verify
        if is_verified or self.is_encrypted or self._sha256 is not None:
            return self._record_checks(verify=is_verified)
        return ChunkChecks(lib.VERIFY_NONE)

    def _record_checks(self, *, verify: bool) -> _RecordChecks:
        return _RecordChecks(
            self._catalog.header,
            self._loader.source,
            self._log,
            verify=verify,
            every_hash=self.checks_every_hash,
            decryption=self._decryption(),
        )

    def _decryption(self) -> Decryption | None:
        if not self.is_encrypted:
            return None
        options, url = self._loader.options.decryption, self._loader.source.url
        if not options.is_given:
            raise DecryptionOptionError(
                f"{url} is encrypted; give its key with ReadOptions.decryption.key_file, or its"
                " passphrase with ReadOptions.decryption.passphrase_file"
            )
        if self._key is None:  # kept, since deriving a key costs much
            self._key = Decryption(options, url)
        return self._key


@dataclass
class _Log:
    """What was found in the records of a file so far."""

    notes: dict[int, RecordNote] = field(default_factory=dict)  # by tensor
    has_hashes: bool | None = None  # unknown until something was checked


class _RecordChecks:
    """See transfer.verification.Verification."""

    level = lib.VERIFY_NONE
    covers_tensors = True
    observe = None

    def __init__(
        self,
        header: lib.Header,
        source: Source,
        log: _Log,
        *,
        verify: bool,
        every_hash: bool,
        decryption: Decryption | None,
    ) -> None:
        self._header = header
        self._source = source
        self._log = log
        self._verify = verify
        self._every_hash = every_hash
        self._decryption = decryption

    def plan(self, wants: Wants) -> tuple[Wants, RecordCheck | None]:
        indices = wants.indices.tolist()
        self._check = RecordCheck(
            self._header,
            indices,
            verify=self._verify,
            every_hash=self._every_hash,
            decryption=self._decryption,
            notes=self._log.notes,
        )
        self._count = len(indices)
        last = self._header.info.tensor_count - 1
        self._has_last = any(tensor.order == last for tensor in wants.tensors)
        tensors = [*wants.tensors, *record_wants(self._header, indices, wants.tensors)]
        both = np.concatenate([wants.indices, wants.indices])
        return Wants(tensors, both, with_records=True), self._check

    def finish(self) -> None:
        if self._verify and self._count:
            self._log.has_hashes = self._log.has_hashes is not False and self._check.has_all_hashes
        if self._has_last:
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
