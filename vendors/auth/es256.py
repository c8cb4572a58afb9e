"""ES256 provider tokens (APNs): a JWT that we sign ourselves and that tells nothing but who and since when.

Source: developer.apple.com/documentation/usernotifications/establishing-a-token-based-connection-to-apns
(facts/vendors-international.md section 1.2, 2026-11); RFC 7515, 7518 section 3.4 (signature = r || s, 64 bytes).

Apple wants a token between 20 and 60 minutes old at its replacement, and the same one from all processes. So two
things are fixed: `iat` falls on a grid of `life_s`, and the signature is the deterministic ECDSA of RFC 6979. A token
on the grid is then a pure function of key and time, the same in every worker and after every restart, without anybody
having to hand it round. (PyJWT signs ES256 with a random nonce: each worker would show another token. It is the
referee in the tests instead.)

                 |<------ life_s ------>|<------ life_s ------>|
    grid         g                      g'                     g''
    iat = g      |.......in force.......|
                                        iat = g'
A connection that begins shortly before g' sees one change, which Apple allows: what it counts is a second new token
within 20 minutes on one connection. A forced token (the vendor refused the one in force) is issued off the grid and
lasts to the first grid line at least GAP_S away; from there on all workers show the same one again. Only the worker
that owns the credential forces one (today there is one worker), so the others are told and do not sign their own.
"""

from __future__ import annotations

import base64

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from vendors.auth.credential import Issued

#: Apple: no newer token within 20 minutes on one connection, none older than 60.
GAP_S = 1200
EXPIRES_S = 3600
#: 50 minutes, what pushy and apns2 use: 10 minutes of slack for clocks that differ.
LIFE_S_DEFAULT = 3000
#: Between twice nothing and the hour: below 25 minutes the gap rule leaves no room, above 55 the slack is gone.
LIFE_S_MIN = 1500
LIFE_S_MAX = 3300
#: All times are taken this much earlier, so that a clock ahead of Apple's does not issue from the future.
SKEW_S = 60


class ProviderTokenSigner:
    """Issues the tokens of one signing key. Raises ValueError for a secret that is no P-256 private key in PEM."""

    def __init__(self, key_pem: bytes, *, key_id: str, team_id: str, life_s: int = LIFE_S_DEFAULT) -> None:
        try:
            key = load_pem_private_key(key_pem, None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ValueError("not a private key in PEM form without a password") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ValueError("not a P-256 private key")
        self._key = key
        self._header = _base64url(msgspec.json.encode({"alg": "ES256", "kid": key_id}))
        self._team_id = team_id
        self._life_s = life_s

    @property
    def gap_s(self) -> float:
        return GAP_S

    def token(self, iat: int) -> bytes:
        """The JWT with this time of issue; the same bytes for the same arguments, always."""
        signed = self._header + b"." + _base64url(msgspec.json.encode({"iss": self._team_id, "iat": iat}))
        der = self._key.sign(signed, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
        r, s = decode_dss_signature(der)
        return signed + b"." + _base64url(r.to_bytes(32, "big") + s.to_bytes(32, "big"))

    def issue(self, now_unix_s: float, *, fresh: bool = False) -> Issued:
        """The token for this moment (see the module's docstring). fresh: off the grid, issued now."""
        now = int(now_unix_s) - SKEW_S
        iat = now if fresh else now - now % self._life_s
        replace_at = self._replace_at(now) if fresh else iat + self._life_s
        return Issued(b"bearer " + self.token(iat), float(replace_at + SKEW_S), float(iat + EXPIRES_S))

    def _replace_at(self, now: int) -> int:
        """For a token issued now: the first grid line at least GAP_S away, or GAP_S before it when it is too far.

        Both steps, from now and from there to the grid line, are at least GAP_S and at most life_s long.
        """
        line = now + GAP_S
        line += -line % self._life_s
        return line if line - now <= LIFE_S_MAX else line - GAP_S


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
