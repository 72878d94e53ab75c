"""Where requests start: a URL, proof of who asks, and what refusals mean there."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple, Protocol

from libtz.options import HttpOptions
from libtz.sources.url import parse_http_url, shown

__all__ = ["HttpOrigin", "Origin", "Refusal", "status_text"]

RETRYABLE_STATUSES = frozenset({408, 429, 500, 502, 503, 504})


class Refusal(NamedTuple):
    """An answer that brings no bytes."""

    status: int
    headers: Mapping[str, str]
    body: bytes  # its beginning


class Origin(Protocol):
    """The place a source's requests go to first. Safe to use from many threads."""

    shown_url: str

    def sign(self) -> tuple[str, Mapping[str, str]]:
        """The URL and the headers of the next request, credentials included."""
        ...

    def renew(self, headers: Mapping[str, str], refusal: Refusal) -> bool:
        """Whether signing again gives a request that may fare better than the one with these
        headers, just refused."""
        ...

    def explain(self, refusal: Refusal) -> tuple[str, bool]:
        """What a refusal means, for the message, and whether the same request may succeed later."""
        ...


# Words of common servers by which they tell what was wrong with the connection itself.
_BAD_REQUESTS = {
    b"plain HTTP request was sent to HTTPS port": "this port wants https://",  # nginx
    b"speaking plain HTTP to an SSL-enabled": "this port wants https://",  # Apache
    b"HTTP request to an HTTPS server": "this port wants https://",  # Go
    b"This combination of host and port requires TLS": "this port wants https://",  # Tomcat
    b"No required SSL certificate was sent": "the server wants a client certificate; name one in"
    " ReadOptions.http.cert",
    b"The SSL certificate error": "the server refused the client certificate of"
    " ReadOptions.http.cert",
}


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

    def renew(self, headers: Mapping[str, str], refusal: Refusal) -> bool:
        return False

    def explain(self, refusal: Refusal) -> tuple[str, bool]:
        status = refusal.status
        hint = {
            401: "give credentials in ReadOptions.http.headers or in the URL",
            403: "the credentials do not suffice, or a signed URL has expired",
            404: "there is no such object",
            407: "the proxy wants credentials, see ReadOptions.http.proxies",
        }.get(status, "")
        if status in (400, 495, 496, 497):
            said = (text for words, text in _BAD_REQUESTS.items() if words in refusal.body)
            hint = next(said, hint)
        text = f"the server answered {status_text(status)}{'; ' if hint else ''}{hint}"
        return text, status in RETRYABLE_STATUSES


def status_text(status: int) -> str:
    """A status with its standard name: the server's own wording is not repeated."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
