"""A client certificate as a credential: nothing to send, and an end that is known."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from vendors.auth.certificate import ClientCertificate
from vendors.auth.credential import SelfSigned

ENDS = datetime.datetime(2031, 5, 6, 7, 8, 9, tzinfo=datetime.UTC)


def pem(*, has_key: bool) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Apple Push Services: com.example.app")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(ENDS - datetime.timedelta(days=365))
        .not_valid_after(ENDS)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return (private if has_key else b"") + certificate.public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize("has_key", [True, False])
def test_certificate_sends_nothing_and_ends_when_it_says(has_key: bool) -> None:
    credential = ClientCertificate(pem(has_key=has_key))
    assert isinstance(credential, SelfSigned)
    issued = credential.issue(1.0)
    assert issued.authorization == b""
    assert issued.expires_unix_s == ENDS.timestamp()
    assert issued == credential.issue(ENDS.timestamp() + 1, fresh=True)


@pytest.mark.parametrize("secret", [b"", b"hunter2", pem(has_key=True)[:200]])
def test_what_is_no_certificate_is_refused_without_being_quoted(secret: bytes) -> None:
    with pytest.raises(ValueError) as caught:
        ClientCertificate(secret)
    assert "hunter2" not in str(caught.value)
