"""A client certificate as a credential: nothing to show, and an end that no one can put off."""

from __future__ import annotations

import datetime
import math

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from vendors.auth.client_certificate import ClientCertificate
from vendors.auth.credential import Issued, SelfSigned

ENDS = datetime.datetime(2027, 1, 2, tzinfo=datetime.UTC)


def pem(*, key_first: bool = False) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Apple Push Services: com.example.app")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1)
    builder = builder.not_valid_before(ENDS - datetime.timedelta(365)).not_valid_after(ENDS)
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private + certificate if key_first else certificate


@pytest.mark.parametrize("key_first", [False, True])
def test_its_value_is_empty_and_it_ends_with_the_certificate(key_first: bool) -> None:
    credential = ClientCertificate(pem(key_first=key_first))
    assert isinstance(credential, SelfSigned)
    assert credential.issue(1.0) == credential.issue(2.0, fresh=True) == Issued(b"", math.inf, ENDS.timestamp())


@pytest.mark.parametrize("secret", [b"", b"hunter2", pem()[:200]])
def test_what_is_no_certificate_is_refused_without_being_quoted(secret: bytes) -> None:
    with pytest.raises(ValueError, match="not a certificate in PEM form") as caught:
        ClientCertificate(secret)
    assert "hunter2" not in str(caught.value)
