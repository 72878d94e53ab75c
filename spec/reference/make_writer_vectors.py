"""Write `spec/vectors/writers/v1.json`: descriptions of files, and the one file that each makes.

python make_writer_vectors.py            # write
python make_writer_vectors.py --check    # exit 1 if it is out of date
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from collections.abc import Mapping
from typing import Any

import generated
import tz_reference as tz
import tz_vectors

PATH = tz_vectors.VECTORS / "writers" / "v1.json"

Rule = dict[str, Any]


def text(content: str, count: int = 1) -> Rule:
    return {"hex": content.encode().hex(), "count": count}


def drawn(size: int, *columns: bytes, seed: int = 1) -> Rule:
    """Bytes drawn from each column in turn."""
    return {"columns": [column.hex() for column in columns], "seed": seed, "size": size}


ANY = bytes(range(256))
EXPONENTS = bytes([0x3C] * 120 + [0x3D] * 70 + [0x3B] * 40 + [0x3E] * 15 + list(range(0x30, 0x3B)))


def weights(size: int, seed: int = 1) -> Rule:
    """Like bf16 weights: noise below, few exponents above."""
    return drawn(size, ANY, EXPONENTS, seed=seed)


def tensor(name: str, dtype: str, shape: list[int], data: Rule) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": shape, "data": data}


def one(dtype: str, count: int, data: Rule, codec: str = "tiered", **more: Any) -> dict[str, Any]:
    return {"tensors": [tensor("x", dtype, [count], data)], "codec": codec, **more}


NESTED = [
    *(["dict", None, 3], ["tensor", "b", "a"], ["list", 7, 2], ["tensor", None, "z"]),
    *(["tuple", None, 7], ["none", None, None], ["bool", None, True], ["int", None, -1]),
    *(["float", None, "7ff8000000000001"], ["str", None, "\n"], ["bytes", None, "00ff"]),
    *(["large_int", None, 1 << 63], ["tensor", 1 << 64, "m"]),
]


def descriptions() -> dict[str, dict[str, Any]]:
    """By name, a file as a writer is given it."""
    abc = [tensor(name, "u8", [3], text(name * 3)) for name in "zam"]
    shared = [tensor(name, "f32", [2], text("12345678")) for name in ("\uff5e", "\U00010000", "b")]
    found: dict[str, dict[str, Any]] = {
        "nothing": {"tensors": [], "codec": "raw"},
        "order of the writer": {"tensors": abc, "codec": "raw"},
        "metadata in any order": {
            **{"tensors": abc, "codec": "raw"},
            "metadata": {"\U00010000": "", "\uff5e": "2", "a": "1\n"},
        },
        "nested object": {"tensors": abc, "codec": "raw", "structure": NESTED},
        "ties": {"tensors": shared, "codec": "raw", "ties": [["\uff5e", "b", "\U00010000"]]},
        "scalar, empty, sub-byte": {
            "tensors": [
                tensor("s", "i64", [], text("8 bytes.")),
                tensor("e", "c128", [0, 5], text("")),
                tensor("n", "f6_e2m3_x4", [5], text("fifteen bytes  ")),
            ],
            "codec": "raw",
        },
        "alignment": {
            "tensors": [
                tensor(f"{size}", "u8", [size], drawn(size, ANY)) for size in (65, 4095, 4096, 1)
            ],
            "codec": "raw",
        },
        "chunks of 64 KiB": one("u8", 65536 * 2 + 1, drawn(65536 * 2 + 1, ANY), "raw"),
        "chunks of 64 MiB": one("u8", 1, text("x"), "raw", chunk_size=1 << 26),
        "weights": one("bf16", 40_000, weights(80_000), chunk_size=1 << 17),
        "weights of a partial last piece": one("bf16", 4107, weights(8214)),
        "weights of several chunks": one("bf16", 70_001, weights(140_002)),
        "a sample of every fifth piece": one("bf16", 65_536, weights(131_072), chunk_size=1 << 17),
        "a sample of every 31st piece": one("bf16", 524_288, weights(1 << 20), chunk_size=1 << 20),
        "ranks that are equal": one("u8", 64 * 16, text("".join(map(chr, range(64, 80))), 64)),
        "63 bytes": one("bf16", 31, text("\0?", 31)),
        "64 bytes": one("bf16", 32, text("\0?", 32)),
        "constant": one("f32", 10_000, text("\0\0\0?", 10_000)),
        "constant but for an element outside of the sample": one(
            "u8", 65536, {"parts": [text("a", 100), text("b"), text("a", 65435)]}
        ),
        "noise": one("bf16", 10_000, drawn(20_000, ANY)),
        "every dtype that has a layout": {
            "tensors": [
                tensor(dtype, dtype, [4096 // tz.UNIT_SIZES[code]], weights(4096, seed=code))
                for dtype, code in sorted(tz.DTYPE_CODES.items())
                if code <= 0x24
            ],
            "codec": "tiered",
        },
        "both codecs": {
            "tensors": [
                tensor("w", "bf16", [2048], weights(4096)),
                tensor("noise", "u8", [4096], drawn(4096, ANY)),
                tensor("v", "bf16", [2048], weights(4096)),
            ],
            **{"codec": "tiered", "ties": [["w", "v"]], "metadata": {"k": "v"}},
        },
        "chunks whose sizes are at the border": border(),
    }
    return {name: {"chunk_size": 1 << 16, **given} for name, given in found.items()}


def border() -> dict[str, Any]:
    """int8 tensors with more and more noise, of which the first ones only gain 5 %."""
    tensors = []
    for share in range(0, 256, 8):
        column = bytes([7] * (256 - share)) + ANY[:share]
        tensors.append(tensor(f"{share:03}", "i8", [2048], drawn(2048, column, seed=share)))
    return {"tensors": tensors, "codec": "tiered"}


def nested_object(nodes: list[list[Any]]) -> Any:
    """The object of nodes in preorder, as a description has them."""
    rest = iter(nodes)

    def read() -> tuple[Any, Any]:
        kind, key, value = next(rest)
        if kind == "dict":
            return key, dict(read() for _ in range(value))
        if kind in ("list", "tuple"):
            children = [read()[1] for _ in range(value)]
            return key, children if kind == "list" else tuple(children)
        if kind == "tensor":
            return key, tz.TensorRef(value)
        if kind == "float":
            return key, struct.unpack(">d", bytes.fromhex(value))[0]
        return key, bytes.fromhex(value) if kind == "bytes" else value

    return read()[1]


def written(description: Mapping[str, Any]) -> bytes:
    """The file that the reference writes."""
    tensors = {
        each["name"]: tz.Tensor(
            each["dtype"], tuple(each["shape"]), tz_vectors.data_of(each["data"])
        )
        for each in description["tensors"]
    }
    nodes = description.get("structure")
    return tz.encode(
        tensors,
        ties=description.get("ties", ()),
        structure=tz.NO_STRUCTURE if nodes is None else nested_object(nodes),
        metadata=description.get("metadata"),
        chunk_size=description["chunk_size"],
        codec=description["codec"],
    )


def document() -> str:
    tests = []
    for name, description in descriptions().items():
        data = written(description)
        file = tz.File(data)
        tests.append(
            {
                "name": name,
                "description": description,
                "size": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "file_digest": file.digest,
                "content_digest": file.content_digest,
            }
        )
    return json.dumps({"tests": tests}, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.exit(generated.update(PATH, document, __doc__))
