"""The logger `libtz`, and silence where the libraries below would log secrets.

What is worth knowing of a load that goes on (retries, throttling, redirects, fallbacks) goes to
`logging.getLogger("libtz")`. urllib3 logs whole URLs, with the signatures in their queries, and
botocore logs what it signs, session tokens and the answers of credential services included.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

__all__ = ["discreet", "logger", "plain_text"]

logger = logging.getLogger("libtz")
# Without it, Python prints warnings of programs that never asked for a log.
logger.addHandler(logging.NullHandler())

TEXT_SIZE_MAX = 200

# Those of the libraries' loggers whose records hold URLs, headers or bodies.
_TALKATIVE = (
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


class _Discretion(logging.Filter):
    """Drops the records of threads that talk for libtz; everybody else's pass."""

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


_discretion = _Discretion()
for _name in _TALKATIVE:
    logging.getLogger(_name).addFilter(_discretion)


def discreet() -> contextlib.AbstractContextManager[None]:
    """While this lasts, the libraries below log nothing of what this thread does."""
    return _discretion.active()


def plain_text(text: str, size_max: int = TEXT_SIZE_MAX) -> str:
    """Words that somebody else chose, fit for a line of a message: printable ASCII, cut."""
    shown = "".join(c if " " <= c <= "~" else "?" for c in text)
    return shown if len(shown) <= size_max else shown[: size_max - 1] + "…"
