"""`tz convert`: from any format that is read to .tz, .safetensors or .tensors, tensor by tensor."""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from libtz import opening
from libtz._native import lib
from libtz.checkpoint.file import File
from libtz.checkpoint.shard_index import INDEX_SUFFIX
from libtz.cli.options import add_command, add_options, make_options
from libtz.cli.output import note, print_json, size_text
from libtz.cli.verify import verify
from libtz.errors import OptionError
from libtz.format import TensorInfo
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
result is read again and verified; its digest, which pins it for loading, is printed.

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
        report = convert(file, arguments.target, write_options)
    report["write_s"] = time.perf_counter() - begin
    # What is written is not encrypted.
    verify(
        arguments.target, report["digest"], replace(read_options, decryption=DecryptionOptions())
    )
    report["total_s"] = time.perf_counter() - begin
    if arguments.json:
        print_json(report)
        return
    rate = size_text(report["bytes"] / report["write_s"])
    note(
        f"{report['tensors']} tensors, {size_text(report['bytes'])}: written in "
        f"{report['write_s']:.2f} s ({rate}/s), verified in "
        f"{report['total_s'] - report['write_s']:.2f} s"
    )
    print(report["digest"])


def _open(source: str, digest: str | None, options: ReadOptions) -> Any:
    if not source.lower().removesuffix(INDEX_SUFFIX).endswith(PICKLED_SUFFIXES):
        return opening.open(source, digest=digest, options=options)
    if digest is not None:
        raise OptionError("files of torch.save have no digest that could be checked")
    if importlib.util.find_spec("torch") is None:
        raise OptionError(f"{shown(source)} is read by PyTorch, which is not installed")
    from libtz.torch.pickled import Pickled

    return Pickled(source, options)


def _to_tz(file: Any, target: Any, options: WriteOptions) -> dict[str, Any]:
    infos = [file.info(name) for name in file]
    specs = [TensorSpec(info.name, info.dtype, info.shape, info.tied_to) for info in infos]
    places = {spec.name: place for place, spec in enumerate(specs)}
    nodes = [
        node._replace(value=places[node.value]) if node.kind == lib.NODE_TENSOR else node
        for node in file.structure()
    ]
    writer = Writer(target, specs, metadata=file.metadata, structure=nodes, options=options)
    with writer:
        for name, data in file.iter_buffers(writer.pending):
            writer.put(name, data)
    report = _report(infos)
    return report | {"digest": writer.digest, "content_digest": writer.content_digest}


def _to_safetensors(file: Any, target: Any, options: WriteOptions) -> dict[str, Any]:
    if file.structure():
        raise OptionError("the file holds a nested object, which a .safetensors file cannot")
    infos = {name: file.info(name) for name in file}
    places = {name: place for place, name in enumerate(infos)}

    def order(spec: TensorSpec) -> tuple[int, int, int]:
        # The format has no padding: larger units first aligns all. Tied tensors follow their owner,
        # whose data are then read once.
        owner = infos[spec.name].tied_to or spec.name
        return -unit_size(spec), places[owner], places[spec.name]

    specs = sorted((TensorSpec(i.name, i.dtype, i.shape) for i in infos.values()), key=order)
    writer = SafetensorsWriter(target, specs, metadata=file.metadata, options=options)
    with writer:
        for size in sorted({unit_size(spec) for spec in specs}, reverse=True):
            names = [spec.name for spec in specs if unit_size(spec) == size]
            for name, data in file.iter_buffers(names):
                writer.write(name, [data])
    return _report(infos.values()) | {"digest": writer.digest, "content_digest": None}


def _to_tensors(file: File, target: Any, options: WriteOptions) -> dict[str, Any]:
    paths = _tensors_paths(file)
    infos = {name: file.info(name) for name in file}
    places = {name: place for place, name in enumerate(infos)}
    # Tied tensors follow their owner, whose data are then read once.
    names = sorted(infos, key=lambda name: (places[infos[name].tied_to or name], places[name]))
    records = [
        TensorRecord(paths.get(name, (name,)), infos[name].dtype, infos[name].shape)
        for name in names
    ]
    if file.metadata:
        note(f"metadata are left out, {shown(target)} cannot hold them: {', '.join(file.metadata)}")
    writer = CoreweaveWriter(target, records, options=options)
    with writer:
        for _, data in file.iter_buffers(names):
            writer.put(partial(list, [data]))
    return _report(infos.values()) | {"digest": writer.digest, "content_digest": None}


def _tensors_paths(file: File) -> dict[str, tuple[str | int, ...]]:
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


def _report(infos: Iterable[TensorInfo]) -> dict[str, Any]:
    counted = list(infos)
    size = sum(info.nbytes for info in counted if info.tied_to is None)
    return {"tensors": len(counted), "bytes": size}


_CONVERTERS = {"tz": _to_tz, "safetensors": _to_safetensors, "tensors": _to_tensors}
