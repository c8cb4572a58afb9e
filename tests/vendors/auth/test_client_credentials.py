"""Client credentials (Huawei, Honor): the question, the answers, the token read out of its JSON."""

from __future__ import annotations

from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vendors.auth.client_credentials import ClientCredentialsGrant
from vendors.auth.credential import Denied, Issued
from vendors.auth.static_key import StaticKey

NOW = 1_700_000_000.0
URL = "https://oauth-login.cloud.huawei.com/oauth2/v3/token"
GRANT = ClientCredentialsGrant(b"fake+secret\n", client_id="fakeclient", token_uri=URL)


def test_the_question_is_the_form_of_the_sheet() -> None:
    question = GRANT.request(NOW)
    assert question.url == URL
    assert question.headers == {"content-type": "application/x-www-form-urlencoded"}
    assert parse_qs(question.body.decode(), strict_parsing=True) == {
        "grant_type": ["client_credentials"],
        "client_id": ["fakeclient"],
        "client_secret": ["fake+secret"],
    }


def test_a_token_is_what_its_json_says_and_not_its_text() -> None:
    body = rb'{"access_token":"CF3\/fake==","expires_in":3600,"token_type":"Bearer"}'
    assert GRANT.parse(200, {}, body, NOW) == Issued(b"Bearer CF3/fake==", NOW + 3290, NOW + 3590)


@pytest.mark.parametrize(
    ("status", "body", "denied"),
    [
        (400, b'{"error":"invalid_client","error_description":"x"}', Denied("invalid_client", True)),
        (401, b'{"error":"unauthorized_client"}', Denied("unauthorized_client", True)),
        (400, b'{"error":1101,"sub_error":20001}', Denied("error_1101", True)),
        (500, b"", Denied("http_500", False)),
        (429, b"", Denied("http_429", False)),
        (200, b'{"access_token":"a b","expires_in":0}', Denied("bad_expires_in", False)),
        (200, b'{"access_token":"a","expires_in":-1' + b"0" * 400 + b"}", Denied("bad_expires_in", False)),
        (200, b"{}", Denied("http_200", False)),
    ],
)
def test_an_endpoint_may_say_no(status: int, body: bytes, denied: Denied) -> None:
    assert GRANT.parse(status, {}, body, NOW) == denied


def test_a_life_that_no_float_holds_is_cut_like_any_other_that_is_too_long() -> None:
    body = b'{"access_token":"a","expires_in":1' + b"0" * 400 + b"}"
    assert GRANT.parse(200, {}, body, NOW) == Issued(b"Bearer a", NOW + 86_090, NOW + 86_390)


@given(st.integers(0, 999), st.binary(max_size=200))
def test_arbitrary_answers_never_raise(status: int, body: bytes) -> None:
    assert isinstance(GRANT.parse(status, {}, body, NOW), Denied)


@pytest.mark.parametrize("url", ["http://a.b/token", "https:///x", "token"])
def test_a_token_uri_is_an_https_url(url: str) -> None:
    with pytest.raises(ValueError, match="https"):
        ClientCredentialsGrant(b"s", client_id="c", token_uri=url)


def test_a_static_key_stands_behind_its_prefix_and_never_ends() -> None:
    issued = StaticKey(b"DEMOAPPSECRET==\n", what="an app secret", prefix="key=").issue(NOW)
    assert issued.authorization == b"key=DEMOAPPSECRET=="
    assert issued.expires_unix_s == float("inf")
