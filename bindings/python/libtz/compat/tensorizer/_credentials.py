"""Keys and endpoints of S3 stores, looked for where Tensorizer looks: arguments, then s3cmd's
configuration, then whatever boto3 knows; readers without any are anonymous."""

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

__all__ = ["s3_options"]

# Hosts of CoreWeave's object storage, which know buckets by their host name only.
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
) -> S3Options:
    if signature not in (None, "s3v4"):
        raise ValueOptionError(
            f"s3_signature_version is 's3v4', the one that libtz signs with; got {signature!r}"
        )
    if (access_key is None) != (secret_key is None):
        raise ValueOptionError("give s3_access_key_id and s3_secret_access_key together")
    is_anonymous = access_key == "" and secret_key == ""
    if access_key is None:
        found = _s3cmd_configuration(config_path)
        access_key, secret_key = found.get("access_key"), found.get("secret_key")
        session_token = session_token or found.get("access_token")
        endpoint = endpoint or found.get("host_base")
        if force_http is None and "use_https" in found:
            force_http = found["use_https"] == "False"
    if not access_key or not secret_key:
        access_key = secret_key = session_token = None
        is_anonymous = is_anonymous or (is_read and not _has_credentials())
    elif access_key == os.environ.get("AWS_ACCESS_KEY_ID"):
        # Code that reads the keys from the environment passes them on without what belongs to them.
        session_token = session_token or os.environ.get("AWS_SESSION_TOKEN") or None
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
        # Its message would repeat the line, which may be a key.
        raise ValueOptionError(f"{path} is not a configuration file of s3cmd") from None
    if "default" not in parser:
        raise ValueOptionError(f"{path} has no section [default]")
    return {key: value for key, value in parser["default"].items() if value}


def _has_credentials() -> bool:
    session = make_session(S3Options())
    with s3_errors("S3 configuration"):
        return session.get_credentials() is not None


def _with_scheme(endpoint: str, force_http: bool) -> str:
    scheme, separator, host = endpoint.partition("://")
    if not separator:
        return f"{'http' if force_http else 'https'}://{endpoint}"
    return f"http://{host}" if force_http and scheme.lower() == "https" else endpoint
