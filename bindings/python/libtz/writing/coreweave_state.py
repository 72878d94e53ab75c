"""Writes a state dict as a .tensors file: flat, or dicts and lists of tensors."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from libtz._native.lib import Node
from libtz.errors import OptionError
from libtz.locations import TargetLike
from libtz.options import WriteOptions
from libtz.structure import NodeKind, tensor_paths
from libtz.writing.base import TensorSpec, listed, untied
from libtz.writing.coreweave import CoreweaveWriter, TensorRecord

__all__ = ["CoreweaveStateWriter"]


class CoreweaveStateWriter(CoreweaveWriter):
    """The same as `libtz.Writer`, but without ties and metadata, which the format does not have.
    Raises OptionError if metadata are given."""

    holds_metadata = False

    def __init__(
        self,
        target: TargetLike,
        specs: Iterable[TensorSpec],
        *,
        metadata: Mapping[str, str] | None = None,
        structure: Sequence[Node] = (),
        options: WriteOptions | None = None,
    ) -> None:
        if metadata:
            raise OptionError(f"a .tensors file cannot hold metadata: {', '.join(metadata)}")
        paths = _paths(structure)
        records = {
            spec.name: TensorRecord(
                paths.get(spec.name, (spec.name,)), spec.dtype, tuple(spec.shape)
            )
            for spec in listed(specs)
        }
        super().__init__(target, records.values(), options=options)
        self._record_names: dict[Hashable, Hashable] = {
            name: record.name for name, record in records.items()
        }
        self._names = {record: name for name, record in self._record_names.items()}

    @classmethod
    def arranged(cls, specs: Iterable[TensorSpec]) -> list[TensorSpec]:
        return untied(specs)

    @property
    def pending(self) -> tuple[Any, ...]:
        return tuple(self._names[record] for record in super().pending)

    def _put(self, name: Hashable, data: Any) -> None:
        super()._put(self._record_names.get(name, name), data)


def _paths(structure: Sequence[Node]) -> dict[str, tuple[str | int, ...]]:
    """The paths of tensors by name. Empty for a flat file."""
    paths = tensor_paths(structure)
    is_held = all(
        node.value > 0 and not isinstance(node.key, int)
        if node.kind in (NodeKind.DICT, NodeKind.LIST)
        else node.kind == NodeKind.TENSOR and not isinstance(node.key, int)
        for node in structure
    )
    if paths is None or not is_held or () in paths.values():
        raise OptionError(
            "a .tensors file can only hold non-empty dicts (with str keys), non-empty lists, and"
            " tensors"
        )
    return paths
