"""What the libraries' connection errors mean: a message, and whether to try again.

Text that a server chose is not repeated: it could be anything, secrets included.
"""

from __future__ import annotations

import http.client
import re
import ssl
from collections.abc import Mapping
from typing import Any

import urllib3.exceptions

from libtz.sources.retry import TryFailed
from libtz.text import excerpt

__all__ = ["describe", "failure"]

_NO_TLS = "this port does not speak TLS; if that is intended, use http://"
_WANTS_TLS = "this port speaks TLS; use https://"
_HTTP2_ONLY = "this port only speaks HTTP/2, and libtz only HTTP/1.1; enable HTTP/1.1 for it"
_CLIENT_CERTIFICATE = "the server requires a client certificate; set ReadOptions.http.cert"
_CLIENT_REFUSED = "the server refused the client certificate of ReadOptions.http.cert"

# What OpenSSL may report while connecting, if another attempt would have the same result.
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
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the server ended the TLS handshake; it may require a client"
    " certificate (ReadOptions.http.cert), or ciphers that are disabled here",
    "NO_PROTOCOLS_AVAILABLE": "client and server have no version of TLS in common",
    "TLSV1_ALERT_PROTOCOL_VERSION": "client and server have no version of TLS in common",
    "UNSUPPORTED_PROTOCOL": "client and server have no version of TLS in common",
}

# How responses begin that are not HTTP/1: with an alert or handshake of TLS (record type, major
# version 3), or a SETTINGS frame of HTTP/2 (24-bit length, type 4).
_TLS_RECORD = re.compile(r"[\x15\x16]\x03", re.DOTALL)
_HTTP2_FRAME = re.compile(r"\x00..\x04", re.DOTALL)


def failure(error: BaseException, timeout_s: float, *, is_connecting: bool = True) -> TryFailed:
    """The failure that a library's connection error stands for. Pass `is_connecting=False` in the
    middle of a body, where the same TLS errors mean that data was damaged on the way."""
    if isinstance(error, (urllib3.exceptions.ReadTimeoutError, TimeoutError)):
        return TryFailed(f"the server sent nothing for {timeout_s:g} s")
    if isinstance(error, urllib3.exceptions.ProxyError):
        reason = describe(_innermost(error.original_error))
        # A 4xx response of a proxy is final. A proxy that cannot be reached may come back.
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
    """The text of a system error; of any other error only the name, since a server may have chosen
    its text."""
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, http.client.HTTPException) or not isinstance(error, OSError):
        return type(error).__name__
    return excerpt(error.strerror or str(error) or type(error).__name__)


def _innermost(error: BaseException) -> BaseException:
    """The system error that urllib3 has wrapped once or twice."""
    for _ in range(4):
        wrapped: Any = error.args[-1] if error.args else None
        if not isinstance(wrapped, Exception):
            wrapped = error.__cause__  # for connections that could not be made
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
    reason = excerpt(error.verify_message)
    text = f"the server's certificate was refused: {reason}"
    if error.verify_code in (_NOT_YET_VALID, _EXPIRED):
        return f"{text}; renew it, or correct this machine's clock if that is wrong"
    if error.verify_code in (_WRONG_HOST, _WRONG_ADDRESS):
        return f"{text}; use a host name that the certificate covers"
    return f"{text}; to trust it, set ReadOptions.http.verify to a file with its authority"


# X509_V_ERR_* of OpenSSL.
_NOT_YET_VALID, _EXPIRED, _WRONG_HOST, _WRONG_ADDRESS = 9, 10, 62, 64
