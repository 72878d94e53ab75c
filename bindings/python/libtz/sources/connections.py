"""Reusable HTTP connections that another thread can shut down.

requests and urllib3 supply TLS, proxies, certificates and pooling. The layer of requests takes more
time than the rest of a request (0.4 of 0.7 ms), so it is used once per host; after that, requests
go through urllib3.
"""

from __future__ import annotations

import functools
import http.client
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
import requests.adapters
import urllib3
import urllib3.connection
import urllib3.exceptions

from libtz.errors import OptionError
from libtz.options import HttpOptions
from libtz.sources.base import SourceStats
from libtz.sources.deadlines import DeadlineResponse
from libtz.sources.failures import failure
from libtz.sources.logs import quiet_libraries
from libtz.sources.minimum_rate import MinimumRate
from libtz.sources.response import Response
from libtz.sources.sockets import Sockets
from libtz.sources.stragglers import Stragglers
from libtz.sources.tls import accept_unverified, authorities, check_certificates, proxies_for

__all__ = ["Connections"]

# Redirects may lead to more and more hosts. Beyond this number, the known ones are forgotten.
HOSTS_MAX = 64
_READ_TIMED_OUT = urllib3.exceptions.ReadTimeoutError


class _WatchedConnection:
    """A mixin for urllib3's connections that opens their sockets through `Sockets`."""

    response_class: Any = DeadlineResponse

    def __init__(self, *args: Any, sockets: Sockets, **named: Any) -> None:
        super().__init__(*args, **named)
        self._sockets = sockets

    def _new_conn(self) -> socket.socket:
        connection: Any = self
        return self._sockets.connect(
            self,
            (connection.host, connection.port),
            connection.timeout,
            connection.socket_options,
        )

    def close(self) -> None:
        self._sockets.forget(self)
        super().close()  # type: ignore[misc]


class _HttpConnection(_WatchedConnection, urllib3.connection.HTTPConnection):
    pass


class _HttpsConnection(_WatchedConnection, urllib3.connection.HTTPSConnection):
    pass


@dataclass(frozen=True)
class _Route:
    """Everything about one host that does not change from request to request."""

    pool: Any
    is_forwarded: bool  # by a proxy that expects the absolute URL in the request line


class Connections:
    """Sends GET requests and returns the responses. Reuses connections."""

    def __init__(self, options: HttpOptions, connections_max: int, stats: SourceStats) -> None:
        self.verify: bool | str = options.verify
        self._options = options
        self._stats = stats
        self._sockets = Sockets(stats)
        self._stragglers = Stragglers()
        self.minimum_rate = MinimumRate(options)
        self._adapter = requests.adapters.HTTPAdapter(
            pool_connections=HOSTS_MAX, pool_maxsize=connections_max, max_retries=0
        )
        self._routes: dict[tuple[str, str], _Route] = {}
        self._lock = threading.Lock()

    def get(self, url: str, headers: Mapping[str, str]) -> Response:
        """Send a GET request, and return as soon as the head of the response has arrived. Raises
        `TryFailed` if none arrives."""
        parts = urlsplit(url)
        route = self._route(parts.scheme, parts.netloc)
        target = parts.path or "/"
        if parts.query:
            target += "?" + parts.query
        if route.is_forwarded:
            target = f"{parts.scheme}://{parts.netloc}{target}"
        self.minimum_rate.check()
        self._stats.add(requests=1)
        timeout_s = self._stragglers.head_timeout_s(self._options.timeout_s)
        timeout = urllib3.Timeout(connect=self._options.connect_timeout_s, read=timeout_s)
        started_s = time.monotonic()
        try:
            with quiet_libraries():
                response = route.pool.urlopen(
                    "GET",
                    target,
                    headers=headers,
                    retries=False,
                    redirect=False,
                    assert_same_host=False,
                    timeout=timeout,
                    preload_content=False,
                    decode_content=False,
                )
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            self.minimum_rate.note(0, time.monotonic() - started_s)
            # "from None": a chained error could show a URL that contains a signature.
            failed = failure(error, timeout_s)
            if timeout_s < self._options.timeout_s and isinstance(error, _READ_TIMED_OUT):
                failed.is_restart = True
                self._stragglers.note_restart()
            raise failed from None
        waited_s = time.monotonic() - started_s
        self._stragglers.note_head(waited_s)
        self.minimum_rate.note(0, waited_s)
        return Response(
            response, self._sockets, self._stragglers, self.minimum_rate, self._options.timeout_s
        )

    def abort(self) -> None:
        """Wake every thread that waits for the network. Their calls and all later ones fail."""
        self._sockets.abort()
        # The adapter only forgets its pools, which the routes still hold: a connection returned to
        # one of them would stay open as long as the source. A closed pool closes it.
        for route in list(self._routes.values()):
            route.pool.close()
        self._adapter.close()

    @property
    def is_aborted(self) -> bool:
        return self._sockets.is_aborted

    def _route(self, scheme: str, netloc: str) -> _Route:
        with self._lock:
            route = self._routes.get((scheme, netloc))
            if route is None:
                if len(self._routes) == HOSTS_MAX:
                    self._routes.clear()
                    self._adapter.close()  # it stays usable; only idle connections are closed
                route = self._make_route(f"{scheme}://{netloc}/")
                self._routes[scheme, netloc] = route
            return route

    def _make_route(self, url: str) -> _Route:
        options = self._options
        adapter: Any = self._adapter
        verify = authorities(self.verify)
        proxies = dict(proxies_for(url, options))
        request = requests.Request("GET", url).prepare()
        is_https = url.startswith("https:")
        # A client certificate that cannot be used is an error over plain HTTP too.
        check_certificates(verify if is_https else False, options.cert)
        if is_https and verify is False:
            accept_unverified(urlsplit(url).hostname or "")
        try:
            pool: Any = adapter.get_connection_with_tls_context(
                request, verify, proxies, options.cert
            )
            adapter.cert_verify(pool, url, verify, options.cert)
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
            # The message of the error may contain the proxy's password.
            reason = f"the proxy for {url} cannot be used ({type(error).__name__})"
            raise OptionError(f"{reason}; see ReadOptions.http.proxies and *_PROXY") from None
        except OSError as error:  # a CA bundle or client certificate that does not exist
            reason = f"the TLS settings for {url} cannot be used: {error}"
            raise OptionError(f"{reason} (HttpOptions.verify, HttpOptions.cert)") from None
        for plain, watched in (
            (urllib3.connection.HTTPConnection, _HttpConnection),
            (urllib3.connection.HTTPSConnection, _HttpsConnection),
        ):
            # SOCKS pools have their own connection class, and so do packages that replace urllib3.
            # With those, only time-outs end a wait for a connection or a response.
            if pool.ConnectionCls is plain and issubclass(plain, http.client.HTTPConnection):
                pool.ConnectionCls = functools.partial(watched, sockets=self._sockets)
        target = adapter.request_url(request, proxies)
        return _Route(pool=pool, is_forwarded=not target.startswith("/"))
