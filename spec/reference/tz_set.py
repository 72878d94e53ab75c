"""Sets of files, version 1: a reader and a writer in plain Python, in the order of the text.

It is meant to be read beside `spec/tz-set-v1.md`. `require(..., 5, ...)` enforces [TZS1-5].

    files = tz_set.parse(data, pin="blake3:...")     # the manifest: name -> Entry
    tz_set.verify(files, folder)                     # every byte of every file
    data = tz_set.manifest_of(folder)                # the manifest of a folder
    tz_set.digest(data)                              # the set digest
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import tz_reference
from tz_hash import blake3

MANIFEST_SIZE_MAX = 256 << 20
FILES_MAX = 65_536
SIZE_MAX = (1 << 63) - 1
NAME_SIZE_MAX, COMPONENT_SIZE_MAX = 1024, 255
PART_SIZE = 1 << 20
SUFFIX = ".tz-set"


class SetError(Exception):
    """A manifest or a file breaks a rule: `error_class` as in braces, `rule` such as "TZS1-5"."""

    def __init__(self, error_class: str, rule: int, message: str) -> None:
        super().__init__(f"{error_class} [TZS1-{rule}]: {message}")
        self.error_class = error_class
        self.rule = f"TZS1-{rule}"


def require(holds: bool, error_class: str, rule: int, message: str) -> None:
    if not holds:
        raise SetError(error_class, rule, message)


class Entry(NamedTuple):
    size: int
    tz_digest: str | None  # of a .tz file
    parts: tuple[bytes, ...]  # of any other file


# 2. Which files belong to a set -------------------------------------------------------------------


def names_in(folder: Path, prefix: str = "") -> Iterator[str]:
    for path in folder.iterdir():
        name = prefix + path.name
        if path.name.startswith(".") or (path.is_file() and name.endswith(SUFFIX)):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from names_in(path, f"{name}/")
        elif path.is_file():
            yield name
        else:
            raise ValueError(f"{path} is neither a file nor a folder")


# 3. The manifest ----------------------------------------------------------------------------------

_FIRST_LINE = re.compile(rb"tz-set ([0-9]+)")
_LINE = re.compile(
    rb"(?P<size>0|[1-9][0-9]*) (?P<kind>parts|blake3):(?P<digests>(?:[0-9a-f]{64})*) (?P<name>.*)",
    re.DOTALL,
)


def parse(data: bytes, *, pin: str | None = None) -> dict[str, Entry]:
    """The files by name. SetError if the manifest is not valid, or not the pinned one."""
    require(pin in (None, digest(data)), "digest", 16, "not the manifest that the digest pins")
    require(len(data) <= MANIFEST_SIZE_MAX, "limit", 1, "too large")
    first, line_feed, rest = data.partition(b"\n")
    match = _FIRST_LINE.fullmatch(first)
    require(match is not None and bool(line_feed), "manifest", 2, "not a manifest")
    assert match is not None
    require(match[1] == b"1", "version", 3, f"version {match[1][:20]!r}")
    files: dict[str, Entry] = {}
    before = b""
    lines = rest.split(b"\n")  # of a complete manifest, the last one is empty
    for number, line in enumerate(lines, 1):
        if number == len(lines) and not line:
            break
        require(number < len(lines), "truncated", 4, "the last line has no end")
        match = _LINE.fullmatch(line)
        is_line = match is not None and (match["kind"] == b"parts" or len(match["digests"]) == 64)
        require(is_line, "manifest", 5, f"not a line: {line[:100]!r}")
        assert match is not None
        require(len(files) < FILES_MAX, "limit", 6, "too many files")
        is_size = len(match["size"]) < 20 and int(match["size"]) <= SIZE_MAX
        require(is_size, "limit", 7, "a size is too large")
        check_name(match["name"])
        entry = _entry(int(match["size"]), match["kind"], match["digests"], match["name"])
        require(match["name"] > before, "order", 10, "not sorted")
        before = match["name"]
        files[before.decode("ascii")] = entry
    require(bool(files), "manifest", 6, "no files")
    check_collisions(files)
    return files


def _entry(size: int, kind: bytes, digests: bytes, name: bytes) -> Entry:
    is_tz = name.endswith(b".tz")
    require(is_tz == (kind == b"blake3"), "manifest", 8, f"{name!r} has the wrong kind of digest")
    if is_tz:
        return Entry(size, f"blake3:{digests.decode('ascii')}", ())
    require(len(digests) == 64 * -(-size // PART_SIZE), "layout", 9, "wrong number of parts")
    data = bytes.fromhex(digests.decode("ascii"))
    return Entry(size, None, tuple(data[at : at + 32] for at in range(0, len(data), 32)))


# 4. Names -----------------------------------------------------------------------------------------

_COMPONENT = re.compile(rb"[\x20-\x7e]*")
_SPECIAL = frozenset(b'"#%*/:<>?\\|')


def check_name(name: bytes) -> None:
    components = name.split(b"/")
    sizes = [len(component) for component in components]
    is_short = len(name) <= NAME_SIZE_MAX and max(sizes) <= COMPONENT_SIZE_MAX
    require(is_short and min(sizes) > 0, "name", 11, "a name or component has a wrong length")
    for component in components:
        is_plain = _COMPONENT.fullmatch(component) and _SPECIAL.isdisjoint(component)
        require(bool(is_plain), "name", 12, f"a character in {name!r}")
    for component in components:
        is_plain = component[:1] not in (b".", b" ") and component[-1:] not in (b".", b" ")
        require(is_plain, "name", 13, f"{name!r} has a dot or space at an end")
    require(not name.endswith(SUFFIX.encode()), "name", 14, f"{name!r} is a manifest")


def check_collisions(names: Iterable[str]) -> None:
    # With NUL for the slash, a folder's files follow right after a file of the folder's name.
    keys = sorted(name.lower().replace("/", "\0") for name in names)
    for one, other in pairwise(keys):
        is_apart = one != other and not other.startswith(f"{one}\0")
        require(is_apart, "name", 15, f"two names collide: {other!r}")


# 5. Digests ---------------------------------------------------------------------------------------


def digest(manifest: bytes) -> str:
    return f"blake3:{blake3(manifest).hex()}"


def parts_of(data: bytes) -> list[bytes]:
    return [blake3(data[at : at + PART_SIZE]) for at in range(0, len(data), PART_SIZE)]


def verify_file(name: str, entry: Entry, data: bytes) -> None:
    require(len(data) == entry.size, "digest", 17, f"{name} has {len(data)} bytes")
    if entry.tz_digest is None:
        require(parts_of(data) == list(entry.parts), "digest", 18, f"{name} is another file")
        return
    try:
        tz_reference.File(data, pin=entry.tz_digest).verify()
    except tz_reference.TzError as error:
        require(error.error_class != "digest", "digest", 18, f"{name} is another file")
        raise


def verify(files: Mapping[str, Entry], folder: Path) -> None:
    """Reads all files of a set. SetError, or TzError for what is wrong inside of a tz file."""
    for name, entry in files.items():
        verify_file(name, entry, (folder / name).read_bytes())


# Writing ------------------------------------------------------------------------------------------


def encode(contents: Mapping[str, bytes]) -> bytes:
    """The manifest of files with these names and contents."""
    lines = [b"tz-set 1\n"]
    for name in sorted(contents):
        data = contents[name]
        if name.endswith(".tz"):
            digests = tz_reference.File(data).digest
        else:
            digests = "parts:" + "".join(part.hex() for part in parts_of(data))
        lines.append(f"{len(data)} {digests} {name}\n".encode())
    manifest = b"".join(lines)
    parse(manifest)  # all rules hold
    return manifest


def manifest_of(folder: Path) -> bytes:
    return encode({name: (folder / name).read_bytes() for name in names_in(folder)})
