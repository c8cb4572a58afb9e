"""Credentials that never change: a secret that stands in a header (Xiaomi) or that requests are signed with (Meizu).

Source: facts/vendors-china.md sections 1.3 and 4.3 (2026-11). A new secret needs a new start.
"""

from __future__ import annotations

import math

from vendors.auth.client_credentials import secret_text
from vendors.auth.credential import Issued


class StaticKey:
    """prefix: what stands before the secret. Raises ValueError for a secret that is not one printable word."""

    gap_s = 0.0

    def __init__(self, secret: bytes, *, what: str, prefix: str = "") -> None:
        self._value = (prefix + secret_text(secret, what)).encode()

    def issue(self, now_unix_s: float, *, fresh: bool = False) -> Issued:
        """Always the same: there is nothing to renew."""
        return Issued(self._value, math.inf, math.inf)
