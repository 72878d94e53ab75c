"""What the scenarios share: the registry, tensors with data by rule, and small files to break."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tz_reference as tz

Maker = Callable[[], bytes]


@dataclass(frozen=True)
class Scenario:
    maker: Maker
    expect: str
    rules: tuple[str, ...]
    operation: str
    pin: str | None
    requires: str | None
    released: bytes  # the decoded bytes that a reader may hand out before it finds the fault

    @property
    def name(self) -> str:
        group = "valid" if self.expect == "ok" else "invalid"
        return f"{group}/{self.maker.__name__.replace('_', '-')}"

    @property
    def comment(self) -> str:
        return " ".join((self.maker.__doc__ or "").split())


SCENARIOS: dict[str, Scenario] = {}


def _register(
    expect: str,
    rules: tuple[int | str, ...],
    *,
    operation: str = "verify",
    pin: str | None = None,
    requires: str | None = None,
    released: bytes = b"",
) -> Callable[[Maker], Maker]:
    def register(maker: Maker) -> Maker:
        ids = tuple(f"TZ1-{rule}" if isinstance(rule, int) else rule for rule in rules)
        scenario = Scenario(maker, expect, ids, operation, pin, requires, released)
        if scenario.name in SCENARIOS or not scenario.comment:
            raise ValueError(f"{scenario.name} is there already, or has no comment")
        SCENARIOS[scenario.name] = scenario
        return maker

    return register


def valid(*rules: int | str, **options: Any) -> Callable[[Maker], Maker]:
    """The function makes a file that obeys `rules` at their border."""
    return _register("ok", rules, **options)


def invalid(error_class: str, rule: int, *finer: str, **options: Any) -> Callable[[Maker], Maker]:
    """The function makes a file that breaks `rule`, and no other before it.

    Readers report `rule`; `finer` are ids of the codec's own text.
    """
    return _register(error_class, (rule, *finer), **options)


# Tensors and files --------------------------------------------------------------------------------


def pattern(size: int, first: int = 1) -> bytes:
    """Bytes that count from `first` and start again after 16."""
    unit = bytes((first + i) % 256 for i in range(16))
    return (unit * (size // 16 + 1))[:size]


def tensor(dtype: str, *shape: int, first: int = 1) -> tz.Tensor:
    size = tz.UNIT_SIZES[tz.DTYPE_CODES[dtype]]
    for dimension in shape:
        size *= dimension
    return tz.Tensor(dtype, shape, pattern(size, first))


def u8(*shape: int, first: int = 1) -> tz.Tensor:
    return tensor("u8", *shape, first=first)


CHUNK_SIZE = 1 << 16

EMPTY = tz.encode({})
ONE = tz.encode({"x": u8(3)})
TWO = tz.encode({"a": u8(3), "b": tensor("f32", 2, 3)})
TIED = tz.encode({name: u8(2, 3) for name in "ab"}, ties=["ab"])
HOLLOW = tz.encode({"x": u8(0)})
TWO_CHUNKS = tz.encode({"x": u8(CHUNK_SIZE + 100)}, chunk_size=CHUNK_SIZE)


# Sections by hand ---------------------------------------------------------------------------------


def node(kind: int, value: int = 0, key: bytes | int | None = None, tail: bytes = b"") -> bytes:
    """A node of the structure section; `tail` is its value's bytes."""
    if isinstance(key, bytes):
        return tz.NODE.pack(kind, tz.STRING_KEY, bytes(6), len(key), value) + key + tail
    if key is not None:
        return tz.NODE.pack(kind, tz.INTEGER_KEY, bytes(6), key % (1 << 64), value) + tail
    return tz.NODE.pack(kind, tz.NO_KEY, bytes(6), 0, value) + tail


def large_integer(data: bytes) -> bytes:
    """A node that is a large integer of these bytes."""
    return node(tz.LARGE_INTEGER, len(data), tail=data)


def large_integer_key(data: bytes) -> bytes:
    """A node that is None below a large integer of these bytes."""
    return tz.NODE.pack(tz.NONE, tz.LARGE_INTEGER_KEY, bytes(6), len(data), 0) + data


def structure_file(*nodes: bytes, tensor_count: int = 0) -> bytes:
    """A file with these bytes as its structure section, and tensors "0", "1", ..."""
    d = tz.draft({str(i): u8(1, first=i) for i in range(tensor_count)}, structure=None)
    d.bodies[tz.STRUCTURE] = b"".join(nodes)
    return d.place().pack()


def pair(key: bytes, value: bytes = b"") -> bytes:
    return struct.pack("<II", len(key), len(value)) + key + value


def metadata_file(*pairs: bytes) -> bytes:
    """A file with these bytes as its metadata section."""
    d = tz.draft({}, metadata={"-": "-"})
    d.bodies[tz.METADATA] = b"".join(pairs)
    return d.place().pack()


def named_file(*names: bytes) -> bytes:
    """A file with a tensor by each of these names, in this order, whatever they are."""
    stand_ins = [chr(0x4E00 + i) for i in range(len(names))]
    d = tz.draft({name: u8(1, first=i) for i, name in enumerate(stand_ins)})
    end = 0
    for i, name in enumerate(names):
        d.records[i] = d.records[i]._replace(name_offset=end, name_size=len(name))
        end += len(name)
    d.bodies[tz.NAMES] = b"".join(names)
    return d.place().pack()


def extra_sections(*sections: tuple[int, int, bytes]) -> bytes:
    """ONE with further sections, each (type, flags, bytes)."""
    d = tz.draft({"x": u8(3)})
    for section_type, flags, body in sections:
        d.directory.append(tz.Section(section_type, flags, 0, 0, 0, bytes(4), bytes(32)))
        d.bodies[section_type] = body
    d.directory.sort(key=lambda s: s.type)
    return d.place().pack()
