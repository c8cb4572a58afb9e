"""Service accounts: the assertion Google asks for, and what its token endpoint answers."""

from __future__ import annotations

import json
from urllib.parse import parse_qs

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from vendors.auth.credential import Denied, Issued
from vendors.auth.service_account import GRANT_TYPE, SCOPE, ServiceAccountGrant

KEY = rsa.generate_private_key(65537, 2048)
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
FILE = {
    "type": "service_account",
    "project_id": "my-proj",
    "private_key_id": "kid1",
    "private_key": PEM,
    "client_email": "push@my-proj.iam.example.com",
    "client_id": "1",
    "token_uri": "https://oauth2.googleapis.com/token",
}
NOW = 1763700000.75


def grant(**changes: str) -> ServiceAccountGrant:
    return ServiceAccountGrant(json.dumps({**FILE, **changes}).encode())


def parse(status: int, body: object, headers: dict[bytes, bytes] | None = None) -> Issued | Denied:
    return grant_once.parse(status, headers or {}, json.dumps(body).encode(), NOW)


grant_once = grant()


def test_the_assertion_has_the_documented_header_and_claims_and_verifies() -> None:
    text = grant_once.assertion(NOW)
    assert jwt.get_unverified_header(text) == {"alg": "RS256", "typ": "JWT", "kid": "kid1"}
    decoded = jwt.decode(
        text,
        KEY.public_key(),
        ["RS256"],
        audience=FILE["token_uri"],
        options={"verify_exp": False, "verify_iat": False},
    )
    assert decoded == {
        "iss": FILE["client_email"],
        "scope": SCOPE,
        "aud": FILE["token_uri"],
        "iat": 1763700000,
        "exp": 1763703600,
    }
    assert grant_once.assertion(NOW) == text


def test_the_request_is_a_form_with_grant_type_and_assertion() -> None:
    question = grant_once.request(NOW)
    assert question.url == FILE["token_uri"]
    assert question.headers == {"content-type": "application/x-www-form-urlencoded"}
    form = parse_qs(question.body.decode())
    assert form == {"grant_type": [GRANT_TYPE], "assertion": [grant_once.assertion(NOW)]}


def test_another_token_uri_is_audience_and_address() -> None:
    other = ServiceAccountGrant(json.dumps(FILE).encode(), token_uri="https://127.0.0.1:1/token")
    assert other.request(NOW).url == "https://127.0.0.1:1/token"
    decoded = jwt.decode(other.assertion(NOW), options={"verify_signature": False})
    assert decoded["aud"] == "https://127.0.0.1:1/token"


def test_a_grant_is_a_bearer_that_is_replaced_ahead_of_its_end() -> None:
    issued = parse(200, {"access_token": "ya29.c.fake", "expires_in": 3599, "token_type": "Bearer"})
    assert issued == Issued(b"Bearer ya29.c.fake", NOW + 3589 - 300, NOW + 3589)


def test_a_short_lived_grant_is_replaced_at_half_its_life() -> None:
    issued = parse(200, {"access_token": "x", "expires_in": 110})
    assert issued == Issued(b"Bearer x", NOW + 50, NOW + 100)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({}, "no_access_token"),
        ([], "no_access_token"),
        ({"access_token": 1}, "no_access_token"),
        ({"access_token": "a\r\nx: y"}, "no_access_token"),
        ({"access_token": "x", "expires_in": "3600"}, "bad_expires_in"),
        ({"access_token": "x", "expires_in": True}, "bad_expires_in"),
        ({"access_token": "x", "expires_in": 0}, "bad_expires_in"),
    ],
)
def test_a_grant_that_cannot_be_used_is_a_denial_worth_another_try(body: object, name: str) -> None:
    assert parse(200, body) == Denied(name, is_final=False)


@pytest.mark.parametrize(
    ("status", "error", "is_final"),
    [
        (400, "invalid_grant", True),
        (401, "invalid_client", True),
        (400, "internal_failure", False),
        (400, "server_error", False),
        (429, "rate_limit", False),
        (500, "whatever", False),
        (503, "", False),
    ],
)
def test_denials_say_whether_asking_again_can_help(status: int, error: str, is_final: bool) -> None:
    assert parse(status, {"error": error}) == Denied(error or f"http_{status}", is_final)


def test_a_denial_keeps_retry_after() -> None:
    assert parse(503, {}, {b"retry-after": b"9"}) == Denied("http_503", False, 9.0)


@given(st.integers(0, 999), st.binary(max_size=80))
def test_parse_is_total(status: int, body: bytes) -> None:
    outcome = grant_once.parse(status, {}, body, NOW)
    assert isinstance(outcome, Issued | Denied)


@pytest.mark.parametrize(
    ("secret", "text"),
    [
        (b"", "not a service account key"),
        (b"{}", "not a service account key"),
        (json.dumps({**FILE, "private_key": "secret words"}).encode(), "private_key is not an RSA key"),
        (json.dumps({**FILE, "token_uri": "http://x/"}).encode(), "token_uri is not an https URL"),
    ],
)
def test_a_wrong_key_file_is_refused_without_being_quoted(secret: bytes, text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        ServiceAccountGrant(secret)
    assert "secret words" not in str(caught.value)
    assert "BEGIN" not in str(caught.value)


def test_the_key_does_not_show_itself() -> None:
    assert "BEGIN" not in repr(vars(grant_once)["_key"])
