"""Identity of devices without a database: the password follows from the app's secret and the device id.

    password = base64url(HMAC-SHA256(app secret, "mqtt1:" + device id as 32 lower-case hex digits))

43 ASCII characters, without padding (RFC 4648 section 5; a client that sends the one "=" of padding is accepted).
An app has one secret, or several while a rotation runs: a password made from any of them is good.
Source: DESIGN.md section 6; RFC 2104.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterable

#: Keeps a password of the long link from being any other MAC made with the same secret; the digit is its version.
_CONTEXT = b"mqtt1:"


def device_password(secret: bytes, device_id_hex: str) -> str:
    """The password of a device. device_id_hex: 32 lower-case hex digits, as in its client identifier."""
    mac = hmac.digest(secret, _CONTEXT + device_id_hex.encode("ascii"), "sha256")
    return base64.urlsafe_b64encode(mac).decode("ascii").rstrip("=")


def find_device_secret(secrets: Iterable[bytes], device_id_hex: str, password: bytes) -> int:
    """The position of the secret that made the password, or -1. Takes the same time for each wrong password.

    Every secret is tried even after a match, so that the time does not tell which one is in force.
    """
    given = password[:-1] if password.endswith(b"=") else password
    found = -1
    for index, secret in enumerate(secrets):
        if hmac.compare_digest(device_password(secret, device_id_hex).encode("ascii"), given):
            found = index
    return found


def check_device_password(secrets: Iterable[bytes], device_id_hex: str, password: bytes) -> bool:
    """True when the password was made from one of the secrets."""
    return find_device_secret(secrets, device_id_hex, password) >= 0
