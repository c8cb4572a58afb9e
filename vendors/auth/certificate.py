"""Authentication by a TLS client certificate: the handshake has said who we are, so requests carry no credential.

Source: developer.apple.com/documentation/usernotifications/establishing-a-certificate-based-connection-to-apns
(facts/vendors-international.md section 1.2, 2026-11). The credential keeper is given an empty value that ends with the
certificate, so that its end shows in metrics before it comes; a new certificate needs a new start.
"""

from __future__ import annotations

import math

from vendors.auth.credential import Issued


class ClientCertificate:
    """Raises ValueError for a secret that holds no certificate in PEM form."""

    gap_s = 0.0

    def __init__(self, pem: bytes) -> None:
        # Few have one, and the library takes a twentieth of the time in which a worker starts.
        from cryptography.x509 import load_pem_x509_certificates

        begin = pem.find(b"-----BEGIN CERTIFICATE-----")
        try:
            # The first is ours; the rest is its chain. A key before it is not for us to read.
            own = load_pem_x509_certificates(pem[max(begin, 0) :])[0]
        except (ValueError, IndexError) as error:
            raise ValueError("not a certificate in PEM form") from error
        self._expires_unix_s = own.not_valid_after_utc.timestamp()

    def issue(self, now_unix_s: float, *, fresh: bool = False) -> Issued:
        """Always the same: there is nothing to renew."""
        return Issued(b"", math.inf, self._expires_unix_s)
