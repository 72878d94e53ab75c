"""Every requirement of the format has a vector for each of its error classes, or a named test."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "spec" / "tz-v1.md").read_text(encoding="utf-8")
CODEC_TEXT = (ROOT / "spec" / "tz-v1-codec-tiered.md").read_text(encoding="utf-8")
TEXTS = [TEXT, CODEC_TEXT]
VECTORS = ROOT / "spec" / "vectors"


def rules() -> dict[str, set[str]]:
    """The error classes that each requirement names."""
    found: dict[str, set[str]] = {}
    for text in TEXTS:
        for match in re.finditer(r"^- \[(TZ1\w*-\d+)\]", text, re.MULTILINE):
            # A requirement ends at the next list item, heading or paragraph.
            end = re.compile(r"^(?:\n|\S)", re.MULTILINE).search(text, match.end() + 1)
            body = text[match.end() : end.start() if end else len(text)]
            assert match[1] not in found, f"{match[1]} is defined twice"
            found[match[1]] = set(re.findall(r"\{([a-z-]+)\}", body))
    return found


def vectors() -> list[dict[str, str]]:
    heads = []
    for path in sorted(VECTORS.glob("v1/*/*.hex")):
        head = path.read_text(encoding="utf-8").partition("\n\n")[0]
        heads.append(dict(line.split(": ", 1) for line in head.splitlines()))
    return heads


def ids(head: dict[str, str]) -> list[str]:
    return head["rule"].split(", ")


def named_tests() -> dict[str, str]:
    lines = (VECTORS / "coverage.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split() for line in lines if not line.startswith("#"))


def test_requirements_are_numbered_without_gaps() -> None:
    by_text: defaultdict[str, list[int]] = defaultdict(list)
    for rule in rules():
        name, number = rule.split("-")
        by_text[name].append(int(number))
    assert all(sorted(found) == list(range(1, len(found) + 1)) for found in by_text.values())
    assert len(by_text["TZ1"]) >= 66


def test_every_requirement_is_covered() -> None:
    covered = {rule for head in vectors() for rule in ids(head)} | set(named_tests())
    assert covered == set(rules())


def test_every_error_class_of_every_requirement_has_a_vector() -> None:
    broken = [head for head in vectors() if head["expect"] != "ok"]
    shown = {(ids(head)[0], head["expect"]) for head in broken}
    required = {(rule, name) for rule, classes in rules().items() for name in classes}
    assert shown == {each for each in required if each[0] not in named_tests()}


def test_a_requirement_has_one_class_at_most() -> None:
    assert all(len(classes) <= 1 for classes in rules().values())


def test_the_order_of_checks_has_every_requirement_on_files_once() -> None:
    """That for strings and that for large integers stand for keys and for values."""
    order = TEXT.split("**Opening** needs")[1].split("**Whole-file operations**")[0]
    items = re.findall(r"^\d+\. .*$", order, re.MULTILINE)
    listed = [rule for item in items for rule in re.findall(r"TZ1-\d+", item)]
    whole_file = TEXT.split("**Whole-file operations**")[1].split("A tool that")[0]
    listed += [rule for rule in ("TZ1-45", "TZ1-46", "TZ1-47") if rule in whole_file]
    on_files = {rule for rule, classes in rules().items() if classes and rule.startswith("TZ1-")}
    assert len(listed) == len(set(listed))
    assert set(listed) == on_files


def test_every_rule_of_the_codec_is_broken_by_a_vector() -> None:
    """Except for requirements that do not concern the stored bytes of a file."""
    broken = {rule for head in vectors() if head["expect"] == "codec" for rule in ids(head)[1:]}
    assert broken == {rule for rule in rules() if rule.startswith("TZ1T-")} - set(named_tests())


def test_every_class_of_section_13_occurs() -> None:
    table = TEXT.split("| class | meaning |")[1].split("\n\n")[0]
    classes = {name for line in table.splitlines() for name in re.findall(r"`([a-z-]+)`", line)}
    assert classes == {head["expect"] for head in vectors()} - {"ok"}


def test_named_tests_exist() -> None:
    for rule, name in named_tests().items():
        path, function = name.split("::")
        source = (ROOT / path).read_text(encoding="utf-8")
        assert f"\ndef {function}(" in source, rule


def test_there_are_enough_vectors() -> None:
    assert len(vectors()) >= 150
