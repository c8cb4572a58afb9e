"""Which device tokens are dead, foreign or malformed in the vendor's eyes: by explicit list, by prefix, or by share.

A share is decided by sha256(token), so a token keeps its fate for ever and on every simulator; several shares take
neighbouring intervals, in the order in which they are written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

TOKENS_MAX = 2_000_000  # tokens named one by one, config and control port together; about 250 MB when full


class Fate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Tokens that the vendor refuses with the named reason.

    fate: the vendor's reason, e.g. "Unregistered" (apns) or "UNREGISTERED" (fcm).
    share: fraction of all tokens, 0..1, chosen by hash.
    prefixes, tokens: tokens named outright; they win over any share.
    dead_since_s: seconds before the simulator's start since when the vendor has known it (the `timestamp` of a 410).
    """

    fate: str
    share: float = 0.0
    prefixes: list[str] = []
    tokens: list[str] = []
    dead_since_s: float = 86_400.0


class Fates:
    """Looks up the fate of a token; names are listed by the vendor, an unknown one is refused.

    Raises:
        ValueError: a fate is not in `known`, a share is outside 0..1, or the shares add up to more than 1.
    """

    def __init__(self, fates: Iterable[Fate], known: frozenset[str]) -> None:
        self._known = known
        self._tokens: dict[str, Fate] = {}
        self._prefixes: list[tuple[str, Fate]] = []
        self._shares: list[tuple[float, Fate]] = []
        for fate in fates:
            self.add(fate)

    def add(self, fate: Fate) -> None:
        """From now on `fate` holds for its tokens, its prefixes and its share."""
        if fate.fate not in self._known:
            raise ValueError(f"fate is {fate.fate!r}, expected one of {', '.join(sorted(self._known))}")
        if not 0 <= fate.share <= 1:
            raise ValueError(f"share is {fate.share}, expected 0..1")
        if len(self._tokens) + len(fate.tokens) > TOKENS_MAX:
            raise ValueError(f"{len(self._tokens) + len(fate.tokens)} tokens named, limit {TOKENS_MAX}")
        edge = (self._shares[-1][0] if self._shares else 0.0) + fate.share
        if edge > 1 + 1e-9:
            raise ValueError(f"shares add up to {edge}, limit 1")
        for token in fate.tokens:
            self._tokens[token] = fate
        self._prefixes += [(prefix, fate) for prefix in fate.prefixes]
        if fate.share:
            self._shares.append((edge, fate))

    def of(self, token: str) -> Fate | None:
        """The fate of `token`, or None for a token in good health."""
        found = self._tokens.get(token)
        if found is not None:
            return found
        for prefix, fate in self._prefixes:
            if token.startswith(prefix):
                return fate
        if self._shares:
            position = (
                int.from_bytes(hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64
            )
            for edge, fate in self._shares:
                if position < edge:
                    return fate
        return None
