"""URLs: redacted for messages, and quoted for requests."""

from __future__ import annotations

import base64
import contextlib
import re
from dataclasses import dataclass, field
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from libtz.errors import OptionError
from libtz.text import printable

__all__ = ["HttpUrl", "origin_of", "parse_http_url", "redacted", "redirect_url"]


_DELIMITER = re.compile("[/?#]")
_HOST = re.compile(r"[^:]*|\[[^\]]*\]")
_HOST_AND_PORT = re.compile(r"([^:]*|\[[^\]]*\]):[0-9]*")


@dataclass(frozen=True)
class HttpUrl:
    """A URL ready to be requested, and the Authorization header made from its user name and
    password."""

    url: str = field(repr=False)
    authorization: str | None = field(repr=False)


def parse_http_url(text: str) -> HttpUrl:
    """Parse a caller's URL. Raises an `OptionError` that contains no secrets if it is invalid."""
    parsed = None
    with contextlib.suppress(ValueError):
        parts = urlsplit(text)
        user, password = parts.username, parts.password
        host = parts.netloc.rpartition("@")[2]
        parsed = _quoted(urlunsplit((parts.scheme, host, parts.path, parts.query, "")))
    if parsed is None:  # raised here, since a chained cause could show parts of a password
        hint = "; in a password, write / ? # @ as %2F %3F %23 %40" if "@" in text else ""
        raise OptionError(f"{redacted(text)} is not a valid URL{hint}")
    authorization = None
    if user is not None or password is not None:
        pair = f"{unquote(user or '')}:{unquote(password or '')}"
        authorization = "Basic " + base64.b64encode(pair.encode()).decode("ascii")
    return HttpUrl(parsed, authorization)


def redirect_url(base: str, location: str) -> str:
    """The absolute URL of a Location header, without a user name. Raises ValueError if it is not
    an HTTP URL."""
    # http.client decodes headers as latin-1, but servers that send such bytes mean UTF-8.
    with contextlib.suppress(UnicodeError):
        location = location.encode("latin-1").decode("utf-8")
    parts = urlsplit(urljoin(base, location))
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError("not an HTTP URL")
    host = parts.netloc.rpartition("@")[2]
    return _quoted(urlunsplit((parts.scheme, host, parts.path, parts.query, "")))


def origin_of(url: str) -> tuple[str, str, int]:
    """Scheme, host and port. Credentials may be sent to one origin only."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    return parts.scheme, (parts.hostname or "").lower(), port


def redacted(url: str) -> str:
    """The URL without the parts that may be secret: user name, password, query and fragment.

    A password may contain "/", "?", "#" or "@" that should have been quoted. So everything that
    could be part of a password is left out, which is sometimes more than necessary.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return printable(url.partition("?")[0])
    path, mark, query = _without_user(rest).partition("?")
    if scheme.lower() == "s3":  # in keys, # and ? are ordinary characters
        query = "***" if mark else ""
        return printable(f"{scheme}://{path}{mark}{query}")
    path = path.partition("#")[0]
    return printable(f"{scheme}://{path}")


def _without_user(rest: str) -> str:
    """The part after "://", without user name and password."""
    authority = _DELIMITER.split(rest, maxsplit=1)[0]
    beyond = rest[len(authority) :]
    if "@" in authority:
        if "@" not in beyond:
            return rest.rpartition("@")[2]
        return "***@" + rest.rpartition("@")[2]
    if authority.startswith("arn:") or _HOST.fullmatch(authority):
        return rest
    if _HOST_AND_PORT.fullmatch(authority):
        path, mark, query = beyond.partition("?")
        path = "/***@" + path.rpartition("@")[2] if "@" in path else path
        return f"{authority}{path}{mark}{query}"
    return "***@" + rest.rpartition("@")[2] if "@" in rest else "***"


def _quoted(url: str) -> str:
    import requests  # takes a tenth of a second, so only if HTTP is used

    try:
        prepared = requests.Request("GET", url).prepare().url
    except requests.exceptions.RequestException:
        prepared = None
    if prepared is None:
        raise ValueError("not a valid URL")
    return prepared
