"""Provider tokens: the same bytes everywhere, and never outside Apple's 20 to 60 minutes."""

from __future__ import annotations

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from vendors.auth.es256 import EXPIRES_S, GAP_S, LIFE_S_MAX, LIFE_S_MIN, SKEW_S, ProviderTokenSigner

#: The P-256 key of RFC 6979 appendix A.2.5, so that the signatures can be checked by anybody.
KEY = ec.derive_private_key(0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721, ec.SECP256R1())
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
PUBLIC = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def signer(life_s: int = 3000) -> ProviderTokenSigner:
    return ProviderTokenSigner(PEM, key_id="ABC123DEFG", team_id="DEF123GHIJ", life_s=life_s)


def claims(authorization: bytes) -> dict[str, object]:
    assert authorization.startswith(b"bearer ")
    decoded: dict[str, object] = jwt.decode(authorization[7:], PUBLIC, ["ES256"], options={"verify_iat": False})
    return decoded


def test_a_token_is_what_apple_asks_for_and_verifies() -> None:
    token = signer().token(1763700000)
    assert jwt.get_unverified_header(token) == {"alg": "ES256", "kid": "ABC123DEFG"}
    assert claims(b"bearer " + token) == {"iss": "DEF123GHIJ", "iat": 1763700000}
    assert token.count(b".") == 2
    assert b"=" not in token


def test_the_signature_is_the_deterministic_one_of_rfc_6979() -> None:
    # r and s of the message "sample" with SHA-256, RFC 6979 appendix A.2.5, by the same primitive.
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    r, s = decode_dss_signature(KEY.sign(b"sample", ec.ECDSA(hashes.SHA256(), deterministic_signing=True)))
    assert r == 0xEFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716
    assert s == 0xF7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8
    assert signer().token(1763700000) == signer().token(1763700000)
    assert signer().token(1763700000).rpartition(b".")[2] == VECTOR


#: Signature of {"alg":"ES256","kid":"ABC123DEFG"} . {"iss":"DEF123GHIJ","iat":1763700000} under that key.
VECTOR = b"8ZqT_AmDLecOLdI9nE6OKVeXIUSCsAB5Wtm_xuZh77ZdVlFgxvsb59QsaBWmTDhnU9NLgfcfGlIDD_LatoscmQ"


@given(st.integers(1_600_000_000, 2_000_000_000), st.integers(LIFE_S_MIN, LIFE_S_MAX), st.floats(0, 1))
def test_all_workers_show_the_same_token_whenever_they_were_started(now: int, life_s: int, later: float) -> None:
    """Each worker has a signer of its own, and asks when it likes until the token is to be replaced."""
    issued = signer(life_s).issue(now)
    other = signer(life_s).issue(now + later * (issued.replace_at_unix_s - now - 1e-3))
    assert other == issued
    assert signer(life_s).issue(issued.replace_at_unix_s) != issued


@given(
    st.integers(1_600_000_000, 2_000_000_000), st.integers(LIFE_S_MIN, LIFE_S_MAX), st.lists(st.booleans(), max_size=6)
)
def test_tokens_change_between_20_and_60_minutes_whatever_forces_them(
    now: int, life_s: int, forced: list[bool]
) -> None:
    at = float(now)
    issued = signer(life_s).issue(at)
    for fresh in forced:
        iat = int(str(claims(issued.authorization)["iat"]))
        assert iat <= at - SKEW_S
        assert issued.expires_unix_s == iat + EXPIRES_S
        # in force for at least the gap (but for the first, which may be one that others had before), and gone before
        # Apple thinks it old
        assert at == now or issued.replace_at_unix_s - at >= GAP_S
        assert issued.replace_at_unix_s - iat <= LIFE_S_MAX + SKEW_S < EXPIRES_S
        at = at + GAP_S if fresh else issued.replace_at_unix_s
        following = signer(life_s).issue(at, fresh=fresh)
        assert following.authorization != issued.authorization
        issued = following


@pytest.mark.parametrize(
    "secret",
    [
        b"",
        b"not a key",
        PEM[:60],
        ec.generate_private_key(ec.SECP384R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    ],
)
def test_a_secret_that_is_no_p256_key_is_refused(secret: bytes) -> None:
    with pytest.raises(ValueError, match="not a"):
        ProviderTokenSigner(secret, key_id="K", team_id="T")
