"""Say what a tz file holds, or what is wrong with it, in the JSON that conformance tests compare.

    python tz_describe.py [--open | --load NAME] [--digest blake3:...] FILE

This is the reference for the command that another implementation puts in its place; the protocol
is written down in `spec/README.md`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tz_reference as tz

Description = dict[str, Any]


def describe(data: bytes, *, pin: str | None = None, operation: str = "verify") -> Description:
    """What the file `data` holds, or its error; `operation` is "open", "verify" or "load NAME"."""
    released = hashlib.sha256()
    try:
        file = tz.File(data, pin=pin)
        if operation.startswith("load "):
            dtype, shape, content = file.load(operation.removeprefix("load "))
            digest = hashlib.sha256(content).hexdigest()
            return {"result": "ok", "dtype": dtype, "shape": list(shape), "sha256": digest}
        released = file.released
        if operation == "verify":
            try:
                file.verify()
            finally:
                released = file.released
    except tz.TzError as error:
        codec_rule = re.search(r"TZ1T-\d+", error.message)
        return {
            "result": "error",
            "class": error.error_class,
            "rule": error.rule,
            "codec_rule": codec_rule and codec_rule[0],
            "released": released.hexdigest(),
        }
    return _file(file, with_chunks=operation == "verify")


def _file(file: tz.File, with_chunks: bool) -> Description:
    header = file.header
    structure = None
    if tz.STRUCTURE in header.sections:
        structure = list(_nodes(header.structure))
    return {
        "result": "ok",
        "file_digest": file.digest,
        "content_digest": file.content_digest,
        "chunk_size": 1 << header.preamble.chunk_size_log2,
        "metadata": file.metadata,
        "structure": structure,
        "tensors": [_tensor(file, entry, with_chunks) for entry in header.entries],
    }


def _tensor(file: tz.File, entry: tz.Entry, with_chunks: bool) -> Description:
    record = entry.record
    tensor: Description = {
        "name": entry.name,
        "dtype": tz.dtype_name(record.dtype),
        "shape": list(entry.shape),
        "order": record.order,
        "tie": file.header.entries[record.tie].name if entry.is_tied else None,
        "decoded_size": record.decoded_size,
        "stored_size": record.stored_size,
        "data_offset": record.data_offset,
        "content_digest": "blake3:" + record.content_digest.hex(),
    }
    if with_chunks:
        run = [] if entry.is_tied else file.run(entry)
        tensor["chunks"] = [[c.stored_length, c.codec, c.crc] for c, _, _ in run]
    return tensor


def _nodes(value: Any, key: str | int | None = None) -> Iterator[list[Any]]:
    """The nodes of a nested object in preorder, each as [kind, key, value]."""
    if isinstance(value, dict):
        yield ["dict", key, len(value)]
        for child_key, child in value.items():
            yield from _nodes(child, child_key)
    elif isinstance(value, tz.TensorRef):
        yield ["tensor", key, value.name]
    elif isinstance(value, (list, tuple)):
        yield [type(value).__name__, key, len(value)]
        for child in value:
            yield from _nodes(child)
    elif isinstance(value, bytes):
        yield ["bytes", key, value.hex()]
    elif isinstance(value, float):
        yield ["float", key, struct.pack(">d", value).hex()]
    elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        yield ["large_int", key, value]
    else:
        yield ["none" if value is None else type(value).__name__, key, value]


def to_json(description: Description) -> str:
    return json.dumps(description, sort_keys=True, separators=(",", ":"))


def _pin(text: str) -> str:
    if not re.fullmatch("blake3:[0-9a-f]{64}", text):
        raise argparse.ArgumentTypeError("not blake3: and 64 lower-case hexadecimal digits")
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    operation = parser.add_mutually_exclusive_group()
    operation.add_argument(
        "--open", action="store_const", const="open", dest="operation", help="only open the file"
    )
    operation.add_argument(
        "--load", metavar="NAME", type="load {}".format, dest="operation", help="load a tensor"
    )
    parser.add_argument("--digest", type=_pin, help="the file digest that the file must have")
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    data = arguments.file.read_bytes()
    try:
        description = describe(
            data, pin=arguments.digest, operation=arguments.operation or "verify"
        )
    except KeyError as error:
        parser.error(f"there is no tensor {error}")
    print(to_json(description))
    return 0 if description["result"] == "ok" else 1


if __name__ == "__main__":
    sys.exit(main())
