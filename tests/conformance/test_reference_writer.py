"""The reference writer meets section 17, and refuses values that no file can hold."""

from __future__ import annotations

import struct
from typing import Any

import pytest
import tz_kit
import tz_reference as tz
from tz_reference import Tensor, TensorRef, encode

X = Tensor("u8", (3,), b"abc")


def test_reserved_metadata_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="reserved"):
        encode({}, metadata={"tz.later": "1"})
    assert tz.File(encode({}, metadata={"tz": "1", "tza": "2"})).metadata == {"tz": "1", "tza": "2"}


def test_files_are_of_version_1_0_without_extensions() -> None:
    data = encode({"x": X}, structure=[TensorRef("x")], metadata={"a": "b"})
    header = tz.File(data).header
    assert (header.preamble.version_major, header.preamble.version_minor) == (1, 0)
    assert header.preamble.incompatible_flags == header.preamble.compatible_flags == 0
    types = [section.type for section in tz_kit.directory(data)]
    assert types == sorted(tz.RECORD_SIZES)


def test_equal_input_gives_equal_bytes() -> None:
    def make() -> bytes:
        tensors = {"b": X, "a": Tensor("f32", (), b"1234"), "c": X}
        structure = {"list": [TensorRef(name) for name in tensors], 1: None}
        options: dict[str, Any] = {"structure": structure, "metadata": {"y": "1", "x": "2"}}
        return encode(tensors, ties=[["c", "b"]], **options)

    assert make() == make()


def test_only_the_order_of_the_tensors_matters() -> None:
    """Metadata is sorted, and groups of ties are sets; the order of tensors is the file's."""
    y = Tensor("u8", (1,), b"y")
    assert encode({}, metadata={"a": "1", "b": "2"}) == encode({}, metadata={"b": "2", "a": "1"})
    tied = {"a": X, "b": X}
    assert encode(tied, ties=["ab"]) == encode(tied, ties=["ba"])
    forth, back = encode({"a": X, "b": y}), encode({"b": y, "a": X})
    assert forth != back
    assert tz.File(forth).content_digest == tz.File(back).content_digest


def test_a_codec_that_loses_bytes_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lossy:
        @staticmethod
        def encode(data: bytes, dtype: str) -> bytes:
            return data[:1]

        @staticmethod
        def decode(stored: bytes, dtype: str, decoded_length: int) -> bytes:
            return stored * decoded_length

    monkeypatch.setattr(tz, "tz_tiered", Lossy)
    same = Tensor("u8", (3,), b"aaa")
    tz.File(encode({"x": same}, codec="tiered")).verify()
    with pytest.raises(RuntimeError, match="give back"):
        encode({"x": X}, codec="tiered")


def test_the_owner_of_a_tie_has_the_smallest_name() -> None:
    names = ("\U00010000", "\uff5e", "b", "aa")
    file = tz.File(encode(dict.fromkeys(names, X), ties=[names]))
    assert {e.name: e.is_tied for e in file.header.entries} == {
        "aa": False,
        **dict.fromkeys(names[:-1], True),
    }
    assert len(file.header.entries[0].shape) == 1
    assert file.header.preamble.chunk_count == 1


def test_unequal_tensors_cannot_be_tied() -> None:
    with pytest.raises(ValueError, match="not the same"):
        encode({"a": X, "b": Tensor("i8", (3,), b"abc")}, ties=["ab"])


@pytest.mark.parametrize(
    ("tensors", "options"),
    [
        ({"a\n": X}, {}),
        ({"\ud800": X}, {}),
        ({"n" * 65536: X}, {}),
        ({"x": Tensor("u8", (2,), b"abc")}, {}),
        ({"x": Tensor("u8", (1,) * 65, b"a")}, {}),
        ({"x": Tensor("u8", (0, 1 << 63), b"")}, {}),
        ({"x": X}, {"chunk_size": 1 << 15}),
        ({"x": X}, {"chunk_size": 1 << 27}),
        ({"x": X}, {"chunk_size": 100_000}),
        ({"x": X}, {"structure": None}),
        ({"x": X}, {"structure": [TensorRef("x"), TensorRef("x")]}),
        ({}, {"structure": 1 << 8191}),
        ({}, {"structure": {-(1 << 8191) - 1: None}}),
        ({}, {"structure": {1.5: None}}),
        ({}, {"structure": {True: None}}),
        ({}, {"structure": {None: None}}),
        ({}, {"structure": {1, 2}}),
        ({}, {"metadata": {"": "empty"}}),
        ({}, {"metadata": {"a\0": "control"}}),
        ({}, {"metadata": {"k" * 1025: "long"}}),
    ],
)
def test_what_no_file_holds_is_refused(tensors: dict[str, Tensor], options: Any) -> None:
    with pytest.raises((ValueError, OverflowError, struct.error)):
        encode(tensors, **options)
