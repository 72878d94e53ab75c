"""The options and flags in docs/S3.md exist."""

from __future__ import annotations

import re
from pathlib import Path

from libtz.fields import fields_of
from libtz.options import ReadOptions, WriteOptions

PAGE = (Path(__file__).parents[1] / "docs" / "S3.md").read_text()


def test_snippets_run() -> None:
    names: dict[str, object] = {}
    for text in re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S):
        exec(text, names)
    assert isinstance(names["options"], ReadOptions)


def test_options_and_flags_that_the_page_names_are_there() -> None:
    fields = {field.path: field for cls in (ReadOptions, WriteOptions) for field in fields_of(cls)}
    named = re.findall(r"`((?:s3|http)\.[a-z0-9_.]+)`", PAGE)
    assert len(named) > 10
    assert set(named) <= set(fields)
    flags = {"--" + path.replace(".", "-").replace("_", "-") for path in fields}
    assert set(re.findall(r"`(--[a-z0-9-]+)`", PAGE)) <= flags
    for path, field in fields.items():
        if path.startswith("s3."):  # the page documents all options of S3
            assert path in PAGE or path in ("s3.secret_access_key", "s3.session_token")
            assert not field.option.has_flag or path.replace(".", "-").replace("_", "-") in PAGE
