"""Selects the writer of a file by the suffix of its name."""

from __future__ import annotations

from libtz.errors import OptionError
from libtz.locations import Location
from libtz.writing.coreweave_state import CoreweaveStateWriter
from libtz.writing.safetensors import SafetensorsWriter
from libtz.writing.tz import Writer

__all__ = ["WriterClass", "writer_class_of"]

# Their constructors are alike, which the abstract class does not express.
WriterClass = type[Writer] | type[SafetensorsWriter] | type[CoreweaveStateWriter]

WRITERS: dict[str, WriterClass] = {
    "tz": Writer,
    "safetensors": SafetensorsWriter,
    "tensors": CoreweaveStateWriter,
}


def writer_class_of(target: str) -> WriterClass:
    """The writer for `target`, a path or URL. Raises OptionError if its suffix is unknown."""
    writer = WRITERS.get(target.rpartition(".")[2].lower())
    if writer is None:
        *others, last = (f".{suffix}" for suffix in WRITERS)
        raise OptionError(
            f"{Location.of(target)}: the name must end with {', '.join(others)} or {last}"
        )
    return writer
