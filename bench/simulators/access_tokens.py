"""Access tokens that a simulator has issued: bounded, by the injected clock, each with who it was issued to."""

from __future__ import annotations

ACCESS_TOKENS_MAX = 10_000  # remembered; the oldest goes first


class AccessTokens:
    """Issued tokens with expiry and owner. life_s: seconds a token is good for."""

    def __init__(self, life_s: float) -> None:
        self.life_s = life_s
        self._issued: dict[str, tuple[float, str]] = {}

    def add(self, token: str, now_unix_s: float, owner: str = "") -> None:
        """`token` is good for `life_s` from now."""
        if len(self._issued) >= ACCESS_TOKENS_MAX:
            self._issued.pop(next(iter(self._issued)))
        self._issued[token] = (now_unix_s + self.life_s, owner)

    def is_valid(self, token: str, now_unix_s: float) -> bool:
        """Whether this token was issued here and has not expired."""
        return self._issued.get(token, (0.0, ""))[0] > now_unix_s

    def is_known(self, token: str) -> bool:
        """Whether this token was issued here, however long ago."""
        return token in self._issued

    def owner_of(self, token: str) -> str:
        """Who the token was issued to; empty for one that was not."""
        return self._issued.get(token, (0.0, ""))[1]

    def newest(self, now_unix_s: float) -> str | None:
        """The last token issued, while it is good."""
        last = next(reversed(self._issued), None)
        return last if last is not None and self.is_valid(last, now_unix_s) else None

    def expire_all(self, now_unix_s: float, grace_s: float = 0.0) -> None:
        """Every token issued so far ends `grace_s` from now at the latest."""
        for token, (expiry, owner) in self._issued.items():
            self._issued[token] = (min(expiry, now_unix_s + grace_s), owner)

    def clear(self) -> None:
        """No token is valid."""
        self._issued.clear()

    def left(self, token: str, now_unix_s: float) -> float:
        """Seconds for which this token is still good."""
        return max(0.0, self._issued.get(token, (0.0, ""))[0] - now_unix_s)
