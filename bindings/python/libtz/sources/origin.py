"""Where requests start: a URL, proof of who asks, and what refusals mean there."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Protocol

from libtz.options import HttpOptions
from libtz.sources.url import parse_http_url, shown

__all__ = ["HttpOrigin", "Origin", "status_text"]

RETRYABLE_STATUSES = frozenset({408, 429, 500, 502, 503, 504})


class Origin(Protocol):
    """The place a source's requests go to first. Safe to use from many threads."""

    shown_url: str

    def sign(self) -> tuple[str, Mapping[str, str]]:
        """The URL and the headers of the next request, credentials included."""
        ...

    def renew(self, url: str, status: int, headers: Mapping[str, str]) -> bool:
        """Whether signing again gives a request that may fare better than `url`, just refused."""
        ...

    def explain(self, status: int, body: bytes) -> tuple[str, bool]:
        """What a refusal means, for the message, and whether the same request may succeed later."""
        ...


class HttpOrigin:
    """A plain URL with fixed headers."""

    def __init__(self, url: str, options: HttpOptions) -> None:
        parsed = parse_http_url(url)
        self.shown_url = shown(parsed.url)
        self._url = parsed.url
        self._headers = dict(options.headers)
        has_authorization = any(name.lower() == "authorization" for name in self._headers)
        if parsed.authorization is not None and not has_authorization:
            self._headers["Authorization"] = parsed.authorization

    def sign(self) -> tuple[str, Mapping[str, str]]:
        return self._url, self._headers

    def renew(self, url: str, status: int, headers: Mapping[str, str]) -> bool:
        return False

    def explain(self, status: int, body: bytes) -> tuple[str, bool]:
        hint = {
            401: "; give credentials in HttpOptions.headers or in the URL",
            403: "; the credentials do not suffice, or a signed URL has expired",
            404: "; there is no such object",
            407: "; the proxy wants credentials, see HttpOptions.proxies",
        }.get(status, "")
        return f"the server answered {status_text(status)}{hint}", status in RETRYABLE_STATUSES


def status_text(status: int) -> str:
    """A status with its standard name: the server's own wording is not repeated."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
