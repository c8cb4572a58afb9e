"""Client certificates (APNs, the older way): the TLS handshake says who we are, no header does.

Source: facts/vendors-international.md section 1.2 (2026-11). The keeper sees a credential like any other: its value is
empty, and it ends with the certificate. It cannot be made anew; a human has to put a new file in place.
"""

from __future__ import annotations

import math

from cryptography import x509

from vendors.auth.credential import Issued


class ClientCertificate:
    """Of one certificate in PEM form. Raises ValueError for anything else."""

    def __init__(self, pem: bytes) -> None:
        try:
            certificate = x509.load_pem_x509_certificate(pem)
        except ValueError as error:
            raise ValueError("not a certificate in PEM form") from error
        self._ends_unix_s = certificate.not_valid_after_utc.timestamp()

    @property
    def gap_s(self) -> float:
        return 0.0

    def issue(self, now_unix_s: float, *, fresh: bool = False) -> Issued:
        """The same at every moment. fresh: there is no other."""
        return Issued(b"", math.inf, self._ends_unix_s)
