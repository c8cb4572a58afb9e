"""Access tokens that stand in a query: what is asked, and what the answers mean."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vendors.auth.credential import Denied, Granted, Issued
from vendors.auth.query_token import QueryToken, query_token, wechat_token

NOW = 1_763_700_000.0
WECHAT = wechat_token(b"s3cret\n", appid="wx1", url="https://api.weixin.qq.com/cgi-bin/stable_token")


def answer(status: int = 200, **fields: Any) -> Issued | Denied:
    return WECHAT.parse(status, {}, json.dumps(fields).encode(), NOW)


def test_wechat_is_asked_for_the_stable_token() -> None:
    assert isinstance(WECHAT, Granted)
    asked = WECHAT.request(NOW)
    assert (asked.method, asked.url) == ("POST", "https://api.weixin.qq.com/cgi-bin/stable_token")
    assert json.loads(asked.body) == {
        "grant_type": "client_credential",
        "appid": "wx1",
        "secret": "s3cret",
        "force_refresh": False,
    }


def test_others_are_asked_by_get_with_everything_in_the_query() -> None:
    asked = query_token(
        b"a+b/c", url="https://a.b/gettoken", id_name="corpid", id_value="ww1", secret_name="corpsecret"
    ).request(NOW)
    assert (asked.method, asked.url, asked.body) == (
        "GET",
        "https://a.b/gettoken?corpid=ww1&corpsecret=a%2Bb%2Fc",
        b"",
    )


def test_a_token_is_issued_as_it_stands_in_a_path() -> None:
    issued = answer(access_token="00_a/b c", expires_in=7200)
    assert isinstance(issued, Issued)
    assert issued.authorization == b"00_a%2Fb%20c"
    assert NOW + 6000 < issued.replace_at_unix_s < issued.expires_unix_s <= NOW + 7200
    assert isinstance(answer(errcode=0, errmsg="ok", access_token="x", expires_in=7200), Issued)


@pytest.mark.parametrize(
    ("fields", "name", "is_final"),
    [
        ({"errcode": -1}, "code_-1", False),
        ({"errcode": 45009}, "code_45009", False),
        ({"errcode": 40125}, "code_40125", True),
        ({"errcode": 40164, "access_token": "x", "expires_in": 7200}, "code_40164", True),
        ({}, "http_200", False),
    ],
)
def test_errors_in_a_200_are_told_by_their_code(fields: dict[str, Any], name: str, is_final: bool) -> None:
    denied = answer(**fields)
    assert isinstance(denied, Denied)
    assert (denied.name, denied.is_final) == (name, is_final)


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"1" * 3000, b'{"access_token":7}', b'{"errcode":[]}'])
@pytest.mark.parametrize("status", [200, 404, 503])
def test_garbage_is_denied_and_never_raises(body: bytes, status: int) -> None:
    denied = QueryToken(WECHAT.request(NOW)).parse(status, {}, body, NOW)
    assert isinstance(denied, Denied)


def test_a_secret_of_two_words_is_refused_without_quoting_it() -> None:
    with pytest.raises(ValueError, match="app secret") as caught:
        wechat_token(b"hunter2 hunter2", appid="a", url="https://a.b")
    assert "hunter2" not in str(caught.value)
