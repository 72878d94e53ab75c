"""What a checkpoint holds: names, descriptions, metadata."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping

from libtz._native.lib import Node
from libtz.format import Format, TensorInfo

__all__ = ["Contents"]


class Contents(Collection[str], ABC):
    """The names, in the writer's order, and all that is known about them without reading tensors.

    Every member can raise the errors of `Checkpoint`: a set opens its files when they are needed.
    """

    @property
    @abstractmethod
    def url(self) -> str:
        """The path or URL, without secrets."""

    @property
    @abstractmethod
    def format(self) -> Format:
        """The format of the file, or of all the files of a set."""

    @property
    @abstractmethod
    def metadata(self) -> Mapping[str, str]:
        """Strings by name."""

    @property
    @abstractmethod
    def digest(self) -> str | None:
        """The digest that pins the file or the set. None if it has none."""

    @property
    @abstractmethod
    def content_digest(self) -> str | None:
        """The digest of names, dtypes, shapes and content. None if none is stored."""

    @abstractmethod
    def info(self, name: str) -> TensorInfo:
        """Describes a tensor. Raises KeyError if there is none of that name."""

    def storage_order(self) -> list[str]:
        """All names in the order of their data."""
        return list(self)

    def structure(self) -> list[Node]:
        """The nodes of a nested object. Empty for a flat set of tensors."""
        return []

    def prepare(self) -> None:
        """Called before all tensors are read."""
