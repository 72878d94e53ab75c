"""Manifests of sets: a model's files with their digests, as defined in spec/tz-set-v1.md."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from libtz._native import lib
from libtz.errors import ErrorCode, FormatError, IntegrityError
from libtz.format import digest_text

__all__ = [
    "FILES_MAX",
    "MANIFEST_NAME",
    "MANIFEST_SIZE_MAX",
    "MANIFEST_SUFFIX",
    "PART_SIZE",
    "Manifest",
    "SetFile",
    "belongs",
    "encode",
    "is_hidden",
    "name_problem",
]

MANIFEST_NAME = "model.tz-set"
MANIFEST_SUFFIX = ".tz-set"

# Limits of the specification.
MANIFEST_SIZE_MAX = 256 << 20
FILES_MAX = 65_536
PART_SIZE = 1 << 20
NAME_SIZE_MAX = 1024
COMPONENT_SIZE_MAX = 255
SIZE_MAX = (1 << 63) - 1

HASH_SIZE = 32
LINE_SHOWN_MAX = 80

_FIRST_LINE = re.compile(rb"tz-set ([0-9]+)")
_LINE = re.compile(
    rb"(0|[1-9][0-9]*) (?:parts:((?:[0-9a-f]{64})*)|blake3:([0-9a-f]{64})) (.*)", re.DOTALL
)
_COMPONENT = re.compile(r'[^"#%*/:<>?\\|]*')


@dataclass(frozen=True)
class SetFile:
    """A file of a set. A .tz file has a `digest`, "blake3:…". Any other has `parts`: the BLAKE3 of
    each `PART_SIZE` bytes, concatenated."""

    name: str  # relative to the folder, with "/"
    size: int
    digest: str | None = None
    parts: bytes = b""


@dataclass(frozen=True)
class Manifest:
    """The files of a set."""

    files: Mapping[str, SetFile]
    digest: str  # of the set: "blake3:…"

    @staticmethod
    def parse(data: bytes, where: str, *, pin: str | None = None) -> Manifest:
        """Raises IntegrityError, before anything is parsed, if the digest is not `pin`, and
        FormatError if the manifest is invalid. `where` is its name in messages."""
        digest = digest_text(lib.blake3(data))
        if pin is not None and pin != digest:
            error = IntegrityError.wrong_pin(where, pin, digest)
            error.message += (
                "; a folder is pinned by its set digest, which `tz digest --set` prints, not by the"
                " digest of a file in it"
            )
            error.rule = "TZS1-16"
            raise error
        if len(data) > MANIFEST_SIZE_MAX:
            raise _broken(where, 1, f"it has more than {MANIFEST_SIZE_MAX} bytes", 0, code="limit")
        files = {file.name: file for file in _Parser(data, where).files()}
        if not files:
            raise _broken(where, 6, "it lists no files", len(data), code="manifest")
        if (pair := _collision(files)) is not None:
            raise _broken(where, 15, f"two names collide: {pair}", None, code="name")
        return Manifest(files, digest)


class _Parser:
    def __init__(self, data: bytes, where: str) -> None:
        self._data = data
        self._where = where
        self._begin = 0  # of the line

    def files(self) -> Iterator[SetFile]:
        self._check_first_line()
        before, count = "", 0
        while self._begin < len(self._data):
            end = self._data.find(b"\n", self._begin)
            if end < 0:
                raise self._broken(4, "it ends in the middle of a line", code="truncated")
            match = _LINE.fullmatch(self._data, self._begin, end)
            if match is None:
                shown = self._data[self._begin : min(end, self._begin + LINE_SHOWN_MAX)]
                raise self._broken(5, f"{shown!r} is not a line of a manifest", code="manifest")
            count += 1
            if count > FILES_MAX:
                raise self._broken(6, f"it lists more than {FILES_MAX} files", code="limit")
            file = self._file(match)
            if file.name <= before:
                raise self._broken(10, f"{file.name!r} is out of order", code="order")
            yield file
            before = file.name
            self._begin = end + 1

    def _check_first_line(self) -> None:
        end = self._data.find(b"\n")
        match = _FIRST_LINE.fullmatch(self._data, 0, max(end, 0))
        if match is None:
            raise self._broken(2, "it is not the manifest of a set", code="manifest")
        if match[1] != b"1":
            version = match[1][:20].decode("ascii")
            raise self._broken(3, f"it has version {version}; this libtz reads 1", code="version")
        self._begin = end + 1

    def _file(self, match: re.Match[bytes]) -> SetFile:
        digits, parts, digest, raw_name = match.groups()
        # Python refuses to read integers of more than 4,300 digits.
        if len(digits) > len(str(SIZE_MAX)) or int(digits) > SIZE_MAX:
            raise self._broken(7, "a size is more than 2^63 - 1", code="limit")
        size = int(digits)
        name = raw_name.decode("latin-1")
        if (problem := name_problem(name)) is not None:
            rule, reason = problem
            raise self._broken(rule, f"{name[:LINE_SHOWN_MAX]!r} {reason}", code="name")
        if name.endswith(".tz") != (parts is None):
            raise self._broken(8, f"{name!r} has the wrong kind of digest", code="manifest")
        if parts is None:
            return SetFile(name, size, digest=f"blake3:{digest.decode('ascii')}")
        if len(parts) != 2 * HASH_SIZE * part_count(size):
            raise self._broken(9, f"{name!r} has the wrong number of parts", code="layout")
        return SetFile(name, size, parts=bytes.fromhex(parts.decode("ascii")))

    def _broken(self, rule: int, reason: str, *, code: ErrorCode) -> FormatError:
        return _broken(self._where, rule, reason, self._begin, code=code)


def _broken(
    where: str, rule: int, reason: str, offset: int | None, *, code: ErrorCode
) -> FormatError:
    name = f"TZS1-{rule}"
    return FormatError(f"{where}: {reason} ({code}, {name})", code=code, rule=name, offset=offset)


def part_count(size: int) -> int:
    return -(-size // PART_SIZE)


def encode(files: Iterable[SetFile]) -> bytes:
    """The manifest of these files. The names must be allowed in a set."""
    lines = ["tz-set 1\n"]
    for file in sorted(files, key=lambda file: file.name):
        digests = f"parts:{file.parts.hex()}" if file.digest is None else file.digest
        lines.append(f"{file.size} {digests} {file.name}\n")
    return "".join(lines).encode("ascii")


def belongs(name: str) -> bool:
    """Whether a file in a model's folder is part of the set: hidden files and manifests are not."""
    return not is_hidden(name) and not name.endswith(MANIFEST_SUFFIX)


def is_hidden(name: str) -> bool:
    return any(component.startswith(".") for component in name.split("/"))


def name_problem(name: str) -> tuple[int, str] | None:
    """The rule that a name breaks, and the reason. None if it is allowed."""
    components = name.split("/")
    if len(name) > NAME_SIZE_MAX or any(
        not 0 < len(component) <= COMPONENT_SIZE_MAX for component in components
    ):
        return 11, "is too long, or has a component without a name"
    if not all(map(_is_plain, components)):
        return 12, "has a character that is not allowed in names of a set"
    if any(component[0] in ". " or component[-1] in ". " for component in components):
        return 13, "has a component that begins or ends with a dot or a space"
    if name.endswith(MANIFEST_SUFFIX):
        return 14, "is the name of a manifest"
    return None


def _is_plain(component: str) -> bool:
    is_printable = component.isascii() and component.isprintable()
    return is_printable and _COMPONENT.fullmatch(component) is not None


def _collision(names: Iterable[str]) -> str | None:
    """Two names that collide: equal on some system, or a file and a folder of the same name."""
    # With NUL for the slash, the files of a folder come right after a file of the folder's name.
    keys = sorted((name.lower().replace("/", "\0"), name) for name in names)
    for (one, first), (other, second) in pairwise(keys):
        if one == other or other.startswith(f"{one}\0"):
            return f"{first!r} and {second!r}"
    return None
