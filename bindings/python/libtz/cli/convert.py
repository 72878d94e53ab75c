"""`tz convert`: from any format that is read to .tz, .safetensors or .tensors, tensor by tensor."""

from __future__ import annotations

import argparse
import importlib.util
import time
from dataclasses import replace
from functools import partial
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
from libtz.structure import NodeKind, tensor_paths
from libtz.writing.coreweave import CoreweaveWriter, TensorRecord
from libtz.writing.safetensors import SafetensorsWriter, unit_size
from libtz.writing.tz import TensorSpec, Writer

__all__ = ["add_to"]

DESCRIPTION = """\
Convert between formats, or write a .tz file anew with other options. SRC and DST are paths or URLs;
the ending of DST says the format. Memory holds a few tensors at a time, never the whole file. The
result is read again and compared with SRC, tensor by tensor; its digest, which pins it for loading,
is printed.

  tz convert model.safetensors model.tz
  tz convert model.tz model.safetensors
  tz convert model.tz model.tensors         for CoreWeave Tensorizer, as a state dict
  tz convert model.tz s3://bucket/model.tz --chunk-size 4M
  tz convert https://host/model.safetensors model.tz --compress off
  tz convert model.safetensors.index.json model.tz     all shards, into one file
  tz convert pytorch_model.bin model.tz

Names, types, shapes, values and metadata stay. The other formats have no ties: tied tensors are
stored once for each name. A .safetensors file has no nested objects, which are refused; a .tensors
file has dicts and lists of tensors, but no metadata, which are left out.

Files of torch.save (.pt, .pth, .ckpt, .bin, .bin.index.json; local ones) are read by PyTorch with
weights_only=True.
"""

PICKLED_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")


def add_to(commands: Any) -> None:
    parser = add_command(commands, "convert", "write a file in another format", DESCRIPTION, run)
    parser.add_argument("source", metavar="SRC", help="file of any format, folder or index to read")
    parser.add_argument(
        "target", metavar="DST", help="file to write, .tz, .safetensors or .tensors"
    )
    parser.add_argument("--digest", help="the digest that SRC must have")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_options(parser, ReadOptions, WriteOptions)


def run(arguments: argparse.Namespace) -> None:
    convert = _CONVERTERS.get(arguments.target.rpartition(".")[2].lower())
    if convert is None:
        raise OptionError(
            f"{shown(arguments.target)}: the name must end with .tz, .safetensors or .tensors"
        )
    read_options = make_options(ReadOptions, arguments)
    write_options = make_options(WriteOptions, arguments)
    begin = time.perf_counter()
    with _open(arguments.source, arguments.digest, read_options) as file:
        contents = SourceContents(file)
        report = convert(contents, arguments.target, write_options)
    report |= contents.report()
    report["write_s"] = time.perf_counter() - begin
    # What is written is not encrypted.
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
    """Opens what was written anew, and raises an IntegrityError unless it holds what the source
    held."""
    pin = digest if digest.startswith("blake3:") else None
    with opening.open(target, digest=pin, options=options) as written:
        contents.compare(written, target)
    if pin is None and (found := sha256_of(target, options)) != digest:
        raise IntegrityError.wrong_pin(target, digest, found)


def _open(source: str, digest: str | None, options: ReadOptions) -> Checkpoint[Any]:
    if not source.lower().removesuffix(INDEX_SUFFIX).endswith(PICKLED_SUFFIXES):
        return opening.open(source, digest=digest, options=options)
    if digest is not None:
        raise OptionError("files of torch.save have no digest that could be checked")
    if importlib.util.find_spec("torch") is None:
        raise OptionError(f"{shown(source)} is read by PyTorch, which is not installed")
    from libtz.torch.pickled import Pickled

    return Pickled(source, options)


def _to_tz(source: SourceContents, target: Any, options: WriteOptions) -> dict[str, Any]:
    specs = [TensorSpec(i.name, i.dtype, i.shape, i.tied_to) for i in source.infos.values()]
    indices = {spec.name: index for index, spec in enumerate(specs)}
    nodes = [
        node._replace(value=indices[node.value]) if node.kind == NodeKind.TENSOR else node
        for node in source.file.structure()
    ]
    metadata = source.file.metadata
    writer = Writer(target, specs, metadata=metadata, structure=nodes, options=options)
    with writer:
        for name, data in source.iter_buffers(writer.pending):
            writer.put(name, data)
    return {"digest": writer.digest, "content_digest": writer.content_digest}


def _to_safetensors(source: SourceContents, target: Any, options: WriteOptions) -> dict[str, Any]:
    if source.file.structure():
        raise OptionError("the file holds a nested object, which a .safetensors file cannot")
    # The format has no padding: larger units first aligns all.
    groups: dict[int, list[TensorSpec]] = {}
    for info in source.owners_first():
        spec = TensorSpec(info.name, info.dtype, info.shape)
        groups.setdefault(unit_size(spec), []).append(spec)
    ordered = [groups[size] for size in sorted(groups, reverse=True)]
    specs = [spec for group in ordered for spec in group]
    writer = SafetensorsWriter(
        target, specs, metadata=source.file.metadata or None, options=options
    )
    with writer:
        for group in ordered:
            for name, data in source.iter_buffers([spec.name for spec in group]):
                writer.write(name, [data])
    return {"digest": writer.digest, "content_digest": None}


def _to_tensors(source: SourceContents, target: Any, options: WriteOptions) -> dict[str, Any]:
    paths = _tensors_paths(source.file)
    records = {
        info.name: TensorRecord(paths.get(info.name, (info.name,)), info.dtype, info.shape)
        for info in source.owners_first()
    }
    if source.file.metadata:
        left_out = ", ".join(source.file.metadata)
        note(f"metadata are left out, {shown(target)} cannot hold them: {left_out}")
    writer = CoreweaveWriter(target, records.values(), options=options)
    with writer:
        for name, data in source.iter_buffers(records):
            writer.put(records[name].name, partial(list, [data]))
    return {"digest": writer.digest, "content_digest": None}


def _tensors_paths(file: Checkpoint[Any]) -> dict[str, tuple[str | int, ...]]:
    """Paths by name; none of a flat file."""
    nodes = file.structure()
    paths = tensor_paths(nodes)
    is_held = all(
        node.value > 0 and not isinstance(node.key, int)
        if node.kind in (NodeKind.DICT, NodeKind.LIST)
        else node.kind == NodeKind.TENSOR and not isinstance(node.key, int)
        for node in nodes
    )
    if paths is None or not is_held or () in paths.values():
        raise OptionError(
            "the file holds a nested object with more than dicts (of str), lists and tensors, or"
            " with empty ones, which a .tensors file cannot"
        )
    return paths


_CONVERTERS = {"tz": _to_tz, "safetensors": _to_safetensors, "tensors": _to_tensors}
