"""Service accounts (FCM): an RS256 assertion is exchanged for an access token at Google's token endpoint.

Source: facts/vendors-international.md section 2.2 (2026-11), google-auth-library-python `oauth2/service_account.py`
and `oauth2/_client.py`; RFC 7523 section 2.1. RSA PKCS #1 v1.5 is deterministic, so the assertion is a pure function
of key and time. The scope's name is from memory of Google's pages; the discovery document lists the wider
cloud-platform.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode, urlsplit

import jwt
import msgspec

from vendors.auth.access_token import issued_token
from vendors.auth.credential import Denied, Issued, TokenRequest
from vendors.http_answer import counted_name, decode_object, retry_after_s, text_of

SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
GRANT_TYPE = "urn:ietf:params:oauth:grant-type:jwt-bearer"
#: The longest life Google takes for an assertion.
ASSERTION_LIFE_S = 3600
#: OAuth errors that pass by themselves (google-auth retries these); all others need a human.
_PASSING = frozenset({"internal_failure", "server_error", "temporarily_unavailable"})


class ServiceAccountKey(msgspec.Struct, frozen=True):
    """The JSON key file as Google gives it; fields not needed here are left out."""

    client_email: str
    private_key: str
    private_key_id: str = ""
    token_uri: str = "https://oauth2.googleapis.com/token"
    project_id: str = ""

    def __repr__(self) -> str:
        return f"<ServiceAccountKey of {self.client_email}>"


class ServiceAccountGrant:
    """Asks for access tokens of one service account.

    Raises ValueError when the secret is not the JSON of a service account with an RSA key.
    """

    def __init__(self, key_json: bytes, *, token_uri: str = "") -> None:
        try:
            key = msgspec.json.decode(key_json, type=ServiceAccountKey)
        except msgspec.DecodeError as error:
            raise ValueError(f"not a service account key: {error}") from error
        self._key = key
        self._token_uri = token_uri or key.token_uri
        parts = urlsplit(self._token_uri)
        if parts.scheme != "https" or not parts.hostname:
            raise ValueError("token_uri is not an https URL")
        try:
            self._signing_key = jwt.get_algorithm_by_name("RS256").prepare_key(key.private_key)
        except (ValueError, TypeError, jwt.PyJWTError) as error:
            raise ValueError("private_key is not an RSA key in PEM form") from error

    @property
    def project_id(self) -> str:
        return self._key.project_id

    def assertion(self, now_unix_s: float) -> str:
        """The signed claim of who we are; the same text for the same second."""
        iat = int(now_unix_s)
        claims = {
            "iss": self._key.client_email,
            "scope": SCOPE,
            "aud": self._token_uri,
            "iat": iat,
            "exp": iat + ASSERTION_LIFE_S,
        }
        headers = {"kid": self._key.private_key_id} if self._key.private_key_id else None
        return jwt.encode(claims, self._signing_key, algorithm="RS256", headers=headers)

    def request(self, now_unix_s: float) -> TokenRequest:
        body = urlencode({"grant_type": GRANT_TYPE, "assertion": self.assertion(now_unix_s)}).encode()
        return TokenRequest(self._token_uri, {"content-type": "application/x-www-form-urlencoded"}, body)

    def parse(self, status: int, headers: Mapping[bytes, bytes], body: bytes, now_unix_s: float) -> Issued | Denied:
        fields = decode_object(body)
        if status == 200:
            return issued_token(fields.get("access_token"), fields.get("expires_in"), now_unix_s)
        name = text_of(fields.get("error"))
        is_passing = status >= 500 or status in (408, 429) or name in _PASSING
        return Denied(counted_name(name, status), not is_passing, retry_after_s(headers))
