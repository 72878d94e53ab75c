"""Random files, valid and mutated, in the reference and every other implementation.

A disagreement is shrunk by Hypothesis, and written down as a vector that can be completed and kept.
"""

from __future__ import annotations

import struct
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import tz_describe
import tz_kit
import tz_reference as tz
import tz_vectors
from hypothesis import HealthCheck, given, settings
from tests.differential.strategies import Model, Mutated, models, mutated_files
from tests.implementations import IMPLEMENTATIONS, REFERENCE, Description, Implementation

pytestmark = pytest.mark.slow

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
THOROUGH = settings(max_examples=250, deadline=None, suppress_health_check=SLOW)
BRIEF = settings(THOROUGH, max_examples=75)


def check_agreement(implementation: Implementation, data: bytes, expected: Description) -> None:
    """Same verdict and error class; same rule and released bytes if both report them."""
    announces_codec = any(data[16:24])
    if announces_codec and implementation.codecs != REFERENCE.codecs:
        return  # a reader without the codec rejects the file on opening; others may do so later
    problems = tz_vectors.differences(expected, implementation.describe(data))
    if problems:
        path = save_candidate(data, expected, f"{implementation.name} and the reference differ")
        raise AssertionError("\n".join([*problems, f"candidate for a vector: {path}"]))


def save_candidate(data: bytes, expected: Description, comment: str) -> Path:
    vector = tz_vectors.Vector(
        name="candidate",
        data=data,
        expect=expected.get("class", "ok"),
        rules=[expected.get("rule", "TZ1-?")],
        comment=comment,
        released=expected.get("released"),
    )
    path = Path(tempfile.gettempdir()) / "tz-candidate.hex"
    path.write_text(tz_vectors.render(vector), encoding="utf-8")
    return path


def bits(value: Any) -> Any:
    """`value` with floats as bits, so that == distinguishes zeros, and NaN equals NaN."""
    if isinstance(value, float):
        return struct.pack("<d", value)
    if isinstance(value, dict):
        return [(type(key), key, bits(child)) for key, child in value.items()]
    if isinstance(value, tz.TensorRef):
        return value
    if isinstance(value, (list, tuple)):
        return type(value), [bits(child) for child in value]
    return type(value), value


@BRIEF
@given(models())
def test_valid_files(model: Model) -> None:
    """Written data is read byte for byte, and all implementations describe it in the same way."""
    data = model.encode()
    file = tz.File(data)
    file.verify()
    assert set(file.names()) == set(model.tensors)
    assert all(file.load(name) == tensor for name, tensor in model.tensors.items())
    assert file.metadata == model.metadata
    if model.structure is not tz.NO_STRUCTURE:
        assert bits(file.header.structure) == bits(model.structure)
    expected = REFERENCE.describe(data)
    for implementation in IMPLEMENTATIONS:
        check_agreement(implementation, data, expected)


@BRIEF
@given(models())
def test_content_digests_are_independent_of_encoding(model: Model) -> None:
    order = dict(reversed(model.tensors.items()))
    other = tz.encode(order, chunk_size=1 << 18)
    assert tz.File(other).content_digest == tz.File(model.encode()).content_digest


@THOROUGH
@given(mutated_files())
def test_mutated_files(mutated: Mutated) -> None:
    """A mutation is detected unless it was resealed, and all implementations agree."""
    expected = REFERENCE.describe(mutated.data)
    if expected["result"] == "ok" and mutated.data != mutated.original:
        assert mutated.is_resealed, "an undetected change"
        check_canonical(mutated.data)
    for implementation in IMPLEMENTATIONS:
        check_agreement(implementation, mutated.data, expected)


@BRIEF
@given(mutated_files())
def test_pinned_files(mutated: Mutated) -> None:
    """With a pin, only original data is released, for any mutation."""
    pin = tz.digest_text(mutated.original[:128])
    description = tz_describe.describe(mutated.data, pin=pin)
    if mutated.data == mutated.original:
        assert description["result"] == "ok"
        return
    assert description["result"] == "error"
    assert description["class"] != "digest" or mutated.data[:128] != mutated.original[:128]


def check_canonical(data: bytes) -> None:
    """The encoding is unique: decoding a file and encoding the result gives the same bytes."""
    file = tz.File(data)
    p = file.header.preamble
    extended = p.version_minor or p.compatible_flags or p.incompatible_flags
    extended = extended or len(file.header.sections) != len(tz_kit.directory(data))
    if extended or any(key.startswith("tz.") for key in file.metadata):
        return
    in_order = sorted(file.header.entries, key=lambda e: e.record.order)
    groups: defaultdict[int, list[str]] = defaultdict(list)
    for e in file.header.entries:
        groups[e.record.tie if e.is_tied else e.index].append(e.name)
    has_structure = tz.STRUCTURE in file.header.sections
    again = tz.encode(
        {e.name: file.load(e.name) for e in in_order},
        ties=groups.values(),
        structure=file.header.structure if has_structure else tz.NO_STRUCTURE,
        metadata=file.metadata,
        chunk_size=1 << p.chunk_size_log2,
    )
    assert again == data


def test_a_disagreement_fails_and_leaves_a_candidate() -> None:
    """The comparison can fail, and then writes a vector."""

    class Careless:
        name = "careless"
        codecs = frozenset({"raw"})

        def describe(
            self, data: bytes, *, pin: str | None = None, operation: str = "verify"
        ) -> Description:
            return REFERENCE.describe(data, operation="open")

    data = tz.encode({"x": tz.Tensor("u8", (3,), b"abc")})[:-1] + b"d"
    expected = REFERENCE.describe(data)
    try:
        check_agreement(Careless(), data, expected)
    except AssertionError as error:
        path = Path(str(error).rpartition(": ")[2])
    else:
        raise RuntimeError("no disagreement was found")
    vector = tz_vectors.load(path)
    assert (vector.data, vector.expect, vector.rules) == (data, "checksum", ["TZ1-43"])
    path.unlink()
