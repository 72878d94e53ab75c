"""Errors of stores and of botocore as ours: what happened, and what to do about it.

Of what a store says only its error code is repeated, and only where it looks like one: other parts
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
from libtz.sources.logs import discreet, plain_text
from libtz.sources.url import shown

__all__ = ["RETRYABLE_CODES", "clock_text", "code_of", "hint_for", "s3_errors"]

# Error codes of stores that ask for patience, some of them under a status that does not.
RETRYABLE_CODES = frozenset(
    {"InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling"}
)

_ENCRYPTED = (
    "if the object is encrypted with a key of your own (SSE-C), give the key in"
    " ReadOptions.s3.sse_customer_key"
)
_REGION = "the bucket is in another region; name it in ReadOptions.s3.region"
_EXPIRED = "the session's credentials have expired; renew them"
_HINTS = {
    "AccessDenied": "these credentials may not do this, or there is no such object",
    "AuthorizationHeaderMalformed": _REGION,
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "IllegalLocationConstraintException": _REGION,
    "InvalidAccessKeyId": "the store does not know this access key",
    "InvalidArgument": _ENCRYPTED,
    "InvalidObjectState": "the object is archived; restore it first",
    "InvalidRequest": _ENCRYPTED,
    "InvalidToken": "the session token is not one of the store's; it belongs to other keys, or to"
    " keys that it was left behind by",
    "KMS.DisabledException": "the key that encrypts the object is switched off",
    "KMS.NotFoundException": "the key that encrypts the object is gone",
    "NoSuchBucket": "there is no such bucket at this endpoint",
    "NoSuchKey": "there is no such object (the URL of a folder ends with a slash)",
    "NoSuchVersion": "the object has no such version",
    "PermanentRedirect": _REGION,
    "RequestTimeTooSkewed": "this machine's clock is wrong; set it",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key",
}
# Codes by which stores that do not know boto3's checksums refuse them.
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
    "the store may not know the checksums that boto3 adds: try with the environment variable"
    " AWS_REQUEST_CHECKSUM_CALCULATION=when_required"
)
_WRITE_HINTS = {
    "AccessDenied": "these credentials may not do this, or the bucket wants every object encrypted"
    " (WriteOptions.s3.sse)",
    "InvalidArgument": "",
    "InvalidRequest": "",
}

_CODE = re.compile(r"[A-Za-z0-9.]{1,64}")
_BODY_CODE = re.compile(rb"<Code>([A-Za-z0-9.]{1,64})</Code>")
_URL = re.compile(r"\w+://\S+")
# More than this, and stores refuse what was signed; less is noise.
CLOCK_SLACK_S = 300


def code_of(body: bytes) -> str:
    """The error code in a store's answer, "" if there is none that looks like one."""
    match = _BODY_CODE.search(body)
    return match[1].decode("ascii") if match is not None else ""


def hint_for(code: str, *, is_write: bool = False, has_checksum: bool = False) -> str:
    """What an error code asks the caller to do, as the end of a sentence; often nothing."""
    hint = _WRITE_HINTS.get(code) if is_write else None
    if hint is None:
        hint = _HINTS.get(code, "")
    if has_checksum and code in _CHECKSUM_CODES:
        hint = f"{hint}; or {_CHECKSUM_HINT}" if hint else _CHECKSUM_HINT
    return f"; {_for_writing(hint)}" if hint and is_write else f"; {hint}" if hint else ""


def clock_text(headers: Mapping[str, str]) -> str:
    """How far this machine's clock is from the store's, as the end of a sentence, if it is far."""
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
    return f"; this machine's clock is {size} {side} the store's: set it, and try again"


def _for_writing(text: str) -> str:
    return text.replace("ReadOptions.", "WriteOptions.")


@contextmanager
def s3_errors(
    url: str, *, is_write: bool = False, has_checksum: bool = False, timeout_s: float = 0.0
) -> Iterator[None]:
    """Turn what botocore raises, and what the store answers to it, into ours."""
    from botocore import exceptions

    error: Error
    try:
        with discreet():
            yield
        return
    except Error:
        raise
    except exceptions.ClientError as caught:
        error = _client_error(url, caught, is_write=is_write, has_checksum=has_checksum)
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as caught:
        error = OptionError(
            f"{url}: {type(caught).__name__}: set up credentials as for boto3, name a profile"
            " in S3Options.profile, or set S3Options.anonymous for public objects"
        )
    except exceptions.CredentialRetrievalError as caught:
        error = _credentials_error(url, str(caught.kwargs.get("provider", "")))
    except exceptions.MetadataRetrievalError as caught:
        text = f"{url}: the credential service cannot be reached ({type(caught).__name__})"
        error = SourceError(text, url=url, retryable=True)
    except (exceptions.ConnectionError, exceptions.HTTPClientError) as caught:
        error = _network_error(url, caught, timeout_s)
    except RuntimeError:  # botocore's only sign that what it fetched is out of date already
        error = SourceError(
            f"{url}: the credential service gave credentials that have expired, or this machine's"
            " clock is wrong",
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
    raise error from None  # the cause would show what the message leaves out


def _client_error(url: str, caught: Any, *, is_write: bool, has_checksum: bool) -> SourceError:
    answer = caught.response.get("ResponseMetadata", {})
    status = answer.get("HTTPStatusCode")
    code = str(caught.response.get("Error", {}).get("Code", ""))
    code = code if _CODE.fullmatch(code) else ""
    said = " ".join(filter(None, (str(status or ""), "" if code == str(status) else code)))
    hint = hint_for(code, is_write=is_write, has_checksum=has_checksum)
    if status in (400, 401, 403):
        hint = clock_text(answer.get("HTTPHeaders", {})) or hint
    return SourceError(
        f"{url}: the store answered {said or 'with an error'} to {caught.operation_name}{hint}",
        url=url,
        status=status,
        retryable=code in RETRYABLE_CODES or (status or 0) >= 500,
    )


def _credentials_error(url: str, provider: str) -> SourceError:
    # Their messages repeat what a service answered, or what a process printed.
    if provider == "custom-process":
        return SourceError(
            f"{url}: the credential_process of the AWS configuration failed, or printed no"
            " credentials (CredentialRetrievalError); run it by hand to see why",
            url=url,
        )
    return SourceError(
        f"{url}: no credentials came from {plain_text(provider) or 'the credential service'}"
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
        return "signatures for this bucket need another package; run: pip install awscrt"
    words = _URL.sub(lambda match: shown(match[0]), str(caught))
    if words.startswith("Invalid endpoint"):  # what follows may be anything
        words = "the endpoint is no URL; it begins with http:// or https://"
    return f"{type(caught).__name__}: {plain_text(words, 400)}"


def _configuration_text(caught: Exception) -> str:
    """Of errors that botocore lets through from files, processes and services it asks."""
    if isinstance(caught, EOFError):
        return "the role wants an MFA code, and there is no terminal to ask for it at"
    if isinstance(caught, OSError):
        path = caught.filename if isinstance(caught.filename, str) else ""
        where = f" ({plain_text(path)})" if path else ""
        return (
            f"the credentials that AWS configuration names cannot be read{where}:"
            f" {caught.strerror or type(caught).__name__}"
        )
    return f"the AWS configuration or its credentials make no sense ({type(caught).__name__})"
