"""Objects in S3 and its likes: signed requests, sent by the HTTP source.

botocore makes presigned URLs, which know all about endpoints, addressing styles and versions; they
are used for a few minutes, and signed again as soon as the credentials differ. The HTTP source does
everything else.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from typing import Any

from libtz.errors import Error, SourceError
from libtz.options import HttpOptions, S3Options
from libtz.sources.http import HttpSource
from libtz.sources.origin import RETRYABLE_STATUSES, status_text
from libtz.sources.retry import TryFailed
from libtz.sources.s3_client import (
    RETRYABLE_CODES,
    hint_for,
    make_client,
    make_session,
    parse_s3_url,
    s3_errors,
)

__all__ = ["S3Source"]

# How long a signature is valid, and how long it is used: the difference is slack for wrong clocks.
SIGNATURE_VALID_S = 3600
SIGNATURE_USED_S = 300
# A refusal of a signature younger than this is not about its age.
SIGNATURE_FRESH_S = 60

_ERROR_CODE = re.compile(rb"<Code>([A-Za-z0-9.]{1,64})</Code>")
_REGION = re.compile(r"[a-z0-9-]{1,32}")


class S3Origin:
    """Signs requests for one object, with whatever credentials are valid at the time."""

    def __init__(self, url: str, s3: S3Options, http: HttpOptions) -> None:
        bucket, key = parse_s3_url(url)
        self.shown_url = url
        self._object = {"Bucket": bucket, "Key": key}
        if s3.version_id is not None:
            self._object["VersionId"] = s3.version_id
        self._s3 = s3
        self._http = http
        self._lock = threading.Lock()
        self._session: Any = None
        self._client: Any = None
        self._region: str | None = None  # what the store said, where it differs from ours
        self._url: str | None = None
        self._signed_by: Any = None
        self._signed_s = 0.0

    def ca_bundle(self) -> str | None:
        """The authority file that AWS_CA_BUNDLE or the profile names."""
        with self._lock:
            bundle = self._get_session().get_config_variable("ca_bundle")
        return bundle if isinstance(bundle, str) else None

    def sign(self) -> tuple[str, Mapping[str, str]]:
        with self._lock:
            try:
                with s3_errors(self.shown_url):
                    return self._sign(), {}
            except SourceError as error:
                raise TryFailed(error.message, retryable=error.retryable) from None

    def renew(self, url: str, status: int, headers: Mapping[str, str]) -> bool:
        if not (300 <= status < 400 or status in (400, 401, 403)):
            return False
        with self._lock:
            if url != self._url:
                return True  # another thread has renewed it meanwhile
            region = headers.get("x-amz-bucket-region", "")
            if _REGION.fullmatch(region) and region != self._client.meta.region_name:
                self._region, self._client, self._url = region, None, None
                return True
            return not self._s3.anonymous and status >= 400 and self._renew_credentials()

    def explain(self, status: int, body: bytes) -> tuple[str, bool]:
        # Only the code: other parts of the answer may repeat keys and signatures.
        match = _ERROR_CODE.search(body)
        code = match[1].decode("ascii") if match is not None else ""
        retryable = status in RETRYABLE_STATUSES or code in RETRYABLE_CODES
        text = f"the store answered {status_text(status)}"
        return f"{text} ({code}){hint_for(code)}" if code else text, retryable

    # The rest is called with the lock held.

    def _get_session(self) -> Any:
        if self._session is None:
            self._session = make_session(self._s3)
        return self._session

    def _sign(self) -> str:
        session = self._get_session()
        if self._client is None:
            self._client = make_client(session, self._s3, self._http, region=self._region)
        credentials = self._credentials(session)
        is_recent = 0 <= time.time() - self._signed_s < SIGNATURE_USED_S
        if self._url is None or credentials != self._signed_by or not is_recent:
            self._signed_s = time.time()
            self._signed_by = credentials
            self._url = self._client.generate_presigned_url(
                "get_object", Params=self._object, ExpiresIn=SIGNATURE_VALID_S
            )
        return str(self._url)

    def _credentials(self, session: Any) -> Any:
        """The keys valid now; asking refreshes those that expire."""
        if self._s3.anonymous:
            return None
        credentials = session.get_credentials()
        if credentials is None:
            from botocore.exceptions import NoCredentialsError

            raise NoCredentialsError
        return credentials.get_frozen_credentials()

    def _renew_credentials(self) -> bool:
        """Look for credentials from scratch: files, environment and services may have changed."""
        if time.time() - self._signed_s > SIGNATURE_FRESH_S:
            self._url = None
            return True
        try:
            session = make_session(self._s3)
            with s3_errors(self.shown_url):
                is_same = self._credentials(session) == self._signed_by
        except Error:
            is_same = True  # there are no better ones now, and the refusal itself says more
        if is_same:
            return False
        self._session, self._client, self._url = session, None, None
        return True


class S3Source(HttpSource):
    """See `base.Source`. Takes s3://bucket/key."""

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
        if bundle is not None and self._connections.verify is True:
            self._connections.verify = bundle
        return super().open(front)
