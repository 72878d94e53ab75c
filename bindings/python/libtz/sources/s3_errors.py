"""Turns errors of stores and of botocore into ours: what happened, and what to do about it.

Only the error code of a store's response is repeated, and only if it looks like one. Other parts
may hold keys, signatures or anything else.
"""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from libtz.errors import Error, OptionError, SourceError
from libtz.sources.failures import failure
from libtz.sources.logs import quiet_libraries
from libtz.sources.url import redacted
from libtz.text import excerpt

__all__ = ["RETRYABLE_CODES", "clock_text", "code_of", "hint_for", "s3_errors"]

# Error codes that ask to try again later. Some stores send them with other statuses than 5xx.
RETRYABLE_CODES = frozenset(
    {"InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling"}
)

_ENCRYPTED = (
    "if the object is encrypted with your own key (SSE-C), set ReadOptions.s3.sse_customer_key"
)
_REGION = "the bucket is in another region; name it in ReadOptions.s3.region"
_EXPIRED = "the session's credentials have expired; renew them"
_HINTS = {
    "AccessDenied": "the credentials do not permit this, or there is no such object",
    "AuthorizationHeaderMalformed": _REGION,
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "IllegalLocationConstraintException": _REGION,
    "InvalidAccessKeyId": "the store does not know this access key",
    "InvalidArgument": _ENCRYPTED,
    "InvalidObjectState": "the object is archived; restore it first",
    "InvalidRequest": _ENCRYPTED,
    "InvalidToken": "the session token does not belong to these keys, or is left over from others",
    "KMS.DisabledException": "the key that encrypts the object is disabled",
    "KMS.NotFoundException": "the key that encrypts the object no longer exists",
    "NoSuchBucket": "there is no such bucket at this endpoint",
    "NoSuchKey": "there is no such object (the URL of a folder ends with a slash)",
    "NoSuchVersion": "the object has no such version",
    "PermanentRedirect": _REGION,
    "RequestTimeTooSkewed": "this machine's clock is wrong; correct it",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key",
}
# Error codes of stores that do not support boto3's checksums.
_CHECKSUM_CODES = frozenset(
    {
        "BadDigest",
        "InvalidArgument",
        "InvalidDigest",
        "InvalidRequest",
        "MalformedTrailerError",
        "MissingContentLength",
        "NotImplemented",
        "SignatureDoesNotMatch",
        "UnsupportedOperation",
        "XAmzContentChecksumMismatch",
        "XAmzContentSHA256Mismatch",
    }
)
_CHECKSUM_HINT = (
    "the store may not support the checksums that boto3 adds; if so, set the environment variable"
    " AWS_REQUEST_CHECKSUM_CALCULATION=when_required"
)
_WRITE_HINTS = {
    "AccessDenied": "the credentials do not permit this, or the bucket requires encryption"
    " (WriteOptions.s3.sse)",
    "InvalidArgument": "",
    "InvalidRequest": "",
}

_CODE = re.compile(r"[A-Za-z0-9.]{1,64}")
_BODY_CODE = re.compile(rb"<Code>([A-Za-z0-9.]{1,64})</Code>")
_URL = re.compile(r"\w+://\S+")
# Stores refuse signatures made with a clock that is further off than this.
CLOCK_SLACK_S = 300


def code_of(body: bytes) -> str:
    """The error code in the body of a store's response, "" if there is none."""
    match = _BODY_CODE.search(body)
    return match[1].decode("ascii") if match is not None else ""


def hint_for(code: str, *, is_write: bool = False, has_checksum: bool = False) -> str:
    """What to do about an error code, as the end of a sentence. Often empty."""
    hint = _WRITE_HINTS.get(code) if is_write else None
    if hint is None:
        hint = _HINTS.get(code, "")
    if has_checksum and code in _CHECKSUM_CODES:
        hint = f"{hint}; or {_CHECKSUM_HINT}" if hint else _CHECKSUM_HINT
    return f"; {_for_writing(hint)}" if hint and is_write else f"; {hint}" if hint else ""


def clock_text(headers: Mapping[str, str]) -> str:
    """How far this machine's clock is off the store's, as the end of a sentence. Empty if not."""
    try:
        date = email.utils.parsedate_to_datetime(headers.get("Date") or headers.get("date") or "")
        ahead_s = time.time() - date.timestamp()
    except (TypeError, ValueError, OverflowError):
        return ""
    if abs(ahead_s) <= CLOCK_SLACK_S:
        return ""
    side = "ahead of" if ahead_s > 0 else "behind"
    minutes = abs(ahead_s) / 60
    size = f"{minutes:.0f} minutes" if minutes < 100 else f"{minutes / 60:.0f} hours"
    return f"; this machine's clock is {size} {side} the store's: correct it, and try again"


def _for_writing(text: str) -> str:
    return text.replace("ReadOptions.", "WriteOptions.")


@contextmanager
def s3_errors(
    url: str, *, is_write: bool = False, has_checksum: bool = False, timeout_s: float = 0.0
) -> Iterator[None]:
    """Turn errors of botocore and of the store into libtz's. `url` must be fit for messages."""
    from botocore import exceptions

    error: Error
    try:
        with quiet_libraries():
            yield
        return
    except Error:
        raise
    except exceptions.ClientError as caught:
        error = _client_error(url, caught, is_write=is_write, has_checksum=has_checksum)
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as caught:
        error = OptionError(
            f"{url}: {type(caught).__name__}: set up credentials as for boto3, name a profile"
            " in S3Options.profile, or, for public objects, set S3Options.anonymous"
        )
    except exceptions.CredentialRetrievalError as caught:
        error = _credentials_error(url, str(caught.kwargs.get("provider", "")))
    except exceptions.MetadataRetrievalError as caught:
        text = f"{url}: the credential service cannot be reached ({type(caught).__name__})"
        error = SourceError(text, url=url, retryable=True)
    except (exceptions.ConnectionError, exceptions.HTTPClientError) as caught:
        error = _network_error(url, caught, timeout_s)
    except RuntimeError:  # botocore's only sign that the credentials it fetched have expired
        error = SourceError(
            f"{url}: the credential service returned expired credentials, or this machine's clock"
            " is wrong",
            url=url,
            retryable=True,
        )
    except (exceptions.BotoCoreError, ValueError) as caught:
        error = OptionError(f"{url}: {_option_text(caught)}")
    except (OSError, EOFError, AttributeError, KeyError, TypeError) as caught:
        error = OptionError(f"{url}: {_configuration_text(caught)}")
    if is_write:
        error.args = (_for_writing(str(error)),)
        error.message = error.args[0]
    raise error from None  # a chained cause would show what the message leaves out


def _client_error(url: str, caught: Any, *, is_write: bool, has_checksum: bool) -> SourceError:
    response = caught.response.get("ResponseMetadata", {})
    status = response.get("HTTPStatusCode")
    code = str(caught.response.get("Error", {}).get("Code", ""))
    code = code if _CODE.fullmatch(code) else ""
    said = " ".join(filter(None, (str(status or ""), "" if code == str(status) else code)))
    hint = hint_for(code, is_write=is_write, has_checksum=has_checksum)
    if status in (400, 401, 403):
        hint = clock_text(response.get("HTTPHeaders", {})) or hint
    return SourceError(
        f"{url}: the store answered {said or 'with an error'} to {caught.operation_name}{hint}",
        url=url,
        status=status,
        retryable=code in RETRYABLE_CODES or (status or 0) >= 500,
    )


def _credentials_error(url: str, provider: str) -> SourceError:
    # botocore's messages repeat what a service responded or a process printed.
    if provider == "custom-process":
        return SourceError(
            f"{url}: the credential_process in the AWS configuration failed or printed no"
            " credentials (CredentialRetrievalError); run it by hand to see why",
            url=url,
        )
    return SourceError(
        f"{url}: {excerpt(provider) or 'the credential service'} returned no credentials"
        " (CredentialRetrievalError)",
        url=url,
        retryable=True,
    )


def _network_error(url: str, caught: Any, timeout_s: float) -> SourceError:
    cause = caught.kwargs.get("error")
    failed = failure(cause, timeout_s) if isinstance(cause, Exception) else None
    reason = f": {failed.reason}" if failed is not None else ""
    return SourceError(
        f"{url}: the store or the credential service cannot be reached"
        f" ({type(caught).__name__}){reason}",
        url=url,
        retryable=failed is None or failed.retryable,
    )


def _option_text(caught: Exception) -> str:
    if type(caught).__name__ == "MissingDependencyException":
        return "signing for this bucket needs another package; run: pip install awscrt"
    text = _URL.sub(lambda match: redacted(match[0]), str(caught))
    if text.startswith("Invalid endpoint"):  # the rest could be anything
        text = "the endpoint is not a URL; it must begin with http:// or https://"
    return f"{type(caught).__name__}: {excerpt(text, 400)}"


def _configuration_text(caught: Exception) -> str:
    """The message for errors of files, processes and services that botocore lets through."""
    if isinstance(caught, EOFError):
        return "the role requires an MFA code, and there is no terminal to ask for it"
    if isinstance(caught, OSError):
        path = caught.filename if isinstance(caught.filename, str) else ""
        where = f" ({excerpt(path)})" if path else ""
        return (
            f"the credentials named in the AWS configuration cannot be read{where}:"
            f" {caught.strerror or type(caught).__name__}"
        )
    return f"the AWS configuration or its credentials are invalid ({type(caught).__name__})"
