"""Properties of the reference reader that single vectors cannot show."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import tz_kit
import tz_reference as tz
from scenarios.base import ONE, TWO, node, structure_file
from scenarios.valid_sections import everything
from tests.implementations import IMPLEMENTATIONS, Implementation
from tz_describe import describe

EVERYTHING = everything()


def test_opening_needs_open_size_bytes_and_no_more() -> None:
    open_size = tz.File(EVERYTHING).header.preamble.open_size
    front = EVERYTHING[:open_size]
    assert tz.read_header(front, len(EVERYTHING)) == tz.File(EVERYTHING).header


def test_no_tensor_is_handed_out_before_its_chunks_are_checked() -> None:
    bad = TWO[:-1] + bytes([TWO[-1] ^ 1])
    file = tz.File(bad)
    assert file.load("a").data == b"\x01\x02\x03"
    with pytest.raises(tz.TzError, match="TZ1-43"):
        file.load("b")


def test_objects_are_read_as_they_were_written() -> None:
    file = tz.File(EVERYTHING)
    value = file.object()
    assert value["tags"] == ("a", b"b", None, False)
    assert [tensor.dtype for tensor in value["model"]] == ["bf16", "f32", "i64", "bf16", "f64"]
    assert value["model"][0] == file.load("model.embed") == file.load("model.head")
    with pytest.raises(ValueError, match="not a nested object"):
        tz.File(ONE).object()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, ids=lambda i: i.name)
def test_every_truncation_is_an_error(implementation: Implementation) -> None:
    for size in [*range(0, 130), *range(130, len(ONE), 23), len(ONE) - 1]:
        description = implementation.describe(ONE[:size])
        assert description["result"] == "error", size
        assert description["class"] == "truncated", size


def bit_flips(data: bytes) -> Iterator[tuple[int, bytes]]:
    for at in range(len(data)):
        yield at, tz_kit.splice(data, at, at + 1, bytes([data[at] ^ 1 << at % 8]))


@pytest.mark.slow
def test_every_bit_flip_is_an_error() -> None:
    """Whole-file operations detect a change of any byte in a file."""
    for at, data in bit_flips(TWO):
        assert describe(data)["result"] == "error", at


@pytest.mark.parametrize(("node_count", "expected"), [(6, "ok"), (7, "limit")])
def test_number_of_nodes(node_count: int, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """TZ1-82 with a smaller limit; a file of 2^26 nodes has 1.6 GB."""
    monkeypatch.setattr(tz, "NODE_COUNT_MAX", 6)
    data = structure_file(node(tz.LIST, node_count - 1), *[node(tz.NONE)] * (node_count - 1))
    description = describe(data, operation="open")
    assert description.get("class", "ok") == expected
    assert expected == "ok" or description["rule"] == "TZ1-82"


def test_describe_tells_a_missing_structure_from_none() -> None:
    assert describe(ONE)["structure"] is None
    assert describe(tz.encode({}, structure=None))["structure"] == [["none", None, None]]
