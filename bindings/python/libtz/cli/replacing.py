"""The notice of `tz convert` before it replaces its source, or a file in the source's folder."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from libtz.checkpoint.shard_index import INDEX_SUFFIX
from libtz.locations import Location
from libtz.manifest import MANIFEST_SUFFIX

__all__ = ["replacing_text"]


def replacing_text(source: Location, target: Location) -> str | None:
    """What happens to the files of the source when the target is written; None if nothing does."""
    if source.is_local and target.is_local:
        return _local_text(Path(source.text), Path(target.text))
    if source.is_local or target.is_local or _object(source) != _object(target):
        return None
    return (
        f"{target} is the source: it is replaced when the upload is complete, before the result can"
        " be compared with the source; if they differ, the old object is kept only if the bucket"
        " has versioning"
    )


def _object(location: Location) -> tuple[str, str, str]:
    """The object without the query, which selects a version or signs the URL."""
    parts = urlsplit(location.text)
    return parts.scheme, parts.netloc, parts.path


def _local_text(source: Path, target: Path) -> str | None:
    is_named_in_folder = source.name.endswith((INDEX_SUFFIX, MANIFEST_SUFFIX))
    try:
        if is_named_in_folder or source.is_dir():
            folder = source.parent if is_named_in_folder else source
            if not folder.samefile(target.parent):
                return None
            if not target.exists():
                return f"{target} is in the folder of the source, which will hold both"
            is_what = "in the folder of the source"
        elif target.samefile(source):
            is_what = "the source"
        else:
            return None
        if target.is_symlink():
            what = "the link, not the file that it points to"
        elif target.stat().st_nlink > 1:
            what = "it, and other hard links keep the old file"
        else:
            what = "it"
    except OSError:  # reading or writing reports it
        return None
    return (
        f"{target} is {is_what}: after a comparison with the source, the new file replaces {what}"
    )
