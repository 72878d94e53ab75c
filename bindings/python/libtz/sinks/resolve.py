"""From what a caller names to a sink: the one place that knows schemes."""

from __future__ import annotations

import os
from typing import Any

from libtz.errors import OptionError
from libtz.options import WriteOptions
from libtz.sinks.base import Sink
from libtz.sinks.file import FileSink
from libtz.sinks.stream import FileObjectSink
from libtz.sources.resolve import file_url_path, scheme_of
from libtz.sources.url import shown

__all__ = ["resolve"]


def resolve(target: Any, options: WriteOptions, *, header_size: int, file_size_max: int) -> Sink:
    """The sink that a path, URL or seekable binary file names. Does no I/O.

    The header's size and a bound on the file's are known before the first byte is written.
    """
    if isinstance(target, os.PathLike):
        return FileSink(os.fsdecode(target))
    if isinstance(target, str):
        scheme = scheme_of(target)
        if scheme is None:
            return FileSink(target)
        if scheme == "file":
            return FileSink(file_url_path(target))
        if scheme == "s3":
            from libtz.sinks.s3 import S3Sink  # brings botocore when it is used

            return S3Sink(
                scheme + target[len(scheme) :],
                options.s3,
                options.http,
                header_size=header_size,
                file_size_max=file_size_max,
            )
        raise OptionError(
            f"{shown(target)}: nothing can be written to {scheme}://; there are paths, file:// and"
            " s3://"
        )
    if all(hasattr(target, name) for name in ("write", "seek", "truncate")):
        return FileObjectSink(target)
    raise OptionError(
        f"a target is a path, a URL or a seekable binary file, not {type(target).__name__}"
    )
