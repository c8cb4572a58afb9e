"""OAuth 2.0 client credentials (Huawei, Honor): id and secret of the app are exchanged for an access token.

Source: facts/vendors-international.md sections 3.2 and 5.2 (2026-11), HMS-Core/hms-push-serverdemo-python, Honor's own
posts; RFC 6749 section 4.4. The answer is read as JSON: Huawei writes `/` as `\\/`, and the raw text is no token.

Doubts: whether an old token dies when a new one is issued (taken: it does not); Honor's lifetime (the answer says).
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode, urlsplit

from vendors.auth.access_token import issued_token
from vendors.auth.credential import Denied, Issued, TokenRequest
from vendors.http_answer import counted_name, decode_object, retry_after_s, text_of

#: OAuth errors that pass by themselves; all others need a human.
_PASSING = frozenset({"server_error", "temporarily_unavailable"})


def secret_text(secret: bytes, what: str) -> str:
    """A secret that is one line of printable ASCII. Raises ValueError, which does not quote it."""
    try:
        text = secret.decode("ascii").strip()
    except UnicodeDecodeError:
        text = ""
    if not text or not text.isprintable() or " " in text:
        raise ValueError(f"not {what}: one line of printable ASCII without blanks is expected")
    return text


class ClientCredentialsGrant:
    """Asks for access tokens of one app. Raises ValueError for a secret or a URL of the wrong form."""

    def __init__(self, secret: bytes, *, client_id: str, token_uri: str) -> None:
        self._secret = secret_text(secret, "a client secret")
        self._client_id = client_id
        self._token_uri = token_uri
        parts = urlsplit(token_uri)
        if parts.scheme != "https" or not parts.hostname:
            raise ValueError("token_uri is not an https URL")

    def request(self, now_unix_s: float) -> TokenRequest:
        fields = {"grant_type": "client_credentials", "client_id": self._client_id, "client_secret": self._secret}
        headers = {"content-type": "application/x-www-form-urlencoded"}
        return TokenRequest(self._token_uri, headers, urlencode(fields).encode())

    def parse(self, status: int, headers: Mapping[bytes, bytes], body: bytes, now_unix_s: float) -> Issued | Denied:
        fields = decode_object(body)
        if status == 200 and "access_token" in fields:
            return issued_token(fields.get("access_token"), fields.get("expires_in"), now_unix_s)
        error = fields.get("error")
        name = f"error_{error}" if isinstance(error, int) else text_of(error)
        is_passing = status == 200 or status >= 500 or status in (408, 429) or name in _PASSING
        return Denied(counted_name(name, status), not is_passing, retry_after_s(headers))
