"""Which redirects are followed, and which headers may be sent to the target."""

from __future__ import annotations

from collections.abc import Mapping

from libtz.sources.retry import TryFailed
from libtz.sources.url import origin_of, redacted, redirect_url

__all__ = ["REDIRECT_STATUSES", "followed"]

REDIRECTS_MAX = 5
REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})


def followed(
    url: str, headers: Mapping[str, str], location: str, hops: int
) -> tuple[str, Mapping[str, str]]:
    """The target of a redirect and the headers for it. `hops` counts redirects, including this
    one. Raises `TryFailed` if it must not be followed."""
    if hops > REDIRECTS_MAX:
        raise TryFailed(f"more than {REDIRECTS_MAX} redirects", retryable=False)
    try:
        target = redirect_url(url, location)
        before, after = origin_of(url), origin_of(target)
    except ValueError:
        raise TryFailed("a redirect to something other than an HTTP URL", retryable=False) from None
    if before[0] == "https" and after[0] == "http":
        raise TryFailed(
            f"refused a redirect from https to {redacted(target)}, which is not encrypted",
            retryable=False,
        )
    # All of the caller's headers count as credentials. Once dropped, they stay dropped, even if a
    # later redirect leads back.
    return target, headers if before == after else {}
