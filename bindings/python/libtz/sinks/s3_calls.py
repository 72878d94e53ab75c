"""What an upload asks of a store: signed, checksummed and repeated by botocore, with the keys of
now."""

from __future__ import annotations

import base64
import zlib
from typing import Any

from libtz.options import HttpOptions, S3Options
from libtz.sources.s3_access import S3Access
from libtz.sources.s3_client import object_parameters, region_of
from libtz.sources.s3_errors import s3_errors

__all__ = ["S3Calls"]

# By their names in S3's model: what botocore's clients call them.
_METHODS = {
    "AbortMultipartUpload": "abort_multipart_upload",
    "CompleteMultipartUpload": "complete_multipart_upload",
    "CreateMultipartUpload": "create_multipart_upload",
    "PutObject": "put_object",
    "UploadPart": "upload_part",
}


class S3Calls:
    """Calls about one object, with what the options say of it. Any thread may make them."""

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
        """The store's answer. Keys that it refuses are looked for anew, and replaced if there are
        others: uploads may outlive what they began with."""
        from botocore.exceptions import ClientError

        client = self._access.client()
        with s3_errors(
            self._url,
            is_write=True,
            has_checksum=any(name.startswith("Checksum") for name in parameters),
            timeout_s=self._timeout_s,
        ):
            try:
                return self._call(client, operation, parameters)
            except ClientError as error:
                answer = error.response.get("ResponseMetadata", {})
                status, headers = answer.get("HTTPStatusCode", 0), answer.get("HTTPHeaders", {})
                if not self._access.renew(client, status, headers, _region_of(error)):
                    raise
            return self._call(self._access.client(), operation, parameters)

    def send(self, operation: str, body: bytearray, **parameters: Any) -> Any:
        """A call with a body, and its checksum where the store is said to know those."""
        if self._has_checksums():
            # Made here, it goes with the head. botocore would let it follow the body, in a coding
            # of its own that some stores keep as if it were the object's.
            sum_ = zlib.crc32(body).to_bytes(4, "big")
            parameters["ChecksumCRC32"] = base64.b64encode(sum_).decode("ascii")
        return self.call(operation, Body=body, **parameters)

    def begin(self) -> Any:
        """Begin an upload in parts."""
        checksum = {"ChecksumAlgorithm": "CRC32"} if self._has_checksums() else {}
        return self.call("CreateMultipartUpload", **checksum)

    def close(self) -> None:
        self._access.close()

    def _has_checksums(self) -> bool:
        # As boto3's own transfers decide. Stores that know no checksums are configured so.
        config = self._access.client().meta.config
        return getattr(config, "request_checksum_calculation", "") == "when_supported"

    def _call(self, client: Any, operation: str, parameters: dict[str, Any]) -> Any:
        options = object_parameters(client, self._s3, operation)
        return getattr(client, _METHODS[operation])(**self._named, **options, **parameters)


def _region_of(error: Any) -> bytes:
    """The region that an error names, as it stood in the answer."""
    region = error.response.get("Error", {}).get("Region")
    return f"<Region>{region}</Region>".encode() if isinstance(region, str) else b""
