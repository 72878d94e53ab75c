"""The logger `libtz`, and a filter for libraries that would log secrets.

Events worth knowing about while a load continues (retries, throttling, redirects, fallbacks) go to
`logging.getLogger("libtz")`. urllib3 logs whole URLs, including signatures in their queries.
botocore logs what it signs, including session tokens and responses of credential services.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

__all__ = ["logger", "quiet_libraries"]

logger = logging.getLogger("libtz")
# Without a handler, Python would print warnings in programs that never set up logging.
logger.addHandler(logging.NullHandler())

# The libraries' loggers whose records hold URLs, headers or bodies.
_SECRET_LOGGERS = (
    "botocore.auth",
    "botocore.credentials",
    "botocore.endpoint",
    "botocore.hooks",
    "botocore.httpsession",
    "botocore.parsers",
    "botocore.regions",
    "botocore.retryhandler",
    "botocore.signers",
    "botocore.tokens",
    "botocore.utils",
    "urllib3.connection",
    "urllib3.connectionpool",
    "urllib3.response",
    "urllib3.util.retry",
)


class _LibraryFilter(logging.Filter):
    """Drops records from threads that are inside `quiet_libraries`; passes all others."""

    def __init__(self) -> None:
        super().__init__()
        self._own = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(self._own, "depth", 0)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        self._own.depth = getattr(self._own, "depth", 0) + 1
        try:
            yield
        finally:
            self._own.depth -= 1


_library_filter = _LibraryFilter()
for _name in _SECRET_LOGGERS:
    logging.getLogger(_name).addFilter(_library_filter)


def quiet_libraries() -> contextlib.AbstractContextManager[None]:
    """A context in which urllib3 and botocore log nothing of what this thread does."""
    return _library_filter.active()
