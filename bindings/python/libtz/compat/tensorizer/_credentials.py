"""Finds keys and endpoints of S3 stores where Tensorizer does: in the arguments, in s3cmd's
configuration, and in boto3's. Without keys, reading is anonymous. Without an endpoint, CoreWeave's
object storage is used."""

from __future__ import annotations

import configparser
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from libtz.compat._errors import ValueOptionError
from libtz.options import S3Options
from libtz.sources.s3_client import make_session
from libtz.sources.s3_errors import s3_errors

__all__ = ["COREWEAVE_READ", "COREWEAVE_WRITE", "s3_options"]

COREWEAVE_READ = "accel-object.ord1.coreweave.com"
COREWEAVE_WRITE = "object.ord1.coreweave.com"

# Hosts of CoreWeave's object storage, which only support virtual-hosted buckets.
_VIRTUAL_HOSTS = ("cwobject.com", "cwlota.com")


def s3_options(
    *,
    access_key: str | None,
    secret_key: str | None,
    endpoint: str | None,
    config_path: Any,
    region: str | None,
    session_token: str | None,
    signature: str | None,
    force_http: bool | None,
    is_read: bool,
    default_endpoint: str,
) -> S3Options:
    if signature not in (None, "s3v4"):
        raise ValueOptionError(
            f"s3_signature_version must be 's3v4', the only one libtz supports; got {signature!r}"
        )
    if (access_key is None) != (secret_key is None):
        raise ValueOptionError("s3_access_key_id and s3_secret_access_key must be given together")
    session = make_session(S3Options())
    is_anonymous = access_key == "" and secret_key == ""
    has_session_keys = False
    if access_key is None:
        found = _s3cmd_configuration(config_path)
        access_key, secret_key = found.get("access_key"), found.get("secret_key")
        session_token = session_token or found.get("access_token")
        endpoint = endpoint or found.get("host_base")
        if force_http is None and "use_https" in found:
            force_http = found["use_https"] == "False"
    if not access_key or not secret_key:
        access_key = secret_key = session_token = None
        has_session_keys = not is_anonymous and _has_credentials(session)
        is_anonymous = is_anonymous or (is_read and not has_session_keys)
    elif access_key == os.environ.get("AWS_ACCESS_KEY_ID"):
        # Code that passes on the keys from the environment often forgets the session token.
        session_token = session_token or os.environ.get("AWS_SESSION_TOKEN") or None
    endpoint = endpoint or _configured_endpoint(session)
    # Keys found by boto3 are for the store that boto3 would use, so they are not sent to CoreWeave.
    is_foreign = has_session_keys and default_endpoint in (COREWEAVE_READ, COREWEAVE_WRITE)
    if not endpoint and not is_foreign:
        endpoint = default_endpoint
    endpoint = None if not endpoint else _with_scheme(endpoint, bool(force_http))
    is_virtual = endpoint is not None and (urlsplit(endpoint).hostname or "") in _VIRTUAL_HOSTS
    return S3Options(
        endpoint=endpoint,
        region=region,
        anonymous=is_anonymous,
        addressing_style="virtual" if is_virtual else None,
        access_key_id=access_key,
        secret_access_key=secret_key,
        session_token=session_token or None,
    )


def _s3cmd_configuration(config_path: Any) -> dict[str, str]:
    if config_path is not None:
        path = Path(os.fsdecode(config_path))
    else:
        path = Path.home() / ".s3cfg"
        if not path.is_file():
            return {}
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(path.read_text())
    except (configparser.Error, UnicodeDecodeError):
        # The message of the error would contain the line, which may be a key.
        raise ValueOptionError(f"{path} is not a configuration file of s3cmd") from None
    if "default" not in parser:
        raise ValueOptionError(f"{path} has no section [default]")
    return {key: value for key, value in parser["default"].items() if value}


def _configured_endpoint(session: Any) -> str | None:
    """The endpoint that boto3 would use, or "endpoint_url" under "s3" in a profile, which only
    Tensorizer supports."""
    if session.get_config_variable("ignore_configured_endpoint_urls"):
        return None
    profile = session.get_scoped_config()
    services = session.full_config.get("services", {}).get(profile.get("services"), {})
    found = [os.environ.get("AWS_ENDPOINT_URL_S3"), os.environ.get("AWS_ENDPOINT_URL")]
    for section in (profile.get("s3"), services.get("s3"), profile):
        found.append(section.get("endpoint_url") if isinstance(section, dict) else None)
    return next((endpoint for endpoint in found if endpoint), None)


def _has_credentials(session: Any) -> bool:
    with s3_errors("S3 configuration"):
        return session.get_credentials() is not None


def _with_scheme(endpoint: str, force_http: bool) -> str:
    scheme, separator, host = endpoint.partition("://")
    if not separator:
        return f"{'http' if force_http else 'https'}://{endpoint}"
    return f"http://{host}" if force_http and scheme.lower() == "https" else endpoint
