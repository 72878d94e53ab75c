"""Locations of files in a set. All data read from them is verified against the set's manifest."""

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
    """The folder of a set, or a file in it. `sibling` and `folder` also return locations in the
    set. Files that the manifest does not list do not exist."""

    manifest: Manifest
    is_pinned: bool  # the caller gave the digest of the set
    entry: str = ""  # the name in the set; the name of a subfolder ends with "/"

    @property
    def file(self) -> SetFile | None:
        """None if the manifest does not list it."""
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
        """Raises IntegrityError if the size differs from that in the manifest."""
        if self.file is not None and size != self.file.size:
            raise IntegrityError(
                f"{self} has {size} bytes, but the manifest of its set says {self.file.size}",
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
        """A source that checks every byte. For a .tz file, a plain source: the file is opened with
        its digest."""
        file = self.file
        if file is None:
            raise SourceNotFoundError(
                f"{self} is not part of the set: its manifest does not list the file",
                url=str(self),
                errno=errno.ENOENT,
            )
        if self.is_local and options.local == "map":
            raise OptionError(
                "a mapped file can change after it was checked, so ReadOptions.local cannot be"
                " 'map' together with a manifest; leave it out"
            )
        source = super().source(options)
        return source if file.digest is not None else PartChecks(source, file)


def is_manifest(location: Location) -> bool:
    """Whether the name is that of a manifest."""
    return location.name.endswith(MANIFEST_SUFFIX)


def pinned_folder(location: Location, digest: str | None, options: ReadOptions) -> Location:
    """The folder, given by itself or by its manifest. It is a `SetLocation` if the manifest was
    given, or if there is a digest and the folder has a manifest. Raises IntegrityError if the
    manifest has another digest."""
    if isinstance(location, SetLocation):
        return location
    if is_manifest(location):
        return open_manifest(location, options, digest=digest)
    if digest is not None and parse_digest(digest)[0] == "blake3":
        # Without permission to list the bucket, S3 answers 403 for missing objects.
        with suppress(SourceNotFoundError, SourcePermissionError):
            return open_manifest(location, options, digest=digest)
    return location.folder()


def open_manifest(
    location: Location, options: ReadOptions, *, digest: str | None = None
) -> SetLocation:
    """The folder of a set. `location` is the manifest, or the folder of a manifest with the usual
    name.

    Raises IntegrityError if the manifest has another digest, FormatError if it is malformed, and
    SourceNotFoundError if it does not exist.
    """
    if digest is not None and parse_digest(digest)[0] != "blake3":
        raise OptionError(f"{location}: a set is pinned by a digest that begins with blake3:")
    if not is_manifest(location):
        location = location.folder().sibling(MANIFEST_NAME)
    data = location.read(options, size_max=MANIFEST_SIZE_MAX)
    manifest = Manifest.parse(data, str(location), pin=digest)
    folder = location.sibling("").folder()
    return SetLocation(folder.text, folder.scheme, manifest, is_pinned=digest is not None)
