"""Names of objects in S3, and botocore's sessions and clients for them.

botocore, the layer under boto3, decides on credentials, region, endpoint, addressing and signing.
Options only override its decisions. It is imported on first use.
"""

from __future__ import annotations

import functools
import re
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests.utils

from libtz.errors import OptionError
from libtz.options import HttpOptions, S3Options
from libtz.sources.logs import logger
from libtz.sources.origin import RETRYABLE_STATUSES
from libtz.sources.s3_errors import s3_errors
from libtz.sources.tls import accept_unverified, authorities, check_certificates, proxies_for
from libtz.sources.url import redacted

__all__ = [
    "make_client",
    "make_session",
    "object_parameters",
    "parse_s3_folder",
    "parse_s3_url",
    "region_of",
]

# ARNs that may stand in place of a bucket. Their last colon may be a slash.
_ARN_URL = re.compile(
    r"s3://(arn:aws[a-z-]*:(?:"
    r"(?:s3|s3-object-lambda):[a-z0-9-]*:[0-9]{12}:accesspoint[:/][A-Za-z0-9.-]{1,63}"
    r"|s3-outposts:[a-z0-9-]+:[0-9]{12}:outpost[:/][A-Za-z0-9-]{1,63}[:/]accesspoint[:/]"
    r"[A-Za-z0-9-]{1,63}"
    r"))/(.+)",
    re.DOTALL,
)

_BUCKET = re.compile(r"[A-Za-z0-9._-]{1,255}")


def parse_s3_url(url: str) -> tuple[str, str]:
    """The bucket (or the ARN of an access point) and the key of s3://bucket/key. The key is taken
    literally, without quoting or a query. Raises `OptionError`."""
    return _url_parts(url, url)


def _url_parts(url: str, given: str) -> tuple[str, str]:
    """The same. Messages show the URL that was given."""
    match = _ARN_URL.fullmatch(url)
    if match is not None:
        return match[1], match[2]
    bucket, separator, key = url.removeprefix("s3://").partition("/")
    if "@" in bucket or (":" in bucket and not bucket.startswith("arn:")):
        raise OptionError(
            f"{redacted(given)}: an s3:// URL cannot contain credentials; set them up as for boto3"
            " (AWS_ACCESS_KEY_ID …), or name a profile in S3Options.profile"
        )
    if not url.startswith("s3://") or not bucket or not separator or not key:
        raise OptionError(f"{redacted(given)} is not of the form s3://bucket/key")
    if not _BUCKET.fullmatch(bucket):
        raise OptionError(
            f"{redacted(given)}: {bucket!r} is not the name of a bucket or the ARN of an access"
            " point"
        )
    return bucket, key


def parse_s3_folder(url: str) -> tuple[str, str]:
    """Bucket and prefix of s3://bucket/prefix/; the prefix is "" or ends with "/"."""
    bucket, key = _url_parts(f"{url}{'' if url.endswith('/') else '/'}-", url)
    return bucket, key[:-1]


def region_of(bucket: str) -> str | None:
    """The region in the ARN of an access point; None for the name of a bucket."""
    return bucket.split(":")[3] or None if bucket.startswith("arn:") else None


def make_session(options: S3Options) -> Any:
    """A new botocore session, which looks up credentials and configuration again."""
    try:
        import botocore.session
    except ImportError:
        raise OptionError(
            "s3:// needs boto3, which is not installed; run: pip install libtz[s3]"
        ) from None
    with s3_errors("S3 configuration"):
        # The caller's profile takes precedence over AWS_PROFILE. None: use the environment.
        session = botocore.session.Session(profile=options.profile)
        session.register_component("data_loader", _data_loader())
        if options.access_key_id is not None and options.secret_access_key is not None:
            session.set_credentials(
                options.access_key_id, options.secret_access_key, options.session_token
            )
        # Raises for wrong profiles and broken configuration files.
        session.get_scoped_config()
    return session


@functools.cache
def _data_loader() -> Any:
    """botocore's description of S3. Parsing it takes a quarter of a second, so it is kept."""
    import botocore.loaders

    return botocore.loaders.create_loader()


def make_client(
    session: Any, s3: S3Options, http: HttpOptions, *, region: str | None = None, **config: Any
) -> Any:
    """An S3 client of this session. `region` overrides options and configuration."""
    import botocore
    from botocore.config import Config

    settings: dict[str, Any] = {
        "connect_timeout": http.connect_timeout_s,
        "read_timeout": http.timeout_s,
        **config,
    }
    if s3.anonymous:
        settings["signature_version"] = botocore.UNSIGNED
    if s3.addressing_style is not None:
        settings["s3"] = {"addressing_style": s3.addressing_style}
    if http.cert is not None:
        settings["client_cert"] = http.cert
    named = {
        # Stores other than AWS do not need a region. AWS names the right one in its responses.
        "region_name": region or s3.region or session.get_config_variable("region") or "us-east-1",
        "endpoint_url": s3.endpoint,
        "verify": _verify(session, http),
    }
    with s3_errors("S3 configuration"):
        client = session.create_client("s3", config=Config(proxies={}, **settings), **named)
        # The rules for proxies need the endpoint, which the client has resolved.
        proxies = _proxies(client.meta.endpoint_url, http)
        if proxies:
            client.close()
            client = session.create_client(
                "s3", config=Config(proxies=proxies, **settings), **named
            )
    if named["verify"] is False:
        accept_unverified(urlsplit(client.meta.endpoint_url).hostname or "")
    if s3.sse_customer_key is not None and client.meta.endpoint_url.startswith("http:"):
        client.close()
        raise OptionError(
            "S3Options.sse_customer_key would be sent unencrypted; use an https:// endpoint"
        )
    client.meta.events.register("before-call.s3", functools.partial(_add_headers, http))
    client.meta.events.register("needs-retry.s3", _log_failed_try)
    return client


def _verify(session: Any, http: HttpOptions) -> bool | str:
    bundle = session.get_config_variable("ca_bundle")
    verify = authorities(http.verify, bundle if isinstance(bundle, str) else None)
    check_certificates(verify, http.cert)
    if isinstance(verify, str) and Path(verify).is_dir():
        return str(_bundle_of(verify))
    return verify


@functools.cache
def _bundle_of(folder: str) -> Path:
    """The certificates of a folder in one file: botocore does not accept folders."""
    found = [path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.is_file()]
    bundle = Path(_temporary_folder().name) / f"{len(_bundles)}.pem"
    bundle.write_bytes(b"\n".join(data for data in found if b"BEGIN CERTIFICATE" in data))
    _bundles.append(bundle)
    return bundle


_bundles: list[Path] = []


@functools.cache
def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="libtz-")  # removed when the process ends


def _proxies(url: str, http: HttpOptions) -> dict[str, str]:
    proxy = requests.utils.select_proxy(url, dict(proxies_for(url, http)))
    return {"http": proxy, "https": proxy} if proxy else {}


def _add_headers(http: HttpOptions, params: Any, **_: Any) -> None:
    """Add the caller's headers before the request is signed: S3 headers must be signed."""
    for name, value in http.headers.items():
        params["headers"][name] = value


def _log_failed_try(
    response: Any, operation: Any, attempts: int, caught_exception: Any, **_: Any
) -> None:
    """Log failed attempts. botocore calls this after each one, and itself repeats silently."""
    if caught_exception is not None:
        reason = type(caught_exception).__name__
    elif response is not None and (status := response[0].status_code) in RETRYABLE_STATUSES:
        reason = f"the store answered {status}"
    else:
        return
    logger.warning("S3 %s, attempt %d failed: %s", operation.name, attempts, reason)


def object_parameters(client: Any, s3: S3Options, operation: str) -> dict[str, Any]:
    """The options that this operation, given by its name in S3's model, accepts."""
    given = {
        "RequestPayer": "requester" if s3.requester_pays else None,
        "ServerSideEncryption": s3.sse,
        "SSEKMSKeyId": s3.sse_kms_key_id,
        "SSECustomerAlgorithm": None if s3.sse_customer_key is None else "AES256",
        "SSECustomerKey": s3.sse_customer_key,
        "VersionId": s3.version_id,
    }
    taken = client.meta.service_model.operation_model(operation).input_shape.members
    return {name: value for name, value in given.items() if value is not None and name in taken}
