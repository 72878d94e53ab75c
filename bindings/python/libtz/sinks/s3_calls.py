"""The S3 calls of an upload. botocore signs and retries them; credentials are renewed."""

from __future__ import annotations

import base64
import zlib
from typing import Any

from libtz.options import HttpOptions, S3Options
from libtz.sources.s3_access import S3Access
from libtz.sources.s3_client import object_parameters, region_of
from libtz.sources.s3_errors import s3_errors

__all__ = ["S3Calls"]

# S3's operations, and botocore's methods for them.
_METHODS = {
    "AbortMultipartUpload": "abort_multipart_upload",
    "CompleteMultipartUpload": "complete_multipart_upload",
    "CreateMultipartUpload": "create_multipart_upload",
    "PutObject": "put_object",
    "UploadPart": "upload_part",
}


class S3Calls:
    """Calls about one object, with its options. Thread-safe."""

    def __init__(
        self,
        url: str,
        named: dict[str, str],
        s3: S3Options,
        http: HttpOptions,
        connections_max: int,
    ) -> None:
        self._url = url
        self._named = named  # bucket and key
        self._s3 = s3
        self._timeout_s = http.timeout_s
        self._access = S3Access(
            url,
            s3,
            http,
            is_write=True,
            region=region_of(named["Bucket"]),
            retries={"mode": "standard", "total_max_attempts": http.retry.attempts},
            max_pool_connections=connections_max,
        )

    def call(self, operation: str, **parameters: Any) -> Any:
        """Returns the store's response. If it rejects the credentials, they are looked up again and
        the call is repeated with new ones: uploads may outlive temporary keys."""
        with s3_errors(
            self._url,
            is_write=True,
            has_checksum=any(name.startswith("Checksum") for name in parameters),
            timeout_s=self._timeout_s,
        ):
            return self._access.call(lambda client: self._call(client, operation, parameters))

    def send(self, operation: str, body: bytearray, **parameters: Any) -> Any:
        """A call with a body, and a checksum if the store is configured for those."""
        if self._has_checksums():
            # Sent as a header. botocore would send it as a trailer, in a transfer encoding that
            # some stores save as part of the object.
            sum_ = zlib.crc32(body).to_bytes(4, "big")
            parameters["ChecksumCRC32"] = base64.b64encode(sum_).decode("ascii")
        return self.call(operation, Body=body, **parameters)

    def begin(self) -> Any:
        """Begin a multipart upload."""
        checksum = {"ChecksumAlgorithm": "CRC32"} if self._has_checksums() else {}
        return self.call("CreateMultipartUpload", **checksum)

    def close(self) -> None:
        self._access.close()

    def _has_checksums(self) -> bool:
        # boto3's own transfers decide in the same way. It is off for stores without checksums.
        config = self._access.client().meta.config
        return getattr(config, "request_checksum_calculation", "") == "when_supported"

    def _call(self, client: Any, operation: str, parameters: dict[str, Any]) -> Any:
        options = object_parameters(client, self._s3, operation)
        return getattr(client, _METHODS[operation])(**self._named, **options, **parameters)
