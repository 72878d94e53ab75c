"""Which certificates and proxies to use, for reading and for writing.

requests and botocore read different environment variables. Neither looks at a file before the
handshake that needs it, and there a mistake in the file looks like a network failure.
"""

from __future__ import annotations

import os
import re
import ssl
import urllib.request
import warnings
from collections.abc import Mapping
from pathlib import Path

import requests.utils
import urllib3.exceptions

from libtz.errors import OptionError
from libtz.options import HttpOptions

__all__ = [
    "accept_unverified",
    "authorities",
    "check_certificates",
    "proxies_for",
    "system_authorities",
]

# The first one that is set names the authorities to trust. They are those of requests, curl and
# OpenSSL.
_AUTHORITY_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")


def authorities(verify: bool | str, bundle: str | None = None) -> bool | str:
    """The authorities to trust: the option, else `bundle` (from the AWS configuration), else those
    that the environment names, else certifi's list (True)."""
    if verify is not True:
        return verify
    named = (bundle, *(os.environ.get(name) for name in _AUTHORITY_VARIABLES))
    return next((path for path in named if path), True)


def system_authorities() -> bool | str:
    """The system's list of authorities, as curl uses it; certifi's (True) if there is none."""
    paths = ssl.get_default_verify_paths()
    return paths.cafile or paths.capath or True


def check_certificates(verify: bool | str, cert: str | tuple[str, str] | None) -> None:
    """Raise `OptionError` if these files cannot be used. Never asks for a passphrase."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if isinstance(verify, str):
        is_folder = Path(verify).is_dir()
        try:
            context.load_verify_locations(**{"capath" if is_folder else "cafile": verify})
        except OSError as error:  # an ssl.SSLError is one
            raise OptionError(
                f"the authorities to trust cannot be read from {verify}: {_reason(error)};"
                " ReadOptions.http.verify and the environment variables *_CA_BUNDLE and"
                " SSL_CERT_FILE must name a PEM file"
            ) from None
    if cert is not None:
        _check_client_certificate(context, cert)


def _check_client_certificate(context: ssl.SSLContext, cert: str | tuple[str, str]) -> None:
    path, key_path = cert if isinstance(cert, tuple) else (cert, None)
    asked: list[None] = []

    def no_passphrase() -> str:
        asked.append(None)
        return ""

    try:
        context.load_cert_chain(path, key_path, password=no_passphrase)
    except (OSError, ValueError) as error:
        where = path if key_path is None else f"{path} and {key_path}"
        if asked:
            reason = f"the key in {key_path or path} is encrypted, and libtz does not ask for"
            reason += " passphrases; decrypt it with openssl pkey"
        elif isinstance(error, ssl.SSLError) and key_path is None:
            reason = f"{_reason(error)}; the file must hold the certificate and its key, as PEM"
        else:
            reason = _reason(error)
        raise OptionError(
            f"the client certificate of ReadOptions.http.cert cannot be used ({where}): {reason}"
        ) from None


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        known = {"KEY_VALUES_MISMATCH": "the key does not belong to the certificate"}
        return known.get(error.reason or "", "it is not a PEM file of the expected kind")
    return getattr(error, "strerror", None) or type(error).__name__


def accept_unverified(host: str) -> None:
    """Silence urllib3's warning at each request to this host or its subdomains. The caller has
    asked not to check its certificate."""
    warnings.filterwarnings(
        "ignore",
        rf"Unverified HTTPS request is being made to host '(.*\.)?{re.escape(host)}'",
        urllib3.exceptions.InsecureRequestWarning,
    )


def proxies_for(url: str, http: HttpOptions) -> Mapping[str, str]:
    """The proxies for this URL by the rules of requests, where NO_PROXY may hold address ranges."""
    if http.proxies is not None:
        return http.proxies
    if not urllib.request.getproxies():
        return {}
    proxies: Mapping[str, str] = requests.utils.get_environ_proxies(url, no_proxy=None)
    return proxies
