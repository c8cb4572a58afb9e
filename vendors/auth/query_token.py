"""Access tokens that stand in a query (WeChat, WeCom, DingTalk): id and secret are exchanged for one, with errors in a
200 by `errcode`.

Source: facts/vendors-china.md section 6.3 (2026-11; developers.weixin.qq.com stable_token) for WeChat;
developer.work.weixin.qq.com gettoken and open.dingtalk.com gettoken, both from memory. All three give the same token
again until shortly before its end, so that several workers do not disturb each other; the older call of WeChat, which
ends the token before, is not used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from vendors.auth.access_token import issued_token
from vendors.auth.client_credentials import secret_text
from vendors.auth.credential import Denied, Issued, TokenRequest
from vendors.http_answer import code_of, counted_name, decode_object, retry_after_s

#: errcode of system busy and of too many calls, alike at all three; all others need a human.
_PASSING = frozenset({"-1", "45009", "45011", "90018"})


class QueryToken:
    """Asks for access tokens. request: what is asked. Raises nothing: the secret was looked at where it was made."""

    def __init__(self, request: TokenRequest) -> None:
        self._request = request

    def request(self, now_unix_s: float) -> TokenRequest:
        return self._request

    def parse(self, status: int, headers: Mapping[bytes, bytes], body: bytes, now_unix_s: float) -> Issued | Denied:
        fields = decode_object(body)
        code = code_of(fields.get("errcode", 0))
        token = fields.get("access_token")
        if status == 200 and code == "0" and isinstance(token, str):
            # It stands in a path from now on.
            return issued_token(quote(token, safe=""), fields.get("expires_in"), now_unix_s, scheme="")
        is_passing = code in _PASSING or code in ("", "0") or status >= 500 or status in (408, 429)
        name = counted_name(f"code_{code}" if code not in ("", "0") else "", status)
        return Denied(name, not is_passing, retry_after_s(headers))


def token_url(settings: Any, path: str) -> str:
    """Where a token is asked for: as the settings say, else at their host."""
    place = settings.host if settings.port == 443 else f"{settings.host}:{settings.port}"
    return settings.token_uri or f"https://{place}{path}"


def wechat_token(secret: bytes, *, appid: str, url: str) -> QueryToken:
    """WeChat's stable token. Raises ValueError for a secret of the wrong form."""
    fields = {
        "grant_type": "client_credential",
        "appid": appid,
        "secret": secret_text(secret, "an app secret"),
        "force_refresh": False,
    }
    return QueryToken(TokenRequest(url, {"content-type": "application/json"}, msgspec.json.encode(fields)))


def query_token(secret: bytes, *, url: str, id_name: str, id_value: str, secret_name: str) -> QueryToken:
    """A token that is asked for by GET (WeCom, DingTalk). Raises ValueError for a secret of the wrong form."""
    query = urlencode({id_name: id_value, secret_name: secret_text(secret, f"a {secret_name}")})
    return QueryToken(TokenRequest(f"{url}?{query}", {}, b"", "GET"))
