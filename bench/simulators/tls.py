"""TLS material made on the spot: a self-signed CA, a client's certificate, three server certificates (good, expired,
wrong host).

TLS 1.2 and 1.3, ALPN as given, session tickets on, so that resumption can be seen. Times are the machine's; the
injected clock never touches TLS.
"""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID_DAYS = 365
RENEW_DAYS = 30  # material with less life left is made anew at start


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files. All but the CA's hold key and certificate."""

    ca: Path
    good: Path
    expired: Path
    wrong_host: Path
    client: Path


def make_tls_files(directory: Path, client_topic: str = "com.example.app") -> TlsFiles:
    """The five PEM files exist in `directory` and are valid; files of an earlier start are kept while they last.

    Raises:
        OSError: the directory cannot be made or written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    files = TlsFiles(
        directory / "ca.pem",
        directory / "server.pem",
        directory / "server_expired.pem",
        directory / "server_wrong_host.pem",
        directory / "client.pem",
    )
    if _are_fresh(files):
        return files
    now = datetime.datetime.now(datetime.UTC)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = _certificate("Simulator test CA", None, ca_key, ca_key, None, now, now + datetime.timedelta(days=VALID_DAYS))
    files.ca.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    day = datetime.timedelta(days=1)
    here = ["localhost", "127.0.0.1", "::1"]
    for path, names, begins, ends in (
        (files.good, here, now, now + VALID_DAYS * day),
        (files.expired, here, now - 30 * day, now - day),
        (files.wrong_host, ["wrong.host.invalid"], now, now + VALID_DAYS * day),
    ):
        key = ec.generate_private_key(ec.SECP256R1())
        _write(path, key, _certificate(names[0], ca.subject, key, ca_key, names, begins, ends))
    key = ec.generate_private_key(ec.SECP256R1())
    _write(files.client, key, _client_certificate(client_topic, ca.subject, key, ca_key, now))
    return files


def topics_of(certificate: Mapping[str, Any] | None) -> frozenset[str]:
    """The bundle id in the subject (UID) of a client's certificate, as `getpeercert` gives it; empty without one."""
    if not certificate:
        return frozenset()
    return frozenset(value for part in certificate["subject"] for name, value in part if name == "userId")


def _write(path: Path, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )


def server_context(
    files: TlsFiles,
    alpn: list[str],
    wanted: Callable[[], str],
    clients: str = "no",
) -> ssl.SSLContext:
    """A context that asks `wanted()` at each ClientHello for "good", "expired" or "wrong_host".

    clients: whether they are asked for a certificate of our CA: "no", "optional", "required".
    The callback runs before the certificate is chosen, also for clients that send no server name (an IP address).
    """
    contexts = {
        form: _context(path, alpn, files.ca, clients)
        for form, path in (("good", files.good), ("expired", files.expired), ("wrong_host", files.wrong_host))
    }

    def on_client_hello(sock: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        form = wanted()
        if form != "good":
            sock.context = contexts[form]

    contexts["good"].sni_callback = on_client_hello
    return contexts["good"]


def _context(path: Path, alpn: list[str], ca: Path, clients: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(path)
    context.set_alpn_protocols(alpn)
    if clients != "no":
        context.load_verify_locations(ca)
        context.verify_mode = ssl.CERT_REQUIRED if clients == "required" else ssl.CERT_OPTIONAL
    return context


def _are_fresh(files: TlsFiles) -> bool:
    paths = (files.ca, files.good, files.expired, files.wrong_host, files.client)
    if not all(path.is_file() for path in paths):
        return False
    limit = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=RENEW_DAYS)
    try:
        return all(
            x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc > limit
            for path in (files.ca, files.good, files.wrong_host, files.client)
        )
    except ValueError:
        return False  # cut by a crash while it was written


def _certificate(
    common_name: str,
    issuer: x509.Name | None,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    names: list[str] | None,
    begins: datetime.datetime,
    ends: datetime.datetime,
) -> x509.Certificate:
    """A certificate signed by `signer`; with `names` a server's (the SAN), without a CA's."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins - datetime.timedelta(minutes=5))
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=names is None, path_length=0 if names is None else None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
            critical=False,
        )
        .add_extension(_key_usage(is_ca=names is None), critical=True)
    )
    if names is not None:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False
        ).add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return builder.sign(signer, hashes.SHA256())


def _client_certificate(
    topic: str,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    now: datetime.datetime,
) -> x509.Certificate:
    """What Apple gives the owner of a bundle id: the subject's UID is the topic."""
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.USER_ID, topic),
            x509.NameAttribute(NameOID.COMMON_NAME, f"Apple Push Services: {topic}"),
        ]
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
            critical=False,
        )
        .add_extension(_key_usage(is_ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(signer, hashes.SHA256())
    )


def _key_usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
