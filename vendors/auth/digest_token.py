"""Tokens bought with a digest over app key, time and secret, good for 24 hours (OPPO: SHA-256, vivo: MD5).

Source: facts/vendors-china.md sections 2.3 and 3.3 (2026-11), made from OPPO's and vivo's pages.

    OPPO   POST /server/v1/auth   form   sha256(app_key + timestamp + master_secret)            -> data.auth_token
    vivo   POST /message/auth     JSON   md5(appId + appKey + timestamp + appSecret), trimmed    -> authToken

timestamp: 13 digits, within ten minutes of theirs. Several tokens may be in force at once. OPPO's is replaced after 20
hours. vivo asks for a cache that is refreshed every one or two hours and allows 10 questions a second per app; the
keeper asks once an hour, and its backoff after a failure stays far below that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from urllib.parse import urlencode

import msgspec

from vendors.auth.access_token import issued_token
from vendors.auth.client_credentials import secret_text
from vendors.auth.credential import Denied, Issued, TokenRequest
from vendors.http_answer import code_of, counted_name, decode_object, retry_after_s

LIFE_S = 86_400
OPPO_REPLACE_S = 20 * 3600.0
VIVO_REPLACE_S = 3600.0
#: Codes that pass by themselves. OPPO: service, flow control, frequency; vivo: too many questions.
_OPPO_PASSING = frozenset({"-1", "-2", "13", "55", "69"})
_VIVO_PASSING = frozenset({"10040", "10093"})


def oppo_sign(app_key: str, timestamp_ms: int, master_secret: str) -> str:
    return hashlib.sha256(f"{app_key}{timestamp_ms}{master_secret}".encode()).hexdigest()


def vivo_sign(app_id: int, app_key: str, timestamp_ms: int, app_secret: str) -> str:
    return hashlib.md5(
        f"{app_id}{app_key}{timestamp_ms}{app_secret}".strip().encode(), usedforsecurity=False
    ).hexdigest()


class OppoToken:
    """Asks for OPPO's auth_token. Raises ValueError for a secret of the wrong form."""

    def __init__(self, secret: bytes, *, app_key: str, url: str) -> None:
        self._secret = secret_text(secret, "a master secret")
        self._app_key = app_key
        self._url = url

    def request(self, now_unix_s: float) -> TokenRequest:
        timestamp_ms = int(now_unix_s * 1000)
        sign = oppo_sign(self._app_key, timestamp_ms, self._secret)
        body = urlencode({"app_key": self._app_key, "sign": sign, "timestamp": timestamp_ms}).encode()
        return TokenRequest(self._url, {"content-type": "application/x-www-form-urlencoded; charset=UTF-8"}, body)

    def parse(self, status: int, headers: Mapping[bytes, bytes], body: bytes, now_unix_s: float) -> Issued | Denied:
        fields = decode_object(body)
        code, data = code_of(fields.get("code")), fields.get("data")
        if status == 200 and code == "0" and isinstance(data, dict):
            return issued_token(data.get("auth_token"), LIFE_S, now_unix_s, scheme="", replace_after_s=OPPO_REPLACE_S)
        return _denied(status, headers, code, code in _OPPO_PASSING)


class VivoToken:
    """Asks for vivo's authToken. Raises ValueError for a secret of the wrong form."""

    def __init__(self, secret: bytes, *, app_id: int, app_key: str, url: str) -> None:
        self._secret = secret_text(secret, "an app secret")
        self._app_id = app_id
        self._app_key = app_key
        self._url = url

    def request(self, now_unix_s: float) -> TokenRequest:
        timestamp_ms = int(now_unix_s * 1000)
        sign = vivo_sign(self._app_id, self._app_key, timestamp_ms, self._secret)
        fields = {"appId": self._app_id, "appKey": self._app_key, "timestamp": timestamp_ms, "sign": sign}
        return TokenRequest(self._url, {"content-type": "application/json; charset=UTF-8"}, msgspec.json.encode(fields))

    def parse(self, status: int, headers: Mapping[bytes, bytes], body: bytes, now_unix_s: float) -> Issued | Denied:
        fields = decode_object(body)
        code = code_of(fields.get("result"))
        if status == 200 and code == "0":
            return issued_token(fields.get("authToken"), LIFE_S, now_unix_s, scheme="", replace_after_s=VIVO_REPLACE_S)
        return _denied(status, headers, code, code in _VIVO_PASSING)


def _denied(status: int, headers: Mapping[bytes, bytes], code: str, is_passing: bool) -> Denied:
    """Without a code it is no word of the vendor's, so it may pass."""
    is_passing = is_passing or not code or status >= 500 or status in (408, 429)
    return Denied(counted_name(f"code_{code}" if code else "", status), not is_passing, retry_after_s(headers))
