"""Whether the tensorizer package can encrypt here."""

import pytest
from tensorizer import _crypt

__all__ = ["needs_libsodium"]

needs_libsodium = pytest.mark.skipif(
    not _crypt.available, reason="tensorizer needs libsodium (apt-get install libsodium23)"
)
