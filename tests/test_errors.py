"""The fields and codes of errors, and the Python exceptions that they also are."""

from __future__ import annotations

import ast
import copy
import errno
import hashlib
import pickle
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from tests.files import make_file, random_tensor

import libtz
from libtz._native import clib, status
from libtz.errors import (
    CODES,
    Error,
    ErrorCode,
    FormatError,
    IntegrityError,
    OptionError,
    SourceError,
    SourceNotFoundError,
    SourcePermissionError,
)

PACKAGE = Path(libtz.__file__).parent
FILE = make_file({"t": random_tensor("u8", (1000,))})
FILE_ARRAY = np.arange(100, dtype=np.float32)


# ---- Codes ---------------------------------------------------------------------------------------


def codes_in_python() -> set[str]:
    """The codes of all errors that the package raises in Python."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                values = [keyword.value for keyword in node.keywords if keyword.arg == "code"]
                found |= {str(code.value) for code in values if isinstance(code, ast.Constant)}
    return found


def codes_of_the_library() -> set[str]:
    """The statuses for invalid data."""
    names = {status.status_name(number) for number in range(clib.TZ_E_NOT_TZ, 128)}
    return names - {"unknown"}


@pytest.mark.slow
def test_every_code_has_a_meaning_and_is_used() -> None:
    assert set(get_args(ErrorCode)) == set(CODES)
    assert codes_in_python() | codes_of_the_library() == set(CODES)
    assert all(meaning and not meaning.endswith(".") for meaning in CODES.values())


# ---- Pickling and copying ------------------------------------------------------------------------


def examples() -> list[Error]:
    where: dict[str, Any] = {"rule": "TZ1-9", "offset": 7, "tensor": "t", "chunk": 2}
    return [
        FormatError("m", code="layout", **where),
        IntegrityError("m", code="checksum", **where),
        IntegrityError.wrong_pin("f", "blake3:1", "blake3:2"),
        SourceError("m", url="u", status=503, retryable=True),
        SourceError("m", url="u", errno=errno.ENOSPC),
        SourceError("m", url="u", status=404),
        SourceError("m", url="u", errno=errno.EACCES),
        OptionError("m"),
    ]


@pytest.mark.parametrize("error", examples(), ids=repr)
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, "pickle"])
def test_fields_survive(error: Error, duplicate: Any) -> None:
    error.changed = ("w", "v")
    again = pickle.loads(pickle.dumps(error)) if duplicate == "pickle" else duplicate(error)
    assert type(again) is type(error)
    assert vars(again) == vars(error)
    assert (str(again), again.args) == (str(error), error.args)
    for name in ("errno", "strerror", "filename"):
        assert getattr(again, name, None) == getattr(error, name, None)


# ---- Sources -------------------------------------------------------------------------------------


def test_sources_fail_as_files_do(tmp_path: Path) -> None:
    missing = tmp_path / "missing.tz"
    with pytest.raises(FileNotFoundError) as caught:
        libtz.open(missing)
    assert isinstance(caught.value, SourceNotFoundError)
    assert caught.value.errno == errno.ENOENT
    assert caught.value.filename == str(missing)
    with pytest.raises(SourceError) as other:
        libtz.open(Path("/dev/null"))
    assert isinstance(other.value, OSError)
    assert (type(other.value), other.value.errno) == (SourceError, None)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:  # tests may run as root, which can read everything
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(PermissionError) as caught:
        libtz.open(tmp_path / "forbidden.tz")
    assert isinstance(caught.value, SourcePermissionError)


def test_no_object_and_no_permission_in_a_store() -> None:
    from botocore.exceptions import ClientError

    from libtz.sources.s3_errors import s3_errors

    for answer, code, expected in (
        (404, "NoSuchKey", FileNotFoundError),
        (403, "AccessDenied", PermissionError),
        (503, "SlowDown", SourceError),
    ):
        response: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": answer}}
        with pytest.raises(expected) as caught, s3_errors("s3://bucket/key"):
            raise ClientError(response, "GetObject")
        assert isinstance(caught.value, SourceError)
        assert caught.value.filename == "s3://bucket/key"


def test_a_full_disk_is_told_by_its_number() -> None:
    error = SourceError("m", url="u", errno=errno.ENOSPC)
    assert (type(error), error.errno, error.strerror) == (
        SourceError,
        errno.ENOSPC,
        "No space left on device",
    )


# ---- Pins ----------------------------------------------------------------------------------------


def test_a_wrong_pin_says_what_was_found() -> None:
    pin = "blake3:" + "0" * 64
    for data, found in ((FILE.data, FILE.digest), (b"<html>" * 100, None), (b"", None)):
        with pytest.raises(IntegrityError) as caught:
            libtz.open(data, digest=pin)
        error = caught.value
        assert (error.code, error.expected, error.found) == ("digest", pin, found)
        assert pin in str(error)
        assert found is None or found in str(error)


def test_a_wrong_pin_of_another_format_says_what_was_found() -> None:
    import safetensors.numpy as peer

    data = peer.save({"t": FILE_ARRAY})
    pin = "sha256:" + "0" * 64
    with pytest.raises(IntegrityError) as caught, libtz.open(data, digest=pin) as file:
        file.load()
    found = "sha256:" + hashlib.sha256(data).hexdigest()
    assert (caught.value.code, caught.value.expected, caught.value.found) == ("digest", pin, found)


# ---- Bytes ---------------------------------------------------------------------------------------


def test_a_damaged_chunk_is_told_by_fields() -> None:
    file = make_file({"t": random_tensor("u8", (200_000,))}, chunk_size=1 << 16)
    data = bytearray(file.data)
    data[data.index(file.tensors["t"].data[70_000:70_064])] ^= 1
    with pytest.raises(IntegrityError) as caught, libtz.open(bytes(data)) as opened:
        opened.load()
    error = caught.value
    assert (error.code, error.tensor, error.chunk) == ("checksum", "t", 1)
    assert error.offset is not None
    assert error.rule is not None
    assert error.rule.startswith("TZ1-")


def test_a_damaged_header_is_told_by_fields() -> None:
    data = bytearray(FILE.data)
    data[9] ^= 0x40
    with pytest.raises((FormatError, IntegrityError)) as caught:
        libtz.open(bytes(data))
    assert caught.value.code in CODES
    assert caught.value.offset is not None
