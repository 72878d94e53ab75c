"""Write `spec/vectors/sets/v1.json`, or check that it is up to date.

    python make_set_vectors.py            # write
    python make_set_vectors.py --check    # exit 1 if it is not

Each vector says what is wrong by hand; the conformance tests compare it with what readers find.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import generated
import tz_set
from scenarios.base import ONE, TWO
from tz_hash import blake3

PATH = Path(__file__).resolve().parent.parent / "vectors" / "sets" / "v1.json"

CONFIG = b'{"hidden_size": 32}\n'
FILES = {"config.json": CONFIG, "empty.txt": b"", "model.tz": ONE, "onnx/model.onnx": b"\x08\x07"}
MANIFEST = tz_set.encode(FILES).decode("ascii")
DIGEST = tz_set.digest(MANIFEST.encode("ascii"))

ZEROS = "0" * 64


def line(name: str, size: int = 1, digests: str | None = None) -> str:
    kind = f"blake3:{ZEROS}" if name.endswith(".tz") else "parts:" + ZEROS * -(-size // (1 << 20))
    return f"{size} {kind if digests is None else digests} {name}\n"


def manifest(*names: str) -> str:
    return "tz-set 1\n" + "".join(map(line, names))


# Name of the vector: (rule, class, manifest, comment).
INVALID = {
    "empty": (2, "manifest", "", "No bytes at all."),
    "other-first-line": (2, "manifest", "tz-sets 1\n" + line("a"), "Another first word."),
    "first-line-without-end": (2, "manifest", "tz-set 1", "Nothing after the number."),
    "carriage-returns": (2, "manifest", "tz-set 1\r\n" + line("a"), "CR LF after the number."),
    "byte-order-mark": (2, "manifest", "\xef\xbb\xbf" + manifest("a"), "UTF-8's mark in front."),
    "version-2": (3, "version", "tz-set 2\nanything", "The next version."),
    "version-01": (3, "version", "tz-set 01\n" + line("a"), "A zero before the number."),
    "last-line-without-end": (4, "truncated", manifest("a", "b")[:-1], "The last LF is missing."),
    "cut-in-a-line": (4, "truncated", manifest("a", "b")[:-20], "A piece is missing at the end."),
    "empty-line": (5, "manifest", manifest("a") + "\n", "An empty line at the end."),
    "two-spaces": (5, "manifest", manifest("a").replace("1 p", "1  p"), "Two spaces for one."),
    "size-with-zero": (5, "manifest", "tz-set 1\n0" + line("a"), "A zero before a size."),
    "size-with-sign": (5, "manifest", "tz-set 1\n+" + line("a"), "A sign before a size."),
    "upper-case-digest": (
        *(5, "manifest", "tz-set 1\n" + line("a", 1, "parts:" + "A" * 64)),
        "Digits in upper case.",
    ),
    "odd-digest": (5, "manifest", "tz-set 1\n" + line("a", 1, "parts:" + "0" * 63), "63 digits."),
    "other-digest": (5, "manifest", "tz-set 1\n" + line("a", 1, f"sha256:{ZEROS}"), "No parts."),
    "two-tz-digests": (
        *(5, "manifest", "tz-set 1\n" + line("a.tz", 1, f"blake3:{ZEROS}{ZEROS}")),
        "Two digests for one tz file.",
    ),
    "no-name": (5, "manifest", f"tz-set 1\n1 parts:{ZEROS}\n", "A line without a name."),
    "no-files": (6, "manifest", "tz-set 1\n", "Nothing but the first line."),
    "size-at-2-63": (7, "limit", "tz-set 1\n" + line("a.tz", 1 << 63), "One byte too many."),
    "size-of-forty-digits": (7, "limit", "tz-set 1\n" + line("a.tz", 10**39), "Very large."),
    "parts-of-tz": (8, "manifest", "tz-set 1\n" + line("a.tz", 1, f"parts:{ZEROS}"), "A tz file."),
    "digest-of-json": (
        *(8, "manifest", "tz-set 1\n" + line("a.json", 1, f"blake3:{ZEROS}")),
        "A digest of tz files, of another file.",
    ),
    "part-missing": (
        *(9, "layout", "tz-set 1\n" + line("a", (1 << 20) + 1, f"parts:{ZEROS}")),
        "A second part of one byte has no digest.",
    ),
    "part-too-many": (
        *(9, "layout", "tz-set 1\n" + line("a", 1 << 20, f"parts:{ZEROS}{ZEROS}")),
        "A digest of an empty second part.",
    ),
    "part-of-nothing": (9, "layout", "tz-set 1\n" + line("a", 0, f"parts:{ZEROS}"), "Empty file."),
    "names-exchanged": (10, "order", manifest("b", "a"), "Descending names."),
    "name-twice": (10, "order", manifest("a", "a"), "The same name twice."),
    "names-sorted-without-case": (10, "order", manifest("a", "B"), "Sorted as people would."),
    "empty-name": (11, "name", manifest(""), "No name after the space."),
    "absolute": (11, "name", manifest("/etc/passwd"), "It begins with a slash."),
    "slash-at-end": (11, "name", manifest("a/"), "It ends with a slash."),
    "two-slashes": (11, "name", manifest("a//b"), "An empty component."),
    "component-of-256": (11, "name", manifest("a" * 256), "Too long for file systems."),
    "name-of-1025": (11, "name", manifest("/".join(["a" * 204] * 5) + "a"), "Too long in all."),
    "control-character": (12, "name", manifest("a\x1b[2Jb"), "It would clear a terminal."),
    "delete": (12, "name", manifest("a\x7f"), "The last control character of ASCII."),
    "carriage-return-in-name": (12, "name", manifest("a\r"), "CR LF after a name."),
    "nul": (12, "name", manifest("a\0b"), "A NUL."),
    "not-ascii": (12, "name", manifest("\xc3\xa9"), "A letter in UTF-8."),
    "backslash": (12, "name", manifest("a\\b"), "A folder on Windows."),
    "drive": (12, "name", manifest("C:a"), "A drive of Windows."),
    "percent": (12, "name", manifest("a%2Fb"), "A slash, as URLs write it."),
    "dot-dot": (13, "name", manifest("../a"), "Out of the folder."),
    "dot-dot-inside": (13, "name", manifest("a/../b"), "Back to the folder."),
    "hidden": (13, "name", manifest("._a"), "What macOS makes beside files."),
    "hidden-folder": (13, "name", manifest(".git/config"), "In a hidden folder."),
    "dot-at-end": (13, "name", manifest("a."), "Windows drops the dot."),
    "space-at-end": (13, "name", manifest("a "), "Windows drops the space."),
    "manifest-in-itself": (14, "name", manifest("model.tz-set"), "A manifest."),
    "same-but-for-case": (15, "name", manifest("A", "a"), "One file on some systems."),
    "file-and-folder": (15, "name", manifest("a", "a-b", "a/b"), "A file that is a folder, too."),
    "file-and-folder-but-for-case": (15, "name", manifest("A/b", "a"), "The same, in two cases."),
    # Two faults, of which the first counts.
    "order-size-before-name": (
        *(7, "limit", "tz-set 1\n" + line("../a.tz", 1 << 63)),
        "The size is looked at before the name.",
    ),
    "order-name-before-kind": (
        *(11, "name", "tz-set 1\n" + line("/a", 1, f"blake3:{ZEROS}")),
        "The name is looked at before the digest.",
    ),
    "order-layout-before-order": (
        *(9, "layout", manifest("b") + line("a", 1, "parts:")),
        "Each line for itself, before its place among the others.",
    ),
    "order-line-before-line": (
        *(10, "order", manifest("b", "a") + "\n"),
        "The first bad line counts.",
    ),
}
VALID = {
    "example": (MANIFEST, "A configuration, an empty file, a tz file, a file in a folder."),
    "one-file": (manifest("a"), "The smallest set."),
    "largest-size": ("tz-set 1\n" + line("a.tz", (1 << 63) - 1), "A tz file of 2^63 - 1 bytes."),
    "part-of-one-byte": ("tz-set 1\n" + line("a", (1 << 20) + 1), "Two parts."),
    "full-part": ("tz-set 1\n" + line("a", 1 << 20), "One part of 2^20 bytes."),
    "odd-names": (manifest("!$&'()+,-.=@[]^_`{}~;", "a b", "a.tz-set2", "a/b"), "All allowed."),
    "names-in-byte-order": (manifest("B", "a-", "a.json", "a/b", "ab"), "Slash after dot."),
    "long-names": (manifest("/".join(["a" * 204] * 5), "b" * 255), "As long as may be."),
    "folders-but-for-case": (manifest("A/b", "a/c"), "Different files in any case."),
}
# Name of the vector: (rule, files), all under the manifest MANIFEST.
CHANGED = {
    "config-changed": (18, {**FILES, "config.json": CONFIG.replace(b"32", b"64")}),
    "config-longer": (17, {**FILES, "config.json": CONFIG + b" "}),
    "config-empty": (17, {**FILES, "config.json": b""}),
    "weights-of-another-model": (17, {**FILES, "model.tz": TWO}),
    "weights-changed": (18, {**FILES, "model.tz": ONE[:12] + b"\6" + ONE[13:]}),
    "file-in-folder-changed": (18, {**FILES, "onnx/model.onnx": b"\x08\x08"}),
}


def vectors() -> dict[str, Any]:
    other = f"blake3:{blake3(b'').hex()}"
    return {
        "manifest": MANIFEST,
        "digest": DIGEST,
        "valid": [
            {
                "name": name,
                "comment": comment,
                "manifest": text,
                "digest": tz_set.digest(text.encode("latin-1")),
                "names": [line.split(" ", 2)[2] for line in text.splitlines()[1:]],
            }
            for name, (text, comment) in VALID.items()
        ],
        "invalid": [
            {"name": "pinned-otherwise", "rule": "TZS1-16", "expect": "digest", "pin": other}
            | {"comment": "The digest of something else.", "manifest": manifest("../a")},
            *(
                {"name": name, "rule": f"TZS1-{rule}", "expect": expect, "comment": comment}
                | {"manifest": text}
                for name, (rule, expect, text, comment) in INVALID.items()
            ),
        ],
        "files": {name: data.hex() for name, data in FILES.items()},
        "changed": [
            {"name": name, "rule": f"TZS1-{rule}", "expect": "digest"}
            | {"files": {n: data.hex() for n, data in files.items() if data != FILES[n]}}
            for name, (rule, files) in CHANGED.items()
        ],
    }


def text() -> str:
    """JSON for the eye: a line per vector."""
    parts = []
    for key, value in vectors().items():
        if isinstance(value, list):
            items = ",\n  ".join(json.dumps(item) for item in value)
            parts.append(f' "{key}": [\n  {items}\n ]')
        else:
            parts.append(f' "{key}": {json.dumps(value)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    sys.exit(generated.update(PATH, text, __doc__))
