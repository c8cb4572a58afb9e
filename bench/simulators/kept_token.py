"""The access token of WeCom and DingTalk: everybody who asks gets the same one while it is good."""

from __future__ import annotations

import secrets

from bench.simulators.access_tokens import AccessTokens
from bench.simulators.push_api import Refused


class KeptToken:
    """One token at a time, by the injected clock. life_s: seconds it is good for."""

    def __init__(self, life_s: float) -> None:
        self._tokens = AccessTokens(life_s)

    def give(self, now_unix_s: float) -> tuple[str, int]:
        """The token, and the seconds for which it is still good."""
        token = self._tokens.newest(now_unix_s)
        if token is None:
            token = secrets.token_hex(32)
            self._tokens.add(token, now_unix_s)
        return token, int(self._tokens.left(token, now_unix_s))

    def check(self, token: str, now_unix_s: float) -> None:
        """`token` may be used. Raises Refused: 40014 for an unknown one, 42001 for one that has expired."""
        if not self._tokens.is_known(token):
            raise Refused("40014", "access_token is missing or unknown")
        if not self._tokens.is_valid(token, now_unix_s):
            raise Refused("42001", "access_token has expired")

    def clear(self) -> None:
        """No token is valid."""
        self._tokens.clear()
