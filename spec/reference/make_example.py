"""Write `spec/tz-v1-example.md`: one small file, byte by byte.

python make_example.py            # write
python make_example.py --check    # exit 1 if it is out of date
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import generated
import tz_kit
import tz_vectors

NAME = "valid/annotated"
PATH = tz_vectors.VECTORS.parent / "tz-v1-example.md"

HEAD = """\
# A tz file, byte by byte

*Non-normative.*
This is the file of `vectors/v1/NAME.hex`, SIZE bytes.
It holds a nested object with a tie, metadata, a compressed chunk and a raw one:

```python
weight = the bf16 tensor of section 10 of the codec's text, 256 elements
{"layers": [weight, bias], "head": weight}        # bias: f32, 2 elements; metadata license: MIT
```

Each line is an offset in the file, bytes, and the field that they are.
`* N` says that the bytes occur N times in all.
Numbers are little-endian: `80 03 00 00 00 00 00 00` is 0x380, or 896.
`reference/make_example.py` makes this page.
"""

# By the path of a field: a heading, and what to know of what is below it.
PARTS = (
    ("preamble", "Preamble", "The BLAKE3 of these 128 bytes is the file digest."),
    (
        "directory",
        "Section directory",
        "Six entries.\nEach section begins at the next multiple of 64 after the one before.",
    ),
    (
        "tensor",
        "Tensor table",
        "Sorted by name.\n`weight` is tied to `head`, whose name is smaller, and so has no data of"
        " its own.\nBy `order` the writer was given `weight`, `bias`, `head`: the data lie so.",
    ),
    ("dimension", "Shapes", "One dimension of each tensor."),
    ("name", "Names", "Found by the sizes in the tensor table."),
    (
        "node",
        "Structure",
        "Five nodes in preorder, each followed by its key.\nThe value of a tensor's node is its"
        " index in the tensor table, that of a container the number of its children.",
    ),
    ("pair", "Metadata", "Two sizes, key, value."),
    (
        "chunk",
        "Chunk table",
        "A run for each tensor with data, in the order of the data.\nOpening ends before it.",
    ),
    (
        "tiered",
        "Data: a compressed chunk",
        "Section 10 of the codec's text explains the 320 bytes.\nDecoded they are 512.\nThe padding"
        " at the end is the chunk's own; a file has none behind its last chunk.",
    ),
    ("data", "Data: a raw chunk", "As it lies in memory: 1 and -0.5."),
)


def part_of(label: str) -> str | None:
    """The part that a field belongs to; None for padding."""
    if label == "padding":
        return None
    found = re.match(r"(?:name|key|value|data)? ?(?:of )?([a-z]+)", label)
    word = found[1] if found else ""
    if label.startswith("name of"):
        return "name"
    return "data" if label.startswith("data of") else word


def blocks(data: bytes) -> Iterator[tuple[str, list[str]]]:
    """Each part with its lines."""
    current = ""
    lines: list[str] = []
    for begin, end, label in tz_kit.annotate(data):
        part = part_of(label)
        if part is not None and part != current:
            if lines:
                yield current, lines
            current, lines = part, []
        for number, line in enumerate(tz_vectors.hex_lines(data[begin:end])):
            offset = f"{begin:4}" if number == 0 else "    "
            note = f"  {label}" if number == 0 else ""
            lines.append(f"{offset}  {line:<47}{note}".rstrip())
    yield current, lines


def page() -> str:
    vector = tz_vectors.load(tz_vectors.VECTORS / "v1" / f"{NAME}.hex")
    text = [HEAD.replace("NAME", NAME).replace("SIZE", str(len(vector.data)))]
    about = {part: (heading, note) for part, heading, note in PARTS}
    for part, lines in blocks(vector.data):
        heading, note = about[part]
        text += [f"## {heading}\n", f"{note}\n", "```", *lines, "```\n"]
    return "\n".join(text)


if __name__ == "__main__":
    sys.exit(generated.update(PATH, page, __doc__))
