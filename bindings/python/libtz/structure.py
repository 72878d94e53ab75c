"""Python objects and the nodes of a file's structure section (section 9 of the specification).

These can be saved: dict (and OrderedDict and Counter, which come back as dict), list, tuple, None,
bool, int (of up to 1024 bytes), float (bit for bit, NaN payloads included), str, bytes and tensors.
NumPy scalars come back as Python scalars of the same value, also as keys. Other subclasses are
refused, because a file cannot keep their meaning (the fields of a namedtuple, the function of a
defaultdict); the error names their path, as in `$.optimizer.state[0].foo`. Tensors that share
memory are tied. A container that occurs more than once is written each time, up to a limit: a few
lists that contain each other can stand for billions of values.

A tensor is named by its path, so that a nested file can be listed and read one tensor at a time:
steps are joined with `/`, as in `optimizer/state/0/exp_avg`. To keep names unique and valid,
within a step `~` is written `~0` and `/` is `~1` (as in RFC 6901), a control character is `~x` and
its two hex digits, and a string key that looks like a number gets the prefix `~2`: `{0: a, "0": b}`
gives `0` and `~20`. An object that is a bare tensor is named `value`.

Nothing here recurses, so no input can exhaust Python's stack.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np

from libtz._native.lib import Node
from libtz._native.tables import INT_MAX, INT_MIN
from libtz.errors import OptionError

__all__ = ["Flattened", "NodeKind", "flatten", "tensor_paths", "unflatten"]

DEPTH_MAX = 128  # [TZ1-53]
NODE_COUNT_MAX = 1 << 26  # [TZ1-53]
# Limit on values that are written again because their list or dict occurs more than once.
REPEATED_COUNT_MAX = 1 << 20
INT_BITS_MAX = 8 * 1024 - 1  # [TZ1-67], without the sign

ROOT_TENSOR_NAME = "value"


class NodeKind(IntEnum):
    """The node kinds of section 9."""

    NONE = 0
    BOOL = 1
    INT = 2
    FLOAT = 3
    STR = 4
    BYTES = 5
    TENSOR = 6
    DICT = 7
    LIST = 8
    TUPLE = 9
    LARGE_INT = 10  # an int that does not fit 64 bits


@dataclass
class Flattened:
    """A flattened object: each tensor node holds one of `names`, which match `tensors`."""

    nodes: list[Node] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    tensors: list[Any] = field(default_factory=list)


_Step = str | int | None  # of a path: a dict's key, a list's index, None for the root
_Child = tuple[str | int | None, _Step, Any]  # the node's key, its step, the object

_LEAVES: dict[type, NodeKind] = {
    type(None): NodeKind.NONE,
    bool: NodeKind.BOOL,
    int: NodeKind.INT,
    float: NodeKind.FLOAT,
    str: NodeKind.STR,
    bytes: NodeKind.BYTES,
}
_CONTAINERS: dict[type, NodeKind] = {
    dict: NodeKind.DICT,
    OrderedDict: NodeKind.DICT,
    Counter: NodeKind.DICT,  # in the state of MultiStepLR
    list: NodeKind.LIST,
    tuple: NodeKind.TUPLE,
}


def flatten(
    root: Any, is_tensor: Callable[[Any], bool], *, size_max: int | None = None
) -> Flattened:
    """Flattens `root`. Raises OptionError with the path of a value that cannot be saved.

    Shared containers are written wherever they occur, so a small object can become a very large
    one. `size_max` limits the number of values plus the length of their text.
    """
    _check_sharing(root)
    flat = Flattened()
    size = 0
    path: list[_Step] = []
    stack: list[Iterator[_Child]] = [iter([(None, None, root)])]
    while stack:
        child = next(stack[-1], None)
        if child is None:
            stack.pop()
            if path:
                path.pop()
            continue
        key, step, value = child
        path.append(step)
        if len(path) - 1 > DEPTH_MAX:
            raise OptionError(
                f"{_path_text(path)}: nested deeper than {DEPTH_MAX} levels (or in a cycle)"
            )
        if len(flat.nodes) == NODE_COUNT_MAX:
            raise OptionError(f"{_path_text(path)}: more than {NODE_COUNT_MAX} values")
        size += 1 + _text_size(value)
        if size_max is not None and size > size_max:
            raise OptionError(
                f"{_path_text(path)}: the object has more than {size_max} values and bytes of text,"
                " counting shared containers each time they occur"
            )
        if key is not None:
            _check_key(key, path)
        children = _add_node(flat, key, value, path, is_tensor)
        if children is None:
            path.pop()
        else:
            stack.append(children)
    return flat


def _text_size(value: Any) -> int:
    """What a value adds to the file besides its node."""
    if isinstance(value, (str, bytes)):
        return len(value)
    is_large = isinstance(value, int) and not INT_MIN <= value <= INT_MAX
    return value.bit_length() // 8 if is_large else 0


def _check_sharing(root: Any) -> None:
    """Refuses objects that would be written as far more values than they hold.

    A list that occurs several times is written each time, so a few lists that contain each other
    repeatedly can become more values than fit into any memory.
    """
    sizes: dict[int, int] = {}  # values written for each container, itself included, by id
    count = 0  # distinct values
    stack = [root] if type(root) in _CONTAINERS else []
    while stack:
        container = stack[-1]
        children = container.values() if isinstance(container, dict) else container
        inner = [child for child in children if type(child) in _CONTAINERS]
        if id(container) not in sizes:
            sizes[id(container)] = 0  # begun; cycles are found later
            count += 1 + len(container) - len(inner)
            stack += [child for child in inner if id(child) not in sizes]
            continue
        stack.pop()
        if not sizes[id(container)]:
            size = 1 + len(container) - len(inner) + sum(sizes[id(child)] for child in inner)
            sizes[id(container)] = min(size, NODE_COUNT_MAX + 1)
    if sizes and sizes[id(root)] - count > REPEATED_COUNT_MAX:
        raise OptionError(
            f"$: lists and dicts occur so often that {sizes[id(root)]} values or more would be"
            " written; replace them by copies of the parts that are needed"
        )


def _plain(value: Any) -> Any:
    """A NumPy scalar as a Python scalar of the same value; everything else unchanged."""
    if isinstance(value, np.generic) and type(value) in _NUMPY_SCALARS:
        return value.item()
    return value


_NUMPY_SCALARS = {
    np.bool_,
    np.str_,
    np.bytes_,
    *(np.dtype(f"{letter}{size}").type for letter in "iu" for size in (1, 2, 4, 8)),
    *(np.dtype(f"f{size}").type for size in (2, 4, 8)),
}


def _add_node(
    flat: Flattened,
    key: str | int | None,
    value: Any,
    path: list[_Step],
    is_tensor: Callable[[Any], bool],
) -> Iterator[_Child] | None:
    """Appends the node of `value`. Returns the children of a container, None for a leaf."""
    value = _plain(value)
    leaf = _LEAVES.get(type(value))
    if leaf is not None:
        if leaf is NodeKind.INT and not INT_MIN <= value <= INT_MAX:
            _check_large_int(value, path)
            leaf = NodeKind.LARGE_INT
        if leaf is NodeKind.STR:
            _check_text(value, path)
        flat.nodes.append(Node(leaf, key, value))
        return None
    container = _CONTAINERS.get(type(value))
    if container is not None:
        flat.nodes.append(Node(container, key, len(value)))
        if container is NodeKind.DICT:
            if None in value:  # elsewhere None says "no key"
                raise _bad_key(None, path)
            return ((key := _plain(k), key, v) for k, v in value.items())
        return ((None, i, v) for i, v in enumerate(value))
    if is_tensor(value):
        name = _tensor_name(path)
        flat.nodes.append(Node(NodeKind.TENSOR, key, name))
        flat.names.append(name)
        flat.tensors.append(value)
        return None
    found = type(value)
    raise OptionError(
        f"{_path_text(path)}: cannot save an object of type"
        f" {found.__module__}.{found.__qualname__}; convert it to dict, list, tuple, None, bool,"
        " int, float, str, bytes and tensors"
    )


def _check_key(key: Any, path: list[_Step]) -> None:
    if type(key) is str:
        _check_text(key, path)
    elif type(key) is int:
        _check_large_int(key, path)
    else:
        raise _bad_key(key, path[:-1])


def _check_large_int(value: int, path: list[_Step]) -> None:
    if (value if value >= 0 else ~value).bit_length() > INT_BITS_MAX:
        raise OptionError(
            f"{_path_text(path)}: this integer has {value.bit_length()} bits; the limit is"
            f" {INT_BITS_MAX}"
        )


def _bad_key(key: Any, path: list[_Step]) -> OptionError:
    return OptionError(
        f"{_path_text(path)}: cannot save a dict with the key {key!r}; keys must be str or int"
    )


def _check_text(text: str, path: list[_Step]) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise OptionError(
            f"{_path_text(path)}: text with a lone surrogate cannot be written as UTF-8"
        ) from None


def _path_text(path: list[_Step]) -> str:
    """The path as a person would write it: `$.state[0]["odd key"]`."""
    parts = ["$"]
    for step in path:
        if step is None:
            continue
        if isinstance(step, str) and step.isidentifier():
            parts.append(f".{step}")
        elif isinstance(step, str):
            quoted = step.encode("ascii", "backslashreplace").decode().replace('"', '\\"')
            parts.append(f'["{quoted}"]')
        elif step.bit_length() > INT_BITS_MAX:  # Python may refuse to print it
            parts.append(f"[an integer of {step.bit_length()} bits]")
        else:
            parts.append(f"[{step!r}]")
    return "".join(parts)


_NUMBER = re.compile(r"-?[0-9]+", re.ASCII)
_ESCAPED = re.compile("[~/\x00-\x1f\x7f-\x9f]")


def _tensor_name(path: list[_Step]) -> str:
    """See the module's docstring for the rules."""
    steps = [_escaped(step) for step in path if step is not None]
    return "/".join(steps) if steps else ROOT_TENSOR_NAME


def _escaped(step: str | int) -> str:
    if isinstance(step, int):
        return str(step)
    prefix = "~2" if _NUMBER.fullmatch(step) else ""
    return prefix + _ESCAPED.sub(_escape, step)


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    return {"~": "~0", "/": "~1"}.get(character) or f"~x{ord(character):02x}"


@dataclass
class _Open:
    """A container that is not yet complete."""

    kind: NodeKind
    key: str | int | None
    count: int
    keys: list[str | int | None] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)

    def finish(self) -> Any:
        if self.kind is NodeKind.DICT:
            return dict(zip(self.keys, self.values, strict=True))
        return tuple(self.values) if self.kind is NodeKind.TUPLE else self.values


def unflatten(nodes: Iterable[Node], tensor: Callable[[str], Any]) -> Any:
    """Rebuilds the object from nodes that libtz has validated. `tensor` returns the
    tensor of a name."""
    stack: list[_Open] = []
    result: Any = None
    for node in nodes:
        kind, key, value = node
        if kind in (NodeKind.DICT, NodeKind.LIST, NodeKind.TUPLE):
            container = _Open(NodeKind(kind), key, value)
            if value > 0:
                stack.append(container)
                continue
            value = container.finish()
        elif kind is NodeKind.TENSOR:
            value = tensor(value)
        while stack:
            parent = stack[-1]
            parent.keys.append(key)
            parent.values.append(value)
            if len(parent.values) < parent.count:
                break
            stack.pop()
            key, value = parent.key, parent.finish()
        else:
            result = value
    return result


def tensor_paths(nodes: Iterable[Node]) -> dict[str, tuple[str | int, ...]] | None:
    """The path of each tensor, by name. Steps are dict keys, and indices of lists and tuples; the
    path of a bare tensor is empty. None if there are other values than tensors."""
    paths: dict[str, tuple[str | int, ...]] = {}
    layers: list[tuple[tuple[str | int, ...], Iterator[int]]] = []
    for kind, key, value in nodes:
        path: tuple[str | int, ...] = ()
        while layers:
            prefix, indices = layers[-1]
            index = next(indices, None)
            if index is not None:
                path = (*prefix, index if key is None else key)
                break
            layers.pop()
        if kind in (NodeKind.DICT, NodeKind.LIST, NodeKind.TUPLE):
            layers.append((path, iter(range(value))))
        elif kind == NodeKind.TENSOR:
            paths[value] = path
        else:
            return None
    return paths
