"""The OAuth token endpoint of FCM: a signed assertion in, an access token out (RFC 7523; fact sheet section 2.2).

Times are those of the injected clock. The audience checked is the `token_uri` of the service account file.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from bench.simulators.access_tokens import AccessTokens
from bench.simulators.exchange import Answer, Request
from bench.simulators.fcm_errors import JSON_HEADERS

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:jwt-bearer"
SCOPES = frozenset(
    {"https://www.googleapis.com/auth/firebase.messaging", "https://www.googleapis.com/auth/cloud-platform"}
)
ASSERTION_S_MAX = 3_600.0
SKEW_S_MAX = 60.0  # Google gives no figure; more than a minute of drift is a broken clock


@dataclass(slots=True)
class OAuth:
    """Issues and judges access tokens of one service account. life_s: what `expires_in` says, plus one second."""

    client_email: str
    private_key_id: str
    public_key: RSAPublicKey
    token_uri: str
    life_s: float
    issued: AccessTokens = field(init=False)

    def __post_init__(self) -> None:
        self.issued = AccessTokens(self.life_s)

    def judge(self, request: Request, now_unix_s: float) -> Answer:
        """The answer of POST /token."""
        if request.method != "POST":
            return oauth_error(405, "invalid_request", f"method is {request.method[:16]}, expected POST")
        content_type = dict(request.headers).get(b"content-type", b"").partition(b";")[0].strip().lower()
        if content_type != b"application/x-www-form-urlencoded":
            return oauth_error(400, "invalid_request", "content-type is not application/x-www-form-urlencoded")
        pairs = parse_qsl(request.body.decode("latin-1"), keep_blank_values=True)
        form = dict(pairs)
        if len(form) != len(pairs):
            return oauth_error(400, "invalid_request", "a parameter is repeated")
        if form.get("grant_type") != GRANT_TYPE:
            return oauth_error(400, "unsupported_grant_type", f"Invalid grant_type: {form.get('grant_type', '')[:80]}")
        if not form.get("assertion"):
            return oauth_error(400, "invalid_request", "Missing required parameter: assertion")
        fault = self._fault_of(form["assertion"], now_unix_s)
        if fault is not None:
            return oauth_error(400, *fault)
        return self._issue(now_unix_s)

    def is_valid(self, access_token: str, now_unix_s: float) -> bool:
        """Whether this token was issued here and has not expired."""
        return self.issued.is_valid(access_token, now_unix_s)

    def reset(self) -> None:
        """No access token is valid."""
        self.issued.clear()

    def _issue(self, now_unix_s: float) -> Answer:
        token = f"ya29.c.{secrets.token_urlsafe(96)}"
        self.issued.add(token, now_unix_s)
        body = {"access_token": token, "expires_in": max(0, int(self.life_s) - 1), "token_type": "Bearer"}
        return Answer(200, JSON_HEADERS, msgspec.json.encode(body))

    def _fault_of(self, assertion: str, now_unix_s: float) -> tuple[str, str] | None:
        """(OAuth error, description) of a faulty assertion."""
        try:
            header = jwt.get_unverified_header(assertion)
            if header.get("alg") != "RS256":
                return "invalid_grant", f"Invalid JWT: alg is {header.get('alg')!r}, expected RS256"
            if header.get("kid", self.private_key_id) != self.private_key_id:
                return "invalid_grant", "Invalid JWT: kid is not a key of this account"
            claims = jwt.decode(
                assertion,
                self.public_key,
                algorithms=["RS256"],
                options={"verify_exp": False, "verify_iat": False, "verify_nbf": False, "verify_aud": False},
            )
        except jwt.InvalidSignatureError:
            return "invalid_grant", "Invalid JWT Signature."
        except jwt.InvalidTokenError:
            return "invalid_grant", "Invalid JWT: not a JWT"
        if claims.get("iss") != self.client_email:
            return "invalid_grant", "Invalid grant: account not found"
        if claims.get("aud") != self.token_uri:
            return "invalid_grant", "Invalid JWT: Failed audience check."
        scopes = str(claims.get("scope", "")).split()
        if not scopes or not SCOPES.issuperset(scopes):
            return "invalid_scope", "Invalid OAuth scope or ID token audience provided."
        return self._fault_of_times(claims, now_unix_s)

    def _fault_of_times(self, claims: Mapping[str, Any], now_unix_s: float) -> tuple[str, str] | None:
        issued, expires = claims.get("iat"), claims.get("exp")
        for value in (issued, expires):
            if isinstance(value, bool) or not isinstance(value, int | float):
                return "invalid_grant", "Invalid JWT: iat and exp must be numbers"
        assert isinstance(issued, int | float)
        assert isinstance(expires, int | float)
        if expires <= now_unix_s or issued > now_unix_s + SKEW_S_MAX or expires <= issued:
            return (
                "invalid_grant",
                "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. "
                "Check your iat and exp values in the JWT claim.",
            )
        if expires - issued > ASSERTION_S_MAX:
            return "invalid_grant", f"Invalid JWT: exp - iat is {expires - issued:.0f} s, limit {ASSERTION_S_MAX:.0f} s"
        return None


def oauth_error(status: int, error: str, description: str, retry_after_s: int | None = None) -> Answer:
    """An OAuth error body (RFC 6749 section 5.2)."""
    body = msgspec.json.encode({"error": error, "error_description": description})
    extra = () if retry_after_s is None else ((b"retry-after", b"%d" % retry_after_s),)
    return Answer(status, (*JSON_HEADERS, *extra), body, error, description)
