"""What S3 sources and sinks share: URLs, botocore sessions and clients, and its errors as ours.

botocore, which boto3 is a layer on, decides on credentials, region, endpoint and addressing;
options only override it. It is imported on first use.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from libtz.errors import OptionError, SourceError
from libtz.options import HttpOptions, S3Options

__all__ = [
    "RETRYABLE_CODES",
    "hint_for",
    "make_client",
    "make_session",
    "parse_s3_url",
    "s3_errors",
]

# Error codes of stores that ask for patience, some of them under a status that does not.
RETRYABLE_CODES = frozenset(
    {"InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling"}
)

_HINTS = {
    "AccessDenied": "these credentials may not do this, or there is no such object",
    "ExpiredToken": "the session's credentials have expired; renew them",
    "InvalidAccessKeyId": "the store does not know this access key",
    "NoSuchBucket": "there is no such bucket at this endpoint",
    "NoSuchKey": "there is no such object",
    "NoSuchVersion": "the object has no such version",
    "RequestTimeTooSkewed": "this machine's clock is wrong",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key",
}


def hint_for(code: str) -> str:
    """What an error code asks the caller to do, as the end of a sentence; often nothing."""
    return f"; {_HINTS[code]}" if code in _HINTS else ""


def parse_s3_url(url: str) -> tuple[str, str]:
    """Bucket and key of s3://bucket/key. The key is taken as it stands: no quoting, no query."""
    bucket, separator, key = url.removeprefix("s3://").partition("/")
    if not url.startswith("s3://") or not bucket or not separator or not key:
        raise OptionError(f"{url} is not of the form s3://bucket/key")
    return bucket, key


def make_session(options: S3Options) -> Any:
    """A fresh botocore session: it looks for credentials and configuration anew."""
    try:
        import botocore.session
    except ImportError:
        raise OptionError(
            "s3:// needs boto3, which is not installed; run: pip install libtz[s3]"
        ) from None
    with s3_errors("s3://"):
        # A profile of the caller's wins over AWS_PROFILE; None leaves it to the environment.
        session = botocore.session.Session(profile=options.profile)
        session.register_component("data_loader", _data_loader())
        if options.access_key_id is not None and options.secret_access_key is not None:
            session.set_credentials(
                options.access_key_id, options.secret_access_key, options.session_token
            )
        # Wrong profiles and broken configuration files show here, with a message of their own.
        session.get_scoped_config()
    return session


@functools.cache
def _data_loader() -> Any:
    """botocore's description of S3: parsing it takes a quarter of a second, so once is enough."""
    import botocore.loaders

    return botocore.loaders.create_loader()


def make_client(
    session: Any, s3: S3Options, http: HttpOptions, *, region: str | None = None, **config: Any
) -> Any:
    """An S3 client of that session. `region` overrides what options and configuration say."""
    import botocore
    from botocore.config import Config

    settings: dict[str, Any] = {
        "connect_timeout": http.connect_timeout_s,
        "read_timeout": http.timeout_s,
        "signature_version": botocore.UNSIGNED if s3.anonymous else "s3v4",
        **config,
    }
    if s3.addressing_style is not None:
        settings["s3"] = {"addressing_style": s3.addressing_style}
    if http.proxies is not None:
        settings["proxies"] = dict(http.proxies)
    if http.cert is not None:
        settings["client_cert"] = http.cert
    region = region or s3.region or session.get_config_variable("region")
    with s3_errors("s3://"):
        return session.create_client(
            "s3",
            # Stores other than Amazon's need none; for Amazon's, answers name the right one.
            region_name=region or "us-east-1",
            endpoint_url=s3.endpoint,
            verify=None if http.verify is True else http.verify,
            config=Config(**settings),
        )


@contextmanager
def s3_errors(url: str) -> Iterator[None]:
    """Turn botocore's errors, and those of the store, into ours."""
    from botocore import exceptions

    try:
        yield
    except exceptions.ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        code = error.response.get("Error", {}).get("Code", "Unknown")
        raise SourceError(
            f"{url}: the store answered {code} to {error.operation_name}" + hint_for(code),
            url=url,
            status=status,
            retryable=code in RETRYABLE_CODES or (status or 0) >= 500,
        ) from None
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as error:
        raise OptionError(
            f"{url}: {type(error).__name__}: set up credentials as for boto3, give them in"
            " S3Options, or use S3Options(anonymous=True) for public objects"
        ) from None
    except (
        exceptions.ConnectionError,
        exceptions.CredentialRetrievalError,
        exceptions.HTTPClientError,
    ) as error:
        # Their messages repeat URLs, or what a credential process printed.
        raise SourceError(
            f"{url}: the store or the credential service cannot be reached"
            f" ({type(error).__name__})",
            url=url,
            retryable=True,
        ) from None
    except RuntimeError:  # botocore's only sign that what it fetched is out of date already
        raise SourceError(
            f"{url}: the credential service gave credentials that have expired",
            url=url,
            retryable=True,
        ) from None
    except (exceptions.BotoCoreError, ValueError) as error:
        raise OptionError(f"{url}: {type(error).__name__}: {error}") from None
