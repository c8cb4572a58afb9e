"""OPPO's and vivo's tokens: the sheet's vectors, what the endpoints answer."""

from __future__ import annotations

import json
from urllib.parse import parse_qs

import pytest

from vendors.auth.credential import Denied, Issued
from vendors.auth.digest_token import OppoToken, VivoToken, oppo_sign, vivo_sign

NOW = 1_700_000_000.0
OPPO = OppoToken(b"ms_demo\n", app_key="ak_demo", url="https://oppo.example/server/v1/auth")
VIVO = VivoToken(b"as-demo", app_id=10004, app_key="ak-demo", url="https://vivo.example/message/auth")


def test_the_vectors_of_the_sheet() -> None:
    """facts/vendors-china.md section 10."""
    expected = "97d8d09aeb308c5c111462c5d367acd7f5bf77acb96a1d5c2ad1fdc6f168b1fd"
    assert oppo_sign("ak_demo", 1_700_000_000_000, "ms_demo") == expected
    assert vivo_sign(10004, "ak-demo", 1_700_000_000_000, "as-demo") == "74ee3f19b82816de5f3640bc57a7f27e"


def test_oppo_is_asked_with_a_signed_form() -> None:
    question = OPPO.request(NOW)
    assert question.url == "https://oppo.example/server/v1/auth"
    assert parse_qs(question.body.decode(), strict_parsing=True) == {
        "app_key": ["ak_demo"],
        "timestamp": ["1700000000000"],
        "sign": ["97d8d09aeb308c5c111462c5d367acd7f5bf77acb96a1d5c2ad1fdc6f168b1fd"],
    }


def test_vivo_is_asked_with_signed_json() -> None:
    assert json.loads(VIVO.request(NOW).body) == {
        "appId": 10004,
        "appKey": "ak-demo",
        "timestamp": 1_700_000_000_000,
        "sign": "74ee3f19b82816de5f3640bc57a7f27e",
    }


def test_tokens_last_a_day_and_are_replaced_as_the_vendors_ask() -> None:
    body = b'{"code":0,"message":"success","data":{"auth_token":"T","create_time":1700000000000}}'
    assert OPPO.parse(200, {}, body, NOW) == Issued(b"T", NOW + 20 * 3600, NOW + 86_400 - 10)
    body = b'{"result":0,"desc":"ok","authToken":"T"}'
    assert VIVO.parse(200, {}, body, NOW) == Issued(b"T", NOW + 3600, NOW + 86_400 - 10)


@pytest.mark.parametrize(
    ("body", "name", "is_final"),
    [
        (b'{"code":14,"message":"bad app key"}', "code_14", True),
        (b'{"code":13}', "code_13", False),
        (b'{"code":0,"data":{}}', "no_access_token", False),
        (b'{"code":0,"data":[]}', "code_0", True),
        (b"<html>", "http_200", False),
    ],
)
def test_oppo_may_say_no(body: bytes, name: str, is_final: bool) -> None:
    assert OPPO.parse(200, {}, body, NOW) == Denied(name, is_final)


@pytest.mark.parametrize(
    ("body", "name", "is_final"),
    [
        (b'{"result":10206,"desc":"sign"}', "code_10206", True),
        (b'{"result":10093,"desc":"too often"}', "code_10093", False),
        (b'{"result":0}', "no_access_token", False),
        (b"", "http_200", False),
    ],
)
def test_vivo_may_say_no(body: bytes, name: str, is_final: bool) -> None:
    assert VIVO.parse(200, {}, body, NOW) == Denied(name, is_final)
    assert VIVO.parse(503, {b"retry-after": b"9"}, b"", NOW) == Denied("http_503", False, 9.0)


def test_a_secret_of_the_wrong_form_is_refused_and_not_quoted() -> None:
    for secret in (b"", b"hunter2 hunter2", b"hunter2\nhunter3", b"\xff"):
        with pytest.raises(ValueError) as caught:
            OppoToken(secret, app_key="k", url="https://a.b")
        assert "hunter" not in str(caught.value)
