"""Files of a set, as locations: nothing is read of them that the set's manifest does not prove."""

from __future__ import annotations

import errno
from contextlib import suppress
from dataclasses import dataclass, replace

from libtz.errors import IntegrityError, OptionError, SourceNotFoundError, SourcePermissionError
from libtz.format import parse_digest
from libtz.locations import Location
from libtz.manifest import MANIFEST_NAME, MANIFEST_SIZE_MAX, MANIFEST_SUFFIX, Manifest, SetFile
from libtz.options import ReadOptions
from libtz.sources.base import Source
from libtz.sources.parts import PartChecks

__all__ = ["SetLocation", "is_manifest", "open_manifest", "pinned_folder"]


@dataclass(frozen=True)
class SetLocation(Location):
    """The folder of a set, or a file in it. `sibling` and `folder` stay in the set, where a file
    that the manifest does not list does not exist."""

    manifest: Manifest
    is_pinned: bool  # the caller gave the digest of the set
    entry: str = ""  # the name of the file in the set; of a folder it ends with "/"

    @property
    def file(self) -> SetFile | None:
        """None for what the manifest does not list."""
        return self.manifest.files.get(self.entry)

    @property
    def set_digest(self) -> str:
        return self.manifest.digest

    def sibling(self, name: str) -> SetLocation:
        entry = f"{self.entry.rpartition('/')[0]}/{name}".removeprefix("/")
        return replace(self, text=self.scheme.sibling(self.text, name), entry=entry)

    def folder(self) -> SetLocation:
        entry = self.entry if self.entry.endswith("/") or not self.entry else f"{self.entry}/"
        return replace(self, text=self.scheme.folder(self.text), entry=entry)

    def require_size(self, size: int) -> None:
        """Raises IntegrityError if the file has another size than the manifest says."""
        if self.file is not None and size != self.file.size:
            raise IntegrityError(
                f"{self}: it has {size} bytes, and the manifest of its set says {self.file.size}",
                code="digest",
                rule="TZS1-17",
            )

    def files(self, options: ReadOptions, *, is_recursive: bool = False) -> list[str]:
        names = [
            name.removeprefix(self.entry)
            for name in self.manifest.files
            if name.startswith(self.entry)
        ]
        return [name for name in names if is_recursive or "/" not in name]

    def source(self, options: ReadOptions) -> Source:
        """A source that checks every byte, but for a .tz file, which is opened with its digest."""
        file = self.file
        if file is None:
            raise SourceNotFoundError(
                f"{self} is not part of the set: its manifest does not list the file",
                url=str(self),
                errno=errno.ENOENT,
            )
        if self.is_local and options.local == "map":
            raise OptionError(
                "a mapped file can change after it was checked, so local='map' and a set digest"
                " exclude each other; leave local='copy'"
            )
        source = super().source(options)
        return source if file.digest is not None else PartChecks(source, file)


def is_manifest(location: Location) -> bool:
    """Whether it is the manifest of a set, by its name."""
    return location.name.endswith(MANIFEST_SUFFIX)


def pinned_folder(location: Location, digest: str | None, options: ReadOptions) -> Location:
    """The folder that is named, itself or by its manifest. It is that of a set if its manifest was
    named, or if there is one to compare a digest with. IntegrityError if it is another."""
    if isinstance(location, SetLocation):
        return location
    if is_manifest(location):
        return open_manifest(location, options, digest=digest)
    if digest is not None and parse_digest(digest)[0] == "blake3":
        # Of what the caller may not list, S3 forbids what is not there.
        with suppress(SourceNotFoundError, SourcePermissionError):
            return open_manifest(location, options, digest=digest)
    return location.folder()


def open_manifest(
    location: Location, options: ReadOptions, *, digest: str | None = None
) -> SetLocation:
    """The folder of a set, from its manifest, or from the folder where that has its usual name.

    Raises IntegrityError if the manifest has not this `digest`, FormatError if it is malformed, and
    SourceNotFoundError if there is none.
    """
    if digest is not None and parse_digest(digest)[0] != "blake3":
        raise OptionError(f"{location}: a set is pinned by a digest that begins with blake3:")
    if not is_manifest(location):
        location = location.folder().sibling(MANIFEST_NAME)
    data = location.read(options, size_max=MANIFEST_SIZE_MAX)
    manifest = Manifest.parse(data, str(location), pin=digest)
    folder = location.sibling("").folder()
    return SetLocation(folder.text, folder.scheme, manifest, is_pinned=digest is not None)
