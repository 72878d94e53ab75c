"""Hypothesis strategies: random valid files, made by the reference writer, and mutations."""

from __future__ import annotations

import random
import re
import struct
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tz_kit
import tz_reference as tz
from hypothesis import strategies as st

CHUNK_SIZES = [1 << 16, 1 << 16, 1 << 17, 1 << 20, 1 << 26]
# Sizes around the alignment of data, and around one and two of the smallest chunks.
BORDER_SIZES = [63, 64, 65, 4095, 4096, 4097, 65535, 65536, 65537, 131072, 131073]

UNICODE = st.characters(exclude_categories=["Cs"])  # all but surrogates

# Valid files --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """The input of a writer."""

    tensors: dict[str, tz.Tensor]
    ties: list[list[str]]
    structure: Any
    metadata: dict[str, str]
    chunk_size: int
    codec: str

    def encode(self) -> bytes:
        return tz.encode(
            self.tensors,
            ties=self.ties,
            structure=self.structure,
            metadata=self.metadata,
            chunk_size=self.chunk_size,
            codec=self.codec,
        )


def names() -> st.SearchStrategy[str]:
    characters = st.characters(exclude_categories=("Cs", "Cc"))
    return st.text(characters, max_size=12) | st.sampled_from(["a", "a.b", "ab", "w" * 300])


def tensor_data(size: int, seed: int) -> bytes:
    """Zeros, noise, or 16-bit floats like weights, by `seed`."""
    source = random.Random(seed)
    if seed % 3 == 0:
        return bytes(size)
    if seed % 3 == 1 or size > 1 << 16:
        return source.randbytes(size)
    weights = (struct.pack("<f", source.gauss(0, 0.02))[2:] for _ in range(size // 2 + 1))
    return b"".join(weights)[:size]


@st.composite
def tensors(draw: st.DrawFn) -> tz.Tensor:
    dtype = draw(st.sampled_from(sorted(tz.DTYPE_CODES)))
    unit_size = tz.UNIT_SIZES[tz.DTYPE_CODES[dtype]]
    if draw(st.integers(0, 9)) == 0:
        shape = [draw(st.sampled_from(BORDER_SIZES)) // unit_size]
    else:
        shape = draw(st.lists(st.integers(0, 5), max_size=4))
    count = 1
    for dimension in shape:
        count *= dimension
    data = tensor_data(count * unit_size, draw(st.integers(0, 1 << 16)))
    return tz.Tensor(dtype, tuple(shape), data)


@dataclass(frozen=True)
class Slot:
    """A position for a tensor in a nested object."""


def nested() -> st.SearchStrategy[Any]:
    strings = st.text(UNICODE, max_size=6)
    integers = st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(-(1 << 8191), (1 << 8191) - 1)
    scalars = st.none() | st.booleans() | integers | st.floats() | strings
    leaves = scalars | st.binary(max_size=6) | st.builds(Slot)

    def containers(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        lists = st.lists(children, max_size=4)
        dicts = st.dictionaries(strings | integers, children, max_size=4)
        return lists | lists.map(tuple) | dicts

    return st.recursive(leaves, containers, max_leaves=12)


def fill(skeleton: Any, refs: list[tz.TensorRef]) -> Any:
    """`skeleton` with a tensor in each slot, or None when all are used."""
    if isinstance(skeleton, Slot):
        return refs.pop() if refs else None
    if isinstance(skeleton, dict):
        return {key: fill(value, refs) for key, value in skeleton.items()}
    if isinstance(skeleton, (list, tuple)):
        return type(skeleton)(fill(value, refs) for value in skeleton)
    return skeleton


@st.composite
def models(draw: st.DrawFn) -> Model:
    count_max = draw(st.sampled_from([0, 1, 3, 3, 8, 40]))
    held = draw(st.dictionaries(names(), tensors(), max_size=count_max))
    ties: list[list[str]] = []
    tieable = [name for name, tensor in held.items() if tensor.data]
    while len(tieable) > 1 and draw(st.booleans()):
        group = tieable[: draw(st.integers(2, 3))]
        tieable = tieable[len(group) :]
        ties.append(group)
        held.update(dict.fromkeys(group, held[group[0]]))
    structure: Any = tz.NO_STRUCTURE
    if draw(st.booleans()):
        refs = [tz.TensorRef(name) for name in draw(st.permutations(sorted(held)))]
        structure = fill(draw(nested()), refs)
        structure = [structure, *refs] if refs else structure
    keys = names().filter(lambda key: key and not key.startswith("tz."))
    values = st.text(UNICODE, max_size=20)
    metadata = draw(st.dictionaries(keys, values, max_size=3))
    codecs = ["raw", "tiered"] if tz.known_flags() else ["raw"]
    codec = draw(st.sampled_from(codecs))
    return Model(held, ties, structure, metadata, draw(st.sampled_from(CHUNK_SIZES)), codec)


# Mutations ----------------------------------------------------------------------------------------


def draw_spot(draw: st.DrawFn, data: bytes) -> tuple[int, int]:
    """Begin and end of a field, some data or some padding, equally likely in all structures.

    Were it a random byte, nearly all would lie in digests, and in the preamble after shrinking.
    """
    kinds: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for begin, end, label in tz_kit.annotate(data):
        kinds[re.split(r"[\[. ]", label)[0]].append((begin, end))
    return draw(st.sampled_from(kinds[draw(st.sampled_from(sorted(kinds)))]))


def flip_bits(draw: st.DrawFn, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(draw(st.integers(1, 2))):
        begin, end = draw_spot(draw, data)
        out[draw(st.integers(begin, end - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(out)


def truncate(draw: st.DrawFn, data: bytes) -> bytes:
    begin, end = draw_spot(draw, data)
    return data[: draw(st.integers(begin, end - 1))]


def extend(draw: st.DrawFn, data: bytes) -> bytes:
    return data + draw(st.binary(min_size=1, max_size=70))


def change_fields(draw: st.DrawFn, data: bytes) -> bytes:
    for _ in range(draw(st.integers(1, 2))):
        begin, end = draw_spot(draw, data)
        other_begin, other_end = draw_spot(draw, data)
        end = min(end, begin + 64)
        bits = 8 * (end - begin)
        old = int.from_bytes(data[begin:end], "little")
        other = int.from_bytes(data[other_begin:other_end], "little")
        values = [0, 1, 2, old + 1, old - 1, old + 64, old + 4096, old * 2, 2**bits - 1, other]
        value = draw(st.sampled_from(values) | st.integers(0, 2**bits - 1)) % 2**bits
        data = tz_kit.splice(data, begin, end, value.to_bytes(bits // 8, "little"))
    return data


def copy_block(draw: st.DrawFn, data: bytes) -> bytes:
    """Copies a field's bytes to another position."""
    (begin, end), (to, _) = draw_spot(draw, data), draw_spot(draw, data)
    return tz_kit.splice(data, to, to + end - begin, data[begin:end])[: len(data)]


def exchange_parts(draw: st.DrawFn, data: bytes) -> bytes:
    """Swaps two structures of the same kind."""
    layouts = (tz_kit.SECTION, tz_kit.RECORD, tz_kit.DIMENSION, tz_kit.CHUNK, tz_kit.NODE)
    layout = draw(st.sampled_from(layouts))
    same_kind = [part for part in tz_kit.parts(data) if part.layout is layout]
    if len(same_kind) < 2:
        return data
    one, other = (draw(st.sampled_from(same_kind)) for _ in range(2))
    first, second = data[one.begin : one.end], data[other.begin : other.end]
    data = tz_kit.splice(data, one.begin, one.end, second)
    return tz_kit.splice(data, other.begin, other.end, first)


MUTATIONS: list[Callable[[st.DrawFn, bytes], bytes]] = [
    flip_bits,
    truncate,
    extend,
    change_fields,
    change_fields,
    copy_block,
    exchange_parts,
]


@dataclass(frozen=True)
class Mutated:
    original: bytes
    data: bytes
    is_resealed: bool


@st.composite
def mutated_files(draw: st.DrawFn) -> Mutated:
    """A mutated file. Half of them are resealed."""
    is_resealed = draw(st.booleans())
    original = draw(models()).encode()
    data = draw(st.sampled_from(MUTATIONS))(draw, original)
    if is_resealed:
        keep = draw(st.just([]) | st.lists(st.sampled_from(tz_kit.LEVELS), max_size=1))
        data = tz_kit.reseal(data, keep)
    return Mutated(original, data, is_resealed)
