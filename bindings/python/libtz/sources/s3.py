"""Objects in S3 and compatible stores: signed requests, sent by the HTTP source.

botocore builds and signs a GetObject request, since it knows about endpoints, addressing styles,
access points, S3 Express and versions. The request is not sent: its URL and headers are taken. The
range is not signed, so they serve many ranges. They are renewed every minute, and as soon as the
credentials change. The HTTP source does everything else.

Requests are signed by header. Signed URLs would appear in the logs of proxies and servers, and many
buckets forbid them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from libtz.errors import SourceError
from libtz.options import HttpOptions, S3Options
from libtz.sources.http import HttpSource
from libtz.sources.origin import RETRYABLE_STATUSES, Refusal, status_text
from libtz.sources.retry import TryFailed
from libtz.sources.s3_access import S3Access
from libtz.sources.s3_client import object_parameters, parse_s3_url, region_of
from libtz.sources.s3_errors import RETRYABLE_CODES, clock_text, code_of, hint_for, s3_errors
from libtz.sources.tls import authorities
from libtz.sources.url import redacted

__all__ = ["S3Source"]

# Stores accept a signature for 15 minutes. The rest is slack for wrong clocks.
SIGNATURE_USED_S = 60

# Prefixes of headers not taken from botocore: its count of attempts, and its name.
_NOT_TAKEN = ("amz-sdk-", "user-agent")


class S3Origin:
    """Signs requests for one object with the credentials valid at the time."""

    def __init__(self, url: str, s3: S3Options, http: HttpOptions) -> None:
        bucket, key = parse_s3_url(url)
        self.shown_url = redacted(url)
        self._object = {"Bucket": bucket, "Key": key}
        self._s3 = s3
        self._http = http
        # The store's checksums are of whole objects; libtz reads parts.
        self._access = S3Access(
            self.shown_url,
            s3,
            http,
            region=region_of(bucket),
            response_checksum_validation="when_required",
        )
        self._lock = threading.Lock()
        self._signed: tuple[str, Mapping[str, str]] | None = None
        self._signed_by: tuple[Any, Any] | None = None  # client and keys
        self._signed_s = 0.0

    def ca_bundle(self) -> str | None:
        """The authority file that AWS_CA_BUNDLE or the profile names."""
        bundle = self._access.session().get_config_variable("ca_bundle")
        return bundle if isinstance(bundle, str) else None

    def sign(self) -> tuple[str, Mapping[str, str]]:
        with self._lock:
            try:
                signed_by = self._access.client(), self._access.keys()
                is_recent = 0 <= time.monotonic() - self._signed_s < SIGNATURE_USED_S
                if self._signed is None or signed_by != self._signed_by or not is_recent:
                    self._signed = self._sign(signed_by[0])
                    self._signed_by = signed_by
                    self._signed_s = time.monotonic()
                return self._signed
            except SourceError as error:
                text = error.message.removeprefix(f"{self.shown_url}: ")
                raise TryFailed(text, retryable=error.retryable) from None

    def renew(self, headers: Mapping[str, str], refusal: Refusal) -> bool:
        with self._lock:
            if self._signed is None or headers is not self._signed[1]:
                return True  # another thread has already renewed it
            client = self._signed_by[0] if self._signed_by is not None else None
            if not self._access.renew(client, refusal.status, refusal.headers, refusal.body):
                return False
            self._signed = None
            return True

    def explain(self, refusal: Refusal) -> tuple[str, bool]:
        code = code_of(refusal.body)
        retryable = refusal.status in RETRYABLE_STATUSES or code in RETRYABLE_CODES
        text = f"the store answered {status_text(refusal.status)}"
        text += f" ({code}){hint_for(code)}" if code else ""
        if refusal.status in (400, 401, 403):
            text += clock_text(refusal.headers)
        return text, retryable

    def close(self) -> None:
        self._access.close()

    def _sign(self, client: Any) -> tuple[str, Mapping[str, str]]:
        from botocore.awsrequest import AWSResponse
        from botocore.compat import HTTPHeaders

        requests: list[Any] = []

        def take(request: Any, **_: Any) -> Any:
            requests.append(request)
            return AWSResponse(request.url, 200, HTTPHeaders(), _NoBody())

        def name_operation(params: Any, **_: Any) -> None:
            # Other AWS SDKs do this too: it names the operation in the server's logs.
            separator = "&" if "?" in params["url"] else "?"
            params["url"] += f"{separator}x-id=GetObject"

        events = client.meta.events
        events.register("before-send.s3.GetObject", take)
        events.register("before-call.s3.GetObject", name_operation)
        try:
            with s3_errors(self.shown_url, timeout_s=self._http.timeout_s):
                parameters = object_parameters(client, self._s3, "GetObject")
                client.get_object(**self._object, **parameters)
        finally:
            events.unregister("before-send.s3.GetObject", take)
            events.unregister("before-call.s3.GetObject", name_operation)
        headers = {name: _text(value) for name, value in requests[-1].headers.items()}
        taken = {
            name: value
            for name, value in headers.items()
            if not name.lower().startswith(_NOT_TAKEN) or name in self._http.headers
        }
        return str(requests[-1].url), taken


class _NoBody:
    """The body of a response that was never sent."""

    def stream(self, *_: object, **__: object) -> Any:
        return iter(())


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


class S3Source(HttpSource):
    """See `base.Source`. For s3://bucket/key."""

    def __init__(
        self,
        url: str,
        s3: S3Options | None = None,
        http: HttpOptions | None = None,
        *,
        connections_max: int = 32,
    ) -> None:
        http = http or HttpOptions()
        self._s3_origin = S3Origin(url, s3 or S3Options(), http)
        super().__init__(url, http, connections_max=connections_max, origin=self._s3_origin)

    def open(self, front: memoryview) -> int:
        bundle = self._s3_origin.ca_bundle()
        if self._connections.verify is True:
            self._connections.verify = authorities(True, bundle)
        return super().open(front)

    def close(self) -> None:
        super().close()
        self._s3_origin.close()
