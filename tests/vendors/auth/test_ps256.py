"""HarmonyOS's bearer: PyJWT reads it with the public key, and its claims are the sheet's."""

from __future__ import annotations

import json

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from vendors.auth.ps256 import AUDIENCE, AccountTokenSigner

NOW = 1_700_000_000.0
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
FILE = {"project_id": "388", "key_id": "kid1", "private_key": PEM, "sub_account": "100", "auth_uri": "x"}


def signer(**changes: str) -> AccountTokenSigner:
    return AccountTokenSigner(json.dumps({**FILE, **changes}).encode(), project_id="388")


def test_the_token_is_what_the_sheet_asks_for() -> None:
    """Section 4.2: header, claims, PSS with a salt of 32 bytes, an hour."""
    issued = signer().issue(NOW)
    assert issued.authorization.startswith(b"Bearer ")
    token = issued.authorization[7:].decode()
    assert jwt.get_unverified_header(token) == {"kid": "kid1", "typ": "JWT", "alg": "PS256"}
    claims = jwt.decode(
        token,
        KEY.public_key(),
        algorithms=["PS256"],
        audience=AUDIENCE,
        options={"verify_exp": False, "verify_iat": False},
    )
    assert claims == {"iss": "100", "aud": AUDIENCE, "iat": 1_699_999_970, "exp": 1_700_003_570}
    assert AUDIENCE == "https://oauth-login.cloud.huawei.com/oauth2/v3/token"
    assert (issued.replace_at_unix_s, issued.expires_unix_s) == (1_700_003_270.0, 1_700_003_570.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"project_id": "389"}, "project 389"), ({"private_key": "hunter2"}, "RSA key")],
)
def test_a_key_of_another_project_or_kind_is_refused(changes: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        signer(**changes)
    assert "hunter2" not in str(caught.value)


def test_what_is_no_key_file_is_refused() -> None:
    for secret in (b"", b"[]", b'{"project_id":"388"}'):
        with pytest.raises(ValueError, match="not an account key"):
            AccountTokenSigner(secret, project_id="388")
