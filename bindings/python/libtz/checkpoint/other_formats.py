"""Recognises files that are not checkpoints by their first bytes, and says what to do with them."""

from __future__ import annotations

__all__ = ["describe_other_format"]

_PICKLE_HINT = "convert it once with `tz convert`, which uses PyTorch's restricted loader"

# First bytes, what they identify, what to do.
_SIGNATURES = (
    (
        b"version https://git-lfs.github.com/spec/",
        "a Git LFS pointer, not the file itself",
        "fetch the file with `git lfs pull`",
    ),
    (b"GGUF", "a GGUF file", "use the model's .safetensors files"),
    (b"\x93NUMPY", "a NumPy array file", "load it with numpy.load and save it again"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "export the weights to .safetensors"),
    (b"\x1f\x8b", "a gzip archive", "decompress it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "decompress it first"),
    (b"BZh", "a bzip2 archive", "decompress it first"),
    (b"\xfd7zXZ\x00", "an xz archive", "decompress it first"),
    (b"\x04\x22\x4d\x18", "an lz4 archive", "decompress it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (b"\x7fELF", "a program or library", "check the path"),
    (b"%PDF-", "a PDF document", "check the path"),
)
_TAR_MARK = 257  # offset of the signature of a tar archive
_MARKUP_SIZE = 1024  # white space and comments may precede the first element


def describe_other_format(front: memoryview) -> str | None:
    """What a file is, judging by its first bytes, and what to do. None if it is not recognised.

    Only for files that were already refused: a short signature may also begin another file.
    """
    head = bytes(front[:_MARKUP_SIZE])
    found = _archive(front, head) or _markup(head)
    if found is None:
        found = next(
            ((name, advice) for start, name, advice in _SIGNATURES if head.startswith(start)), None
        )
    if found is None:
        return None
    name, advice = found
    return f"it is {name}; {advice}"


def _archive(front: memoryview, head: bytes) -> tuple[str, str] | None:
    if head[:4] == b"PK\x03\x04":
        names = bytes(front[: 1 << 16])
        if b"data.pkl" in names or b".format_version" in names:
            return "a file written by torch.save", _PICKLE_HINT
        if b".npy" in head:
            return "a NumPy .npz archive", "load it with numpy.load and save it again"
        return "a zip archive", "unpack it first"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a pickle, as written by torch.save before PyTorch 1.6", _PICKLE_HINT
    if head[_TAR_MARK : _TAR_MARK + 5] == b"ustar":
        return "a tar archive", "unpack it first"
    if head[:1] == b"\x08" and any(mark in head[:64] for mark in (b"onnx", b"pytorch")):
        return "an ONNX model", "use the model's .safetensors files"
    return None


def _markup(head: bytes) -> tuple[str, str] | None:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        return "an HTML page, such as a login or error page", "check the URL and the credentials"
    if text.startswith((b"<?xml", b"<error")):
        return "an XML document, such as a store's error", "check the URL and the credentials"
    if text.startswith((b"{", b"[")):
        return "a JSON file", "the index of a sharded set must be named *.index.json"
    return None
