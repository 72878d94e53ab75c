"""Where requests start: a URL, credentials, and the meaning of refusals."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple, Protocol

from libtz.options import HttpOptions
from libtz.sources.url import parse_http_url, redacted

__all__ = ["HttpOrigin", "Origin", "Refusal", "status_text"]

RETRYABLE_STATUSES = frozenset({408, 429, 500, 502, 503, 504})


class Refusal(NamedTuple):
    """A response that carries no data: an error or a redirect."""

    status: int
    headers: Mapping[str, str]
    body: bytes  # the beginning of it


class Origin(Protocol):
    """The first address of a source's requests. Thread-safe."""

    shown_url: str

    def sign(self) -> tuple[str, Mapping[str, str]]:
        """The URL and the headers of the next request, credentials included."""
        ...

    def renew(self, headers: Mapping[str, str], refusal: Refusal) -> bool:
        """Whether it is worth signing again after the request with these headers was refused."""
        ...

    def explain(self, refusal: Refusal) -> tuple[str, bool]:
        """What a refusal means, for a message, and whether the same request may succeed later."""
        ...


# Phrases of common servers that say what was wrong with the connection itself.
_NEEDS_HTTPS = "this port requires https://"
_BAD_REQUESTS = {
    b"plain HTTP request was sent to HTTPS port": _NEEDS_HTTPS,  # nginx
    b"speaking plain HTTP to an SSL-enabled": _NEEDS_HTTPS,  # Apache
    b"HTTP request to an HTTPS server": _NEEDS_HTTPS,  # Go
    b"This combination of host and port requires TLS": _NEEDS_HTTPS,  # Tomcat
    b"No required SSL certificate was sent": "the server requires a client certificate; set"
    " ReadOptions.http.cert",
    b"The SSL certificate error": "the server refused the client certificate of"
    " ReadOptions.http.cert",
}


class HttpOrigin:
    """A plain URL with fixed headers."""

    def __init__(self, url: str, options: HttpOptions) -> None:
        parsed = parse_http_url(url)
        self.shown_url = redacted(parsed.url)
        self._url = parsed.url
        self._headers = dict(options.headers)
        has_authorization = any(name.lower() == "authorization" for name in self._headers)
        if parsed.authorization is not None and not has_authorization:
            self._headers["Authorization"] = parsed.authorization

    def sign(self) -> tuple[str, Mapping[str, str]]:
        return self._url, self._headers

    def renew(self, headers: Mapping[str, str], refusal: Refusal) -> bool:
        return False

    def explain(self, refusal: Refusal) -> tuple[str, bool]:
        status = refusal.status
        hint = {
            401: "give credentials in ReadOptions.http.headers or in the URL",
            403: "the credentials are not sufficient, or a signed URL has expired",
            404: "there is no such object",
            407: "the proxy requires credentials; see ReadOptions.http.proxies",
        }.get(status, "")
        if status in (400, 495, 496, 497):
            said = (text for words, text in _BAD_REQUESTS.items() if words in refusal.body)
            hint = next(said, hint)
        text = f"the server answered {status_text(status)}{'; ' if hint else ''}{hint}"
        return text, status in RETRYABLE_STATUSES


def status_text(status: int) -> str:
    """A status with its standard name. The server's own wording is not repeated."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
