"""Where a redirect may lead, and what may be sent there."""

from __future__ import annotations

from collections.abc import Mapping

from libtz.sources.retry import TryFailed
from libtz.sources.url import origin_of, redirect_url, shown

__all__ = ["REDIRECT_STATUSES", "followed"]

REDIRECTS_MAX = 5
REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})


def followed(
    url: str, headers: Mapping[str, str], location: str, hops: int
) -> tuple[str, Mapping[str, str]]:
    """The next URL after `hops` redirects, this one included, and the headers for it."""
    if hops > REDIRECTS_MAX:
        raise TryFailed(f"more than {REDIRECTS_MAX} redirects", retryable=False)
    try:
        target = redirect_url(url, location)
        before, after = origin_of(url), origin_of(target)
    except ValueError:
        raise TryFailed("a redirect to something that is no HTTP URL", retryable=False) from None
    if before[0] == "https" and after[0] == "http":
        raise TryFailed(
            f"a redirect from https to {shown(target)}, which is not encrypted, was refused",
            retryable=False,
        )
    # All headers of the caller count as credentials. Once dropped they stay dropped, even if a
    # later redirect leads back.
    return target, headers if before == after else {}
