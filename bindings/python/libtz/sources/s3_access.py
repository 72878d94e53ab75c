"""Access to a store: keys, region and client, looked up again when the store refuses them."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from typing import Any

from libtz.errors import Error
from libtz.options import HttpOptions, S3Options
from libtz.sources.logs import logger
from libtz.sources.s3_client import make_client, make_session
from libtz.sources.s3_errors import s3_errors

__all__ = ["S3Access"]

_REGION = re.compile(r"[a-z0-9-]{1,32}")
_BODY_REGION = re.compile(rb"<Region>([a-z0-9-]{1,32})</Region>")
# Statuses that may change with other keys or in another region.
_REFUSALS = frozenset({400, 401, 403})


class S3Access:
    """A botocore client and the credentials it was made with. Thread-safe."""

    def __init__(
        self,
        url: str,
        s3: S3Options,
        http: HttpOptions,
        *,
        is_write: bool = False,
        region: str | None = None,
        **config: Any,
    ) -> None:
        self._url = url  # fit for messages
        self._is_write = is_write
        self._s3 = s3
        self._http = http
        self._config = config
        self._lock = threading.RLock()
        self._session: Any = None
        self._client: Any = None
        self._keys: Any = None  # those that the client was made with
        # The region according to the bucket's name or to the store, if it is not the configured
        # one.
        self._region = region if s3.region is None else None
        self._retired: list[Any] = []  # clients that threads may still be using

    def session(self) -> Any:
        with self._lock:
            if self._session is None:
                self._session = make_session(self._s3)
            return self._session

    def client(self) -> Any:
        """The client to use now."""
        with self._lock:
            if self._client is None:
                self.keys()  # raises if there are none
                self._client = make_client(
                    self._session, self._s3, self._http, region=self._region, **self._config
                )
            return self._client

    def keys(self) -> Any:
        """The keys valid now; None for anonymous access. Renews keys that expire."""
        with self._lock, s3_errors(self._url, is_write=self._is_write):
            self._keys = _keys_of(self.session(), self._s3)
            return self._keys

    def renew(self, refused: Any, status: int, headers: Mapping[str, str], body: bytes) -> bool:
        """Whether it is worth trying again with another client than the `refused` one. The other
        arguments are those of the store's response."""
        with self._lock:
            if refused is not self._client:
                return True  # another thread has already renewed it
            region = _region_in(headers, body)
            may_move = 300 <= status < 400 or status in _REFUSALS
            if may_move and region not in (None, self._client.meta.region_name):
                logger.info("%s: the bucket is in region %s; trying there", self._url, region)
                self._region = region
                self._retire()
                return True
            return status in _REFUSALS and not self._s3.anonymous and self._find_other_keys()

    def call(self, send: Callable[[Any], Any]) -> Any:
        """What `send` gets from the store with a client. If the store refuses, and another client
        may fare better, it is called once more with that one. Raises botocore's errors."""
        from botocore.exceptions import ClientError

        client = self.client()
        try:
            return send(client)
        except ClientError as error:
            response = error.response.get("ResponseMetadata", {})
            status, headers = response.get("HTTPStatusCode", 0), response.get("HTTPHeaders", {})
            if not self.renew(client, status, headers, _region_of(error)):
                raise
        return send(self.client())

    def close(self) -> None:
        with self._lock:
            self._retire()
            for client in self._retired:
                client.close()
            self._retired.clear()

    def _find_other_keys(self) -> bool:
        """Look for keys again: files, environment and services may have changed."""
        try:
            session = make_session(self._s3)
            with s3_errors(self._url, is_write=self._is_write):
                keys = _keys_of(session, self._s3)
        except Error:
            return False  # there are no other keys, and the refusal says more than this error
        if keys == self._keys:
            return False
        logger.info("%s: refused; trying again with the current credentials", self._url)
        self._session = session
        self._retire()
        return True

    def _retire(self) -> None:
        if self._client is not None:
            self._retired.append(self._client)
            self._client = None


def _keys_of(session: Any, s3: S3Options) -> Any:
    if s3.anonymous:
        return None
    credentials = session.get_credentials()
    if credentials is None:
        from botocore.exceptions import NoCredentialsError

        raise NoCredentialsError
    return credentials.get_frozen_credentials()


def _region_in(headers: Mapping[str, str], body: bytes) -> str | None:
    region = headers.get("x-amz-bucket-region", "")
    if _REGION.fullmatch(region):
        return region
    match = _BODY_REGION.search(body)
    return match[1].decode("ascii") if match is not None else None


def _region_of(error: Any) -> bytes:
    """The region that an error names, as in the XML of the response."""
    region = error.response.get("Error", {}).get("Region")
    return f"<Region>{region}</Region>".encode() if isinstance(region, str) else b""
