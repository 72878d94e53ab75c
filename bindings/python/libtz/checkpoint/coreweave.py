"""An open file of CoreWeave's Tensorizer.

Each tensor has a record header before its data, with hashes over both. It is read along with the
data and checked as soon as the tensor is complete (transfer/record_checks.py). The hashes cover a
whole tensor in host memory. So slices are cut from whole tensors, and devices get copies of tensors
that were checked. With `ReadOptions(verify=False)`, no record header is read, slices read only what
they need, and devices are filled directly.
"""

from __future__ import annotations

from typing import Literal, TypeVar

from libtz._native import lib
from libtz.arrays.base import Framework
from libtz.checkpoint.catalog import Catalog
from libtz.checkpoint.file import File
from libtz.checkpoint.loader import Loader
from libtz.errors import DecryptionOptionError
from libtz.format import Verified
from libtz.transfer.decryption import Decryption
from libtz.transfer.record_checks import END_MARK, RecordChecks, RecordLog, RecordNote
from libtz.transfer.verification import ChunkChecks, Verification

__all__ = ["CoreweaveFile"]

T = TypeVar("T")


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
        super().__init__(framework, catalog, loader, is_pinned=is_pinned, sha256=sha256)
        # Check SHA-256 even if there is a CRC-32 (the CRC is three times faster). The SHA-256 of an
        # encrypted tensor is always checked.
        self.checks_every_hash = True
        self._key: Decryption | None = None
        self._log = RecordLog()

    @property
    def is_encrypted(self) -> bool:
        return bool(self._catalog.header.info.is_encrypted)

    @property
    def verified(self) -> Verified:
        """See `Checkpoint.verified`. Only loading shows whether a file has hashes: "checksum" means
        that all tensors loaded so far had correct ones."""
        if self._is_pinned:
            return "pinned"
        return "checksum" if self._loader.source.is_checked or self._log.has_hashes else "none"

    def module_role(self, name: str) -> Literal["parameter", "buffer", "state"]:
        """Whether a tensor was saved as a parameter or buffer of a module, or as an entry of a
        state dict."""
        flags = self.contents.tensor(name).flags
        if flags & lib.TENSOR_PARAMETER:
            return "parameter"
        return "buffer" if flags & lib.TENSOR_BUFFER else "state"

    def is_dotted(self, name: str) -> bool:
        """Whether the name begins with a dot in the file, as those of the root module's own tensors
        do. libtz drops the dot, as state dicts do."""
        return bool(self.contents.tensor(name).flags & lib.TENSOR_DOTTED)

    def note(self, name: str) -> RecordNote:
        """The facts in the record header of a tensor that was loaded."""
        return self._log.notes[self.contents.index(name)]

    def verify(self) -> None:
        """See `Checkpoint.verify`. Tensors without hashes pass, but then `verified` is "none".
        Holds one whole tensor in memory at a time."""
        self._check_all(self._record_checks(verify=True))

    def _verification(self) -> Verification:
        is_verified = self._loader.options.verify
        if is_verified or self.is_encrypted or self._sha256 is not None:
            return self._record_checks(verify=is_verified)
        return ChunkChecks(lib.VERIFY_NONE)

    def _record_checks(self, *, verify: bool) -> RecordChecks:
        return RecordChecks(
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
                f"{url} is encrypted; set ReadOptions.decryption.key_file to its key, or"
                " ReadOptions.decryption.passphrase_file to its passphrase"
            )
        if self._key is None:  # kept, because deriving a key is expensive
            self._key = Decryption(options, url)
        return self._key
