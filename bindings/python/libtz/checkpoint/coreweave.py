"""Files of CoreWeave's Tensorizer, opened: what they have that other files have not.

Each tensor has a record header before its data, with hashes over both. They come with the data and
are checked as soon as a tensor is there (transfer/record_checks.py). What hashes cover is always a
whole tensor in host memory: so slices are cut from whole tensors, and devices get copies of what
was checked. With `ReadOptions(verify=False)` no record header is read, slices read only what they
need, and devices are filled directly.
"""

from __future__ import annotations

from typing import Literal, TypeVar

from libtz._native import lib
from libtz.checkpoint.file import File
from libtz.format import Verified
from libtz.transfer.decryption import Decryption, DecryptionOptionError
from libtz.transfer.record_checks import END_MARK, RecordChecks, RecordLog, RecordNote
from libtz.transfer.verification import ChunkChecks, Verification

__all__ = ["CoreweaveFile"]

T = TypeVar("T")


class CoreweaveFile(File[T]):
    """A file of the format "tensors"."""

    end_mark = END_MARK

    def _prepare(self) -> None:
        # Whether a SHA-256 is checked where there is a CRC-32, which finds accidents three times as
        # fast. Of encrypted tensors it always is.
        self.checks_every_hash = True
        self._key: Decryption | None = None
        self._log = RecordLog()

    @property
    def is_encrypted(self) -> bool:
        return bool(self._catalog.header.info.is_encrypted)

    @property
    def verified(self) -> Verified:
        """See `Checkpoint.verified`. Whether a file has hashes shows when it is loaded: "checksum"
        says that all tensors loaded so far had some, and that they were right."""
        if self._is_pinned:
            return "pinned"
        return "checksum" if self._loader.source.is_checked or self._log.has_hashes else "none"

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
                f"{url} is encrypted; give its key with ReadOptions.decryption.key_file, or its"
                " passphrase with ReadOptions.decryption.passphrase_file"
            )
        if self._key is None:  # kept, since deriving a key costs much
            self._key = Decryption(options, url)
        return self._key
