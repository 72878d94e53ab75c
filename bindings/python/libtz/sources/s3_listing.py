"""Lists the objects under a prefix in S3."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from libtz.errors import OptionError, SourceError
from libtz.manifest import is_hidden
from libtz.options import HttpOptions, S3Options
from libtz.sources.s3_access import S3Access
from libtz.sources.s3_client import object_parameters, parse_s3_folder, region_of
from libtz.sources.s3_errors import s3_errors
from libtz.sources.url import redacted

__all__ = ["list_prefix"]

# A bucket's root may hold billions of keys.
KEYS_MAX = 100_000


def list_prefix(
    url: str, s3: S3Options, http: HttpOptions, *, is_recursive: bool
) -> list[str] | None:
    """The names under s3://bucket/prefix/, relative to it, sorted. Names with a "/" are included
    only if `is_recursive`. Hidden names and folder markers are omitted. None if the credentials do
    not permit listing. Raises OptionError for more than `KEYS_MAX` keys."""
    bucket, prefix = parse_s3_folder(url)
    names: list[str] = []
    count = 0
    try:
        for page in _pages(url, bucket, prefix, s3, http, is_recursive=is_recursive):
            keys = [item["Key"] for item in page.get("Contents", ())]
            count += max(1, len(keys) + len(page.get("CommonPrefixes", ())))
            if count > KEYS_MAX:
                raise OptionError(f"{redacted(url)} holds more than {KEYS_MAX} objects")
            names += filter(_is_file, (key.removeprefix(prefix) for key in keys))
    except SourceError as error:
        if error.status == HTTPStatus.FORBIDDEN:
            return None
        raise
    return sorted(names)


def _is_file(name: str) -> bool:
    return bool(name) and not name.endswith("/") and not is_hidden(name)


def _pages(
    url: str, bucket: str, prefix: str, s3: S3Options, http: HttpOptions, *, is_recursive: bool
) -> Iterator[Any]:
    named: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix}
    if not is_recursive:
        named["Delimiter"] = "/"
    retries = {"mode": "standard", "total_max_attempts": http.retry.attempts}
    access = S3Access(redacted(url), s3, http, region=region_of(bucket), retries=retries)

    def list_more(client: Any) -> Any:
        parameters = object_parameters(client, s3, "ListObjectsV2")
        return client.list_objects_v2(**named, **parameters)

    try:
        token: Any = ""
        while token is not None:
            with s3_errors(redacted(url), timeout_s=http.timeout_s):
                page = access.call(list_more)
            yield page
            token = page.get("NextContinuationToken") if page.get("IsTruncated") else None
            named["ContinuationToken"] = token
    finally:
        access.close()
