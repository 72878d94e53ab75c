"""What the libraries' errors on connections mean: in words, and for trying again.

What a server chose to say is not repeated: it could be anything, secrets included.
"""

from __future__ import annotations

import http.client
import re
import ssl
from collections.abc import Mapping
from typing import Any

import urllib3.exceptions

from libtz.sources.logs import plain_text
from libtz.sources.retry import TryFailed

__all__ = ["describe", "failure"]

_NO_TLS = "this port does not speak TLS; use http:// if that is meant"
_WANTS_TLS = "this port speaks TLS; use https://"
_HTTP2_ONLY = "this port speaks HTTP/2 only, libtz HTTP/1.1; switch HTTP/1.1 on for it"
_CLIENT_CERTIFICATE = "the server wants a client certificate; name one in ReadOptions.http.cert"
_CLIENT_REFUSED = "the server refused the client certificate of ReadOptions.http.cert"

# What OpenSSL reports while a connection is made, where another try would bring the same.
_TLS_REASONS: Mapping[str, str] = {
    "HTTP_REQUEST": _NO_TLS,
    "PACKET_LENGTH_TOO_LONG": _NO_TLS,
    "RECORD_LAYER_FAILURE": _NO_TLS,
    "UNKNOWN_PROTOCOL": _NO_TLS,
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "NO_APPLICATION_PROTOCOL": _HTTP2_ONLY,
    "TLSV1_ALERT_NO_APPLICATION_PROTOCOL": _HTTP2_ONLY,
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": _CLIENT_CERTIFICATE,
    "SSLV3_ALERT_BAD_CERTIFICATE": _CLIENT_REFUSED,
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": _CLIENT_REFUSED,
    "SSLV3_ALERT_CERTIFICATE_REVOKED": _CLIENT_REFUSED,
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": _CLIENT_REFUSED,
    "TLSV1_ALERT_UNKNOWN_CA": _CLIENT_REFUSED,
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the server ended the TLS handshake; it may want a client"
    " certificate (ReadOptions.http.cert), or ciphers that are switched off here",
    "NO_PROTOCOLS_AVAILABLE": "client and server have no version of TLS in common",
    "TLSV1_ALERT_PROTOCOL_VERSION": "client and server have no version of TLS in common",
    "UNSUPPORTED_PROTOCOL": "client and server have no version of TLS in common",
}

# The first bytes of answers that are not HTTP/1: an alert or handshake of TLS (record type, major
# version 3), a SETTINGS frame of HTTP/2 (24 bits of length, type 4).
_TLS_RECORD = re.compile(r"[\x15\x16]\x03", re.DOTALL)
_HTTP2_FRAME = re.compile(r"\x00..\x04", re.DOTALL)


def failure(error: BaseException, timeout_s: float, *, is_connecting: bool = True) -> TryFailed:
    """What a library's error on a connection means. In the middle of a body, where
    `is_connecting` is False, the same words of TLS mean damage on the way."""
    if isinstance(error, (urllib3.exceptions.ReadTimeoutError, TimeoutError)):
        return TryFailed(f"the server sent nothing for {timeout_s:g} s")
    if isinstance(error, urllib3.exceptions.ProxyError):
        reason = describe(_innermost(error.original_error))
        # A proxy that answers 4xx means it; one that cannot be reached may come back.
        is_final = re.search(r"failed: 4[0-9][0-9]", reason) is not None
        return TryFailed(f"the proxy failed: {reason}", retryable=not is_final)
    cause = _innermost(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return TryFailed(_certificate_text(cause), retryable=False)
    if is_connecting:
        known = _known_reason(cause)
        if known is not None:
            return TryFailed(f"the connection failed: {known}", retryable=False)
    return TryFailed(f"the connection failed: {describe(cause)}")


def describe(error: BaseException) -> str:
    """An error's own words where they are the system's, its name where a server chose them."""
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, http.client.HTTPException) or not isinstance(error, OSError):
        return type(error).__name__
    return plain_text(error.strerror or str(error) or type(error).__name__)


def _innermost(error: BaseException) -> BaseException:
    """urllib3 wraps errors of the system once or twice."""
    for _ in range(4):
        wrapped: Any = error.args[-1] if error.args else None
        if not isinstance(wrapped, Exception):
            wrapped = error.__cause__  # of connections that were not made
        if not isinstance(wrapped, Exception):
            break
        error = wrapped
    return error


def _known_reason(cause: BaseException) -> str | None:
    if isinstance(cause, ssl.SSLError):
        return _TLS_REASONS.get(cause.reason or "")
    if isinstance(cause, http.client.BadStatusLine):
        line = str(cause.args[0]) if cause.args else ""
        if _TLS_RECORD.match(line):
            return _WANTS_TLS
        if _HTTP2_FRAME.match(line):
            return _HTTP2_ONLY
    return None


def _certificate_text(error: ssl.SSLCertVerificationError) -> str:
    text = f"the server's certificate was refused: {plain_text(error.verify_message)}"
    if error.verify_code in (_NOT_YET_VALID, _EXPIRED):
        return f"{text}; renew it, or set this machine's clock if that is wrong"
    if error.verify_code in (_WRONG_HOST, _WRONG_ADDRESS):
        return f"{text}; use the name that the certificate is for"
    return f"{text}; if it is to be trusted, name its authority in ReadOptions.http.verify"


# X509_V_ERR_* of OpenSSL.
_NOT_YET_VALID, _EXPIRED, _WRONG_HOST, _WRONG_ADDRESS = 9, 10, 62, 64
