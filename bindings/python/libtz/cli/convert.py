"""`tz convert`: converts any readable format to .tz, .safetensors or .tensors, tensor by tensor."""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from libtz import opening
from libtz.arrays.base import BufferFramework
from libtz.checkpoint.base import Checkpoint
from libtz.checkpoint.shard_index import INDEX_SUFFIX
from libtz.cli.contents import SourceContents
from libtz.cli.digest import sha256_of
from libtz.cli.options import add_command, add_digest, add_options, make_options
from libtz.cli.output import note, print_json, print_line, size_text
from libtz.cli.replacing import replacing_text
from libtz.errors import FormatError, IntegrityError, OptionError
from libtz.locations import Location
from libtz.options import DecryptionOptions, ReadOptions, WriteOptions
from libtz.sinks.base import Extent, Sink
from libtz.sinks.file import FileSink
from libtz.sources.url import redacted
from libtz.writing.base import CheckpointWriter, TensorSpec
from libtz.writing.formats import writer_class_of

__all__ = ["add_to"]

DESCRIPTION = """\
Convert between formats, or rewrite a .tz file with other options. SRC and DST are paths or URLs;
the suffix of DST selects the format. Only a few tensors are in memory at a time, never the whole
file. The result is read back and compared with SRC, tensor by tensor. Then its digest is printed,
to pin it when loading. A local file appears under its name after the comparison: until then, and if
the comparison fails, an existing file is kept, even if it is SRC. In S3, the object is replaced
first.

  tz convert model.safetensors model.tz
  tz convert model.tz model.safetensors
  tz convert model.tz model.tensors         for CoreWeave Tensorizer, as a state dict
  tz convert model.tz s3://bucket/model.tz --chunk-size 4M
  tz convert https://host/model.safetensors model.tz --compress off
  tz convert model.safetensors.index.json model.tz     all shards, into one file
  tz convert pytorch_model.bin model.tz

Names, dtypes, shapes, values and metadata are preserved. Formats other than .tz have no ties, so
tied tensors are stored once for each name. A .safetensors file cannot hold nested objects. A
.tensors file can hold dicts and lists of tensors, but no metadata, which are dropped.

Local files written by torch.save (.pt, .pth, .ckpt, .bin, .bin.index.json) are read by PyTorch with
weights_only=True.
"""

PICKLED_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")


def add_to(commands: Any) -> None:
    parser = add_command(commands, "convert", "write a file in another format", DESCRIPTION, run)
    parser.add_argument("source", metavar="SRC", help="file in any format, folder or index to read")
    parser.add_argument(
        "target", metavar="DST", help="file to write, .tz, .safetensors or .tensors"
    )
    add_digest(parser, "SRC")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_options(parser, ReadOptions, WriteOptions, writes=True)


def run(arguments: argparse.Namespace) -> None:
    writer_class_of(arguments.target)  # before anything is read
    target = Location.of(arguments.target)
    read_options = make_options(ReadOptions, arguments)
    write_options = make_options(WriteOptions, arguments)
    with _open(arguments.source, arguments.digest, read_options) as file:
        if (text := replacing_text(Location.of(arguments.source), target)) is not None:
            note(text)
        contents = SourceContents(file)
        report = contents.report() | _convert(contents, target, read_options, write_options)
    if arguments.json:
        print_json(report)
        return
    rate = size_text(report["bytes"] / report["write_s"])
    note(
        f"{report['tensors']} tensors, {size_text(report['bytes'])}: written in "
        f"{report['write_s']:.2f} s ({rate}/s), compared with the source in "
        f"{report['total_s'] - report['write_s']:.2f} s"
    )
    print_line(report["digest"])


@dataclass(frozen=True)
class _Compared(Location):
    """A path where a file only appears after it has been compared."""

    compare: Callable[[Path], None]

    def sink(self, options: WriteOptions, extent: Extent) -> Sink:
        return FileSink(self.text, check=self.compare)


def _convert(
    contents: SourceContents, target: Location, read: ReadOptions, write: WriteOptions
) -> dict[str, Any]:
    """Writes the target and compares it with the source. Returns digests and times. A local file is
    compared before it appears under its name."""
    begin = time.perf_counter()
    read = replace(read, decryption=DecryptionOptions())  # the written file is not encrypted
    times: dict[str, float] = {}
    advice = f"{target} was left as it was" if target.is_local else "do not use the file"

    def compare(written_at: Path | Location) -> None:
        times["write_s"] = time.perf_counter() - begin
        pin = writer.digest if writer.digest.startswith("blake3:") else None
        try:
            with opening.open_as(
                BufferFramework(), written_at, digest=pin, options=read
            ) as written:
                contents.compare(written, str(target))
            if pin is None and (found := sha256_of(written_at, read)) != writer.digest:
                raise IntegrityError.wrong_pin(str(target), writer.digest, found)
        except (FormatError, IntegrityError) as error:
            error.message += f"; the conversion failed, {advice}"
            raise

    written_at = _Compared(target.text, target.scheme, compare) if target.is_local else target
    writer = _writer(contents, written_at, write)
    with writer:
        _copy(contents, writer)
    if not target.is_local:
        compare(target)
    times["total_s"] = time.perf_counter() - begin
    return {"digest": writer.digest, "content_digest": writer.content_digest, **times}


def _copy(contents: SourceContents, writer: CheckpointWriter) -> None:
    """Copies all tensors. When this returns, none is in memory."""
    for name, data in contents.iter_buffers(writer.pending):
        writer.write_later(name, data)
    writer.drain()


def _open(source: str, digest: str | None, options: ReadOptions) -> Checkpoint[Any]:
    if not source.lower().removesuffix(INDEX_SUFFIX).endswith(PICKLED_SUFFIXES):
        return opening.open_as(BufferFramework(), source, digest=digest, options=options)
    if digest is not None:
        raise OptionError("files written by torch.save have no digest to check")
    if importlib.util.find_spec("torch") is None:
        raise OptionError(f"reading {redacted(source)} needs PyTorch, which is not installed")
    from libtz.torch.pickled import Pickled

    return Pickled(source, options)


def _writer(source: SourceContents, target: Location, options: WriteOptions) -> CheckpointWriter:
    writer_class = writer_class_of(target.text)
    # The number of an unknown dtype has the same meaning in all .tz files, and only in those.
    is_same_format = source.file.format == "tz"
    specs = writer_class.arranged(
        TensorSpec(
            info.name, info.dtype, info.shape, info.tied_to, info.nbytes if is_same_format else None
        )
        for info in source.infos.values()
    )
    metadata = source.file.metadata or None
    if metadata and not writer_class.holds_metadata:
        left_out = ", ".join(metadata)
        note(f"{target} cannot hold metadata; these entries are dropped: {left_out}")
        metadata = None
    structure = source.file.structure()
    # Writers take a location, which is no public type.
    return writer_class(
        cast("Any", target), specs, metadata=metadata, structure=structure, options=options
    )
