"""Objects to nodes and back: round trips, refusals and the names of tensors."""

from __future__ import annotations

import math
import struct
import sys
import time
from collections import Counter, OrderedDict, defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libtz import structure
from libtz.errors import OptionError
from libtz.structure import NodeKind, flatten, unflatten


class Leaf:
    """Stands for a tensor; libtz.structure does not depend on tensors."""


def is_leaf(value: object) -> bool:
    return isinstance(value, Leaf)


def round_trip(value: Any) -> Any:
    flat = flatten(value, is_leaf)
    tensors = dict(zip(flat.names, flat.tensors, strict=True))
    return unflatten(iter(flat.nodes), tensors.__getitem__)


def same(left: Any, right: Any) -> bool:
    """Equality that also compares types, bits of floats, order of keys and identity of tensors."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return struct.pack("<d", left) == struct.pack("<d", right)
    if isinstance(left, dict):
        return list(map(repr, left)) == list(map(repr, right)) and all(
            same(a, b) for a, b in zip(left.values(), right.values(), strict=True)
        )
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left is right if isinstance(left, Leaf) else bool(left == right)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
ints = st.one_of(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(-(1 << 8191), (1 << 8191) - 1))
leaves = st.one_of(
    st.none(), st.booleans(), ints, st.floats(), texts, st.binary(max_size=9), st.builds(Leaf)
)
objects = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.one_of(texts, ints), inner, max_size=4),
    ),
    max_leaves=25,
)


# No deadline, since machines may be slow.
EXAMPLES = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@EXAMPLES
@given(objects)
def test_round_trip(value: Any) -> None:
    assert same(round_trip(value), value)


@EXAMPLES
@given(objects)
def test_names_are_unique_and_clean(value: Any) -> None:
    names = flatten(value, is_leaf).names
    assert len(set(names)) == len(names)
    for name in names:
        name.encode()  # raises if it cannot be UTF-8
        assert not any(ord(c) < 0x20 or 0x7F <= ord(c) <= 0x9F for c in name)


def test_nodes_are_in_preorder() -> None:
    tensor = Leaf()
    flat = flatten({"a": [1, tensor], 2: ()}, is_leaf)
    assert flat.nodes == [
        (NodeKind.DICT, None, 2),
        (NodeKind.LIST, "a", 2),
        (NodeKind.INT, None, 1),
        (NodeKind.TENSOR, None, "a/1"),
        (NodeKind.TUPLE, 2, 0),
    ]
    assert flat.tensors == [tensor]


def test_names_follow_the_documented_rule() -> None:
    value = {
        "optimizer": {"state": {0: {"exp_avg": Leaf()}, "0": Leaf(), "-7": Leaf()}},
        "a/b": [Leaf(), Leaf()],
        "a~b": Leaf(),
        "line\nbreak": Leaf(),
        "": Leaf(),
        "Gewicht ß": Leaf(),
    }
    assert flatten(value, is_leaf).names == [
        "optimizer/state/0/exp_avg",
        "optimizer/state/~20",
        "optimizer/state/~2-7",
        "a~1b/0",
        "a~1b/1",
        "a~0b",
        "line~x0abreak",
        "",
        "Gewicht ß",
    ]
    assert flatten(Leaf(), is_leaf).names == ["value"]


def test_float_bits_survive() -> None:
    payload = struct.unpack("<d", struct.pack("<Q", 0x7FF8DEADBEEF0001))[0]
    for value in (payload, -0.0, math.inf, sys.float_info.min * sys.float_info.epsilon):
        assert same(round_trip([value]), [value])


def test_ordered_dict_is_a_dict_in_its_order() -> None:
    result = round_trip(OrderedDict([("b", 1), ("a", 2)]))
    assert type(result) is dict
    assert list(result) == ["b", "a"]
    assert round_trip(Counter("aab")) == {"a": 2, "b": 1}


class _Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"optimizer": {"state": [{"foo": {1, 2}}]}}, "$.optimizer.state[0].foo"),
        ({"a": defaultdict(int)}, "$.a"),
        ([1 << 8191], "$[0]"),
        ([-(1 << 8191) - 1], "$[0]"),
        ([10**9000], "$[0]"),
        ({"odd key": object()}, '$["odd key"]'),
        ({'q"': object()}, '$["q\\""]'),
        ({3: {"x": lambda: 0}}, "$[3].x"),
        ({"a": {True: 1}}, "$.a"),
        ({"a": {1.5: 1}}, "$.a"),
        ({"a": {None: 1}}, "$.a"),
        ({1 << 8191: 0}, "$[an integer of 8192 bits]"),
        ({10**9000: 0}, "$[an integer of 29898 bits]"),
        ({1 << 64: {1.5: 1}}, "$[18446744073709551616]"),
        (["\ud800"], "$[0]"),
        ({"a\udfff": 1}, '$["a\\udfff"]'),
        ([_Text("subclass")], "$[0]"),
        (object(), "$"),
    ],
)
def test_what_cannot_be_saved_is_named(value: Any, path: str) -> None:
    with pytest.raises(OptionError) as error:
        flatten(value, is_leaf)
    assert str(error.value).startswith(path + ":")


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_depth_is_bounded() -> None:
    assert round_trip(nested(structure.DEPTH_MAX)) == nested(structure.DEPTH_MAX)
    with pytest.raises(OptionError, match="128 levels"):
        flatten(nested(structure.DEPTH_MAX + 1), is_leaf)


def test_a_cycle_ends() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(OptionError, match="cycle"):
        flatten(cycle, is_leaf)


def test_sharing_that_explodes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structure, "NODE_COUNT_MAX", 1000)
    value: Any = []
    for _ in range(100):
        value = [value, value]
    with pytest.raises(OptionError, match="more than 1000 values"):
        flatten(value, is_leaf)


def test_lists_that_share_each_other_are_refused_at_once() -> None:
    nested: Any = [1]
    for _ in range(9):
        nested = [nested] * 10
    begin = time.monotonic()
    with pytest.raises(OptionError, match="occur so often"):
        flatten({"a": nested}, is_leaf)
    with pytest.raises(OptionError, match="occur so often"):
        flatten(({"x": nested}, nested), is_leaf)
    assert time.monotonic() - begin < 5


def test_what_is_shared_now_and_then_is_written_each_time() -> None:
    shared = [1, {"a": 2}]
    value = {"x": shared, "y": [shared, shared], "z": list(range(1000))}
    assert same(round_trip(value), value)
    cyclic: list[Any] = []
    cyclic.append([cyclic, cyclic])
    with pytest.raises(OptionError, match="in a cycle"):
        flatten(cyclic, is_leaf)


def test_cycles_and_long_lists_among_shared_ones() -> None:
    cycle: list[Any] = [[1] * 10]
    cycle += [cycle, cycle, cycle[0]]
    with pytest.raises(OptionError, match="cycle"):
        flatten(cycle, is_leaf)
    flat: list[Any] = list(range(50_000))
    assert len(flatten([flat, flat], is_leaf).nodes) == 100_003


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.float64(0.1), 0.1),
        (np.float32(0.1), float(np.float32(0.1))),
        (np.float16(-0.0), -0.0),
        (np.int64(-(1 << 63)), -(1 << 63)),
        (np.uint8(200), 200),
        (np.uint64(7), 7),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (np.bool_(True), True),
        (np.str_("text"), "text"),
        (np.bytes_(b"bytes"), b"bytes"),
    ],
)
def test_numpy_s_scalars_become_python_s(value: Any, plain: Any) -> None:
    assert same(round_trip({"x": [value]}), {"x": [plain]})


@pytest.mark.parametrize("value", [np.longdouble(0.1), np.complex64(1), np.datetime64(1, "s")])
def test_other_scalars_of_numpy_are_refused(value: Any) -> None:
    with pytest.raises(OptionError, match=r"\$\[0\]: cannot save an object of type numpy"):
        flatten([value], is_leaf)


def test_numpy_keys_become_python_keys() -> None:
    keys = [np.int64(-3), np.uint64(2**64 - 1), np.str_("name")]
    result = round_trip({key: i for i, key in enumerate(keys)})
    assert same(result, {-3: 0, 2**64 - 1: 1, "name": 2})
    with pytest.raises(OptionError, match="keys must be str or int"):
        flatten({np.float32(1.5): 0}, is_leaf)


def test_the_state_of_numpy_generators_is_kept() -> None:
    """The two numbers in the state of PCG64 have 128 bits."""
    state = np.random.default_rng(7).bit_generator.state
    assert max(state["state"].values()) >= 1 << 64
    assert same(round_trip(state), state)
