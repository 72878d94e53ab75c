"""`tz convert`: converts any readable format to .tz, .safetensors or .tensors, tensor by tensor."""

from __future__ import annotations

import argparse
import importlib.util
import time
from dataclasses import replace
from typing import Any

from libtz import opening
from libtz.checkpoint.base import Checkpoint
from libtz.checkpoint.shard_index import INDEX_SUFFIX
from libtz.cli.contents import SourceContents
from libtz.cli.digest import sha256_of
from libtz.cli.options import add_command, add_options, make_options
from libtz.cli.output import note, print_json, print_line, size_text
from libtz.errors import IntegrityError, OptionError
from libtz.options import DecryptionOptions, ReadOptions, WriteOptions
from libtz.sources.url import shown
from libtz.writing.base import CheckpointWriter, TensorSpec
from libtz.writing.formats import writer_class_of

__all__ = ["add_to"]

DESCRIPTION = """\
Convert between formats, or rewrite a .tz file with other options. SRC and DST are paths or URLs;
the suffix of DST selects the format. Only a few tensors are in memory at a time, never the whole
file. The result is read back and compared with SRC, tensor by tensor. Then its digest is printed,
to pin it when loading.

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
    parser.add_argument("--digest", help="the digest that SRC must have")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_options(parser, ReadOptions, WriteOptions)


def run(arguments: argparse.Namespace) -> None:
    writer_class_of(arguments.target)  # before anything is read
    read_options = make_options(ReadOptions, arguments)
    write_options = make_options(WriteOptions, arguments)
    begin = time.perf_counter()
    with _open(arguments.source, arguments.digest, read_options) as file:
        contents = SourceContents(file)
        writer = _write(contents, arguments.target, write_options)
    report: dict[str, Any] = {"digest": writer.digest, "content_digest": writer.content_digest}
    report |= contents.report()
    report["write_s"] = time.perf_counter() - begin
    # The written file is not encrypted.
    plain = replace(read_options, decryption=DecryptionOptions())
    _compare(contents, arguments.target, report["digest"], plain)
    report["total_s"] = time.perf_counter() - begin
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


def _compare(contents: SourceContents, target: str, digest: str, options: ReadOptions) -> None:
    """Opens the written file, and raises IntegrityError unless its contents are those of the
    source."""
    pin = digest if digest.startswith("blake3:") else None
    with opening.open(target, digest=pin, options=options) as written:
        contents.compare(written, target)
    if pin is None and (found := sha256_of(target, options)) != digest:
        raise IntegrityError.wrong_pin(target, digest, found)


def _open(source: str, digest: str | None, options: ReadOptions) -> Checkpoint[Any]:
    if not source.lower().removesuffix(INDEX_SUFFIX).endswith(PICKLED_SUFFIXES):
        return opening.open(source, digest=digest, options=options)
    if digest is not None:
        raise OptionError("files written by torch.save have no digest to check")
    if importlib.util.find_spec("torch") is None:
        raise OptionError(f"reading {shown(source)} needs PyTorch, which is not installed")
    from libtz.torch.pickled import Pickled

    return Pickled(source, options)


def _write(source: SourceContents, target: str, options: WriteOptions) -> CheckpointWriter:
    """Writes the file. Returns the closed writer, which knows the digests."""
    writer_class = writer_class_of(target)
    specs = writer_class.arranged(
        TensorSpec(info.name, info.dtype, info.shape, info.tied_to)
        for info in source.infos.values()
    )
    metadata = source.file.metadata or None
    if metadata and not writer_class.holds_metadata:
        left_out = ", ".join(metadata)
        note(f"{shown(target)} cannot hold metadata; these entries are dropped: {left_out}")
        metadata = None
    structure = source.file.structure()
    with writer_class(
        target, specs, metadata=metadata, structure=structure, options=options
    ) as writer:
        for name, data in source.iter_buffers(writer.pending):
            writer.write_later(name, data)
    return writer
