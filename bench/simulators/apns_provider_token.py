"""Provider tokens of APNs: ES256 JWTs, their age, and what one connection allows.

Rules (Apple, "Establishing a token-based connection to APNs"; fact sheet section 1.2):
- header alg ES256 and a known kid; claims iss (the key's team) and iat; nothing else is needed.
- iat older than one hour: 403 ExpiredProviderToken, and the connection stays unusable ("wedged") afterwards.
- a connection is bound to the team and to the key family of its first token: another team is InvalidProviderToken, a
  topic-specific key beside another key is UnrelatedKeyIdInToken, a key of the other environment is
  BadEnvironmentKeyIdInToken.
- more than one change of the token in 20 minutes on one connection: 429 TooManyProviderTokenUpdates. The first token is
  no change: a connection may begin with a token that is 49 minutes old and see its successor a minute later.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

AGE_S_MAX = 3_600.0
CHANGE_S_MIN = 1_200.0
SKEW_S_MAX = 60.0  # an iat this far ahead of us is still a clock's drift; Apple gives no figure
CACHE_MAX = 256  # verified tokens remembered; a verification costs about 60 us


@dataclass(frozen=True, slots=True)
class Key:
    """A provider key. `topics` empty = team-scoped; `environment` empty = both."""

    key_id: str
    team_id: str
    public_key: EllipticCurvePublicKey
    topics: frozenset[str]
    environment: str


@dataclass(slots=True)
class TokenBond:
    """What one connection remembers of the tokens it has seen. Times are Unix seconds of the injected clock."""

    text: bytes = b""
    key: Key | None = None
    changed_at: float | None = None
    is_wedged: bool = False
    #: Of the client's certificate; empty without one.
    certificate_topics: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class TokenRefusal:
    """Status, Apple's reason, and why in words."""

    status: int
    reason: str
    why: str


@dataclass(slots=True)
class ProviderTokens:
    """Judges the authorization header. keys: by key id."""

    keys: dict[str, Key]
    environment: str
    _verified: dict[bytes, tuple[Key, float]] = field(default_factory=dict)

    def judge(self, authorization: bytes | None, bond: TokenBond, now_unix_s: float) -> Key | TokenRefusal:
        """The key that signed the token, or the refusal. `bond` learns a token only when it is accepted."""
        if bond.is_wedged:
            return TokenRefusal(403, "ExpiredProviderToken", "the connection has seen an expired token: open a new one")
        if authorization is None:
            return TokenRefusal(403, "MissingProviderToken", "no authorization header and no client certificate")
        scheme, _, text = authorization.partition(b" ")
        if scheme.lower() != b"bearer" or not text:
            return TokenRefusal(403, "InvalidProviderToken", "authorization is not 'bearer <jwt>'")
        found = self._verify(text, now_unix_s)
        if isinstance(found, TokenRefusal):
            return found
        key, issued_at = found
        if now_unix_s - issued_at > AGE_S_MAX:
            bond.is_wedged = True
            age_s = now_unix_s - issued_at
            return TokenRefusal(403, "ExpiredProviderToken", f"iat is {age_s:.0f} s old, limit {AGE_S_MAX:.0f} s")
        return self._judge_change(text, key, bond, now_unix_s)

    def _judge_change(self, text: bytes, key: Key, bond: TokenBond, now_unix_s: float) -> Key | TokenRefusal:
        if bond.key is None:
            bond.key, bond.text = key, text
            return key
        if text == bond.text:
            return key
        if key.team_id != bond.key.team_id:
            return TokenRefusal(403, "InvalidProviderToken", "the connection belongs to another team")
        if key.key_id != bond.key.key_id and (key.topics or bond.key.topics):
            return TokenRefusal(403, "UnrelatedKeyIdInToken", "the connection belongs to another topic-specific key")
        if bond.changed_at is not None and now_unix_s - bond.changed_at < CHANGE_S_MIN:
            return TokenRefusal(
                429,
                "TooManyProviderTokenUpdates",
                f"second change after {now_unix_s - bond.changed_at:.0f} s, at most one in {CHANGE_S_MIN:.0f} s",
            )
        bond.key, bond.text, bond.changed_at = key, text, now_unix_s
        return key

    def _verify(self, text: bytes, now_unix_s: float) -> tuple[Key, float] | TokenRefusal:
        """Key and iat of a token whose signature and form are good; remembered, since one token signs thousands."""
        known = self._verified.get(text)
        if known is not None:
            return known
        try:
            header = jwt.get_unverified_header(text)
        except jwt.InvalidTokenError:
            return _invalid("not a JWT")
        key = self.keys.get(str(header.get("kid", "")))
        if header.get("alg") != "ES256":
            return _invalid(f"alg is {header.get('alg')!r}, only ES256 is accepted")
        if key is None:
            return _invalid("unknown kid")
        if key.environment and key.environment != self.environment:
            return TokenRefusal(
                403, "BadEnvironmentKeyIdInToken", f"key is for {key.environment}, this is {self.environment}"
            )
        try:
            # Time is judged by the injected clock, so PyJWT may only look at the signature.
            claims = jwt.decode(
                text,
                key.public_key,
                algorithms=["ES256"],
                options={"verify_exp": False, "verify_iat": False, "verify_nbf": False, "verify_aud": False},
            )
        except jwt.InvalidTokenError as error:
            return _invalid(f"signature: {type(error).__name__}")
        issued_at = claims.get("iat")
        if claims.get("iss") != key.team_id:
            return _invalid("iss is not the team of the key")
        if isinstance(issued_at, bool) or not isinstance(issued_at, int | float):
            return _invalid("iat is missing or not a number")
        if issued_at - now_unix_s > SKEW_S_MAX:
            return _invalid(f"iat is {issued_at - now_unix_s:.0f} s in the future")
        if len(self._verified) >= CACHE_MAX:
            self._verified.pop(next(iter(self._verified)))
        self._verified[text] = (key, float(issued_at))
        return key, float(issued_at)


def _invalid(why: str) -> TokenRefusal:
    return TokenRefusal(403, "InvalidProviderToken", why)
