"""Receipts of Huawei HMS: version 1 of the body, JSON `statuses`.

Source: facts/vendors-international.md section 3.10 (2026-11), made from developer.huawei.com msg-receipt-guide and
https-send-receipt-api.

`X-HUAWEI-CALLBACK-ID: timestamp=<ms>; nonce=<uuid>; value=<sig>` comes where the console has a user name and a secret:
`value` is Base64 of HMAC-SHA256 over timestamp, nonce and user name, which says who speaks and not what. So it is
checked where it is configured, and each receipt by its callback parameter all the same. Nonces are not remembered: a
receipt that comes again changes nothing. Newer secrets are Base64 of the key, older ones the key: both are tried.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import math
from collections.abc import Mapping
from typing import Any

from gateway.receipts import Callback, Event, NotTaken, Replies, Reply, VendorReceipt
from vendors.auth.credential import SecretPlace
from vendors.http_answer import decode_object, text_of
from vendors.receipts.parts import entries_of, event_of, unix_ms

#: How far the sender's clock may be from ours.
CLOCK_SKEW_S = 600.0
REPLIES = Replies(
    taken=Reply(200, b'{"code":"0","message":"success"}'),
    unreadable=Reply(400, b'{"code":"80100001","message":"not a receipt"}'),
    unproven=Reply(401, b'{"code":"80200001","message":"signature"}'),
    busy=Reply(503, b'{"code":"81000001","message":"again later"}'),
)
#: Status -> event: every row of the sheet's table.
EVENTS: dict[str, Event] = {
    "0": Event.DELIVERED,
    "2": Event.TOKEN_DEAD,  # uninstalled
    "5": Event.TOKEN_DEAD,  # the token is not this device's
    "6": Event.NOTIFICATIONS_CLOSED,
    "10": Event.TOKEN_MUTED,  # inactive for 30 days
    "14": Event.UNDELIVERED,  # network
    "15": Event.UNDELIVERED,  # replaced by its collapse key, or more than 120 offline messages
    "22": Event.UNDELIVERED,  # another user of the device
    "27": Event.PENDING,  # pass-through, kept until the app runs
    "31": Event.UNDELIVERED,  # the page to open is not there
    "51": Event.PENDING,  # booted, not unlocked
    # named for HarmonyOS, and for both in the comparison of section 0
    "102": Event.QUOTA,
    "256": Event.QUOTA,
}


class CallbackSignature:
    """The header of Huawei and HarmonyOS. keys: those that the secret may mean."""

    def __init__(self, user: str, secret: bytes) -> None:
        self._user = user
        self._keys = [secret]
        with contextlib.suppress(binascii.Error, ValueError):
            self._keys.append(base64.b64decode(secret, validate=True))

    def holds(self, headers: Mapping[bytes, bytes], now_unix_s: float) -> bool:
        """Whether the request is from who knows the secret, and young."""
        given = headers.get(b"x-huawei-callback-id", b"").decode("latin-1")
        parts = dict(part.strip().partition("=")[::2] for part in given.split(";"))
        stamp, nonce, value = parts.get("timestamp", ""), parts.get("nonce", ""), parts.get("value", "")
        age_s = now_unix_s - unix_ms(stamp) / 1000 if stamp else math.inf
        if abs(age_s) > CLOCK_SKEW_S:
            return False
        signed = f"{stamp}{nonce}{self._user}".encode()
        told = value.encode("latin-1", "replace")
        return any(
            hmac.compare_digest(base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()), told)
            for key in self._keys
        )


def signature_of(settings: Any, secret: bytes) -> CallbackSignature | None:
    return CallbackSignature(settings.callback_user, secret) if settings.callback_user else None


def secret_place(settings: Any) -> SecretPlace | None:
    """Where the callback secret is; None where the console has none."""
    if not settings.callback_user:
        return None
    return SecretPlace(settings.callback_secret_file, settings.callback_secret_env)


class Reader:
    """See gateway/receipts.py."""

    replies = REPLIES

    def __init__(self, settings: Any, secret: bytes) -> None:
        self._signature = signature_of(settings, secret)

    def read(self, callback: Callback, now_unix_s: float) -> list[VendorReceipt] | NotTaken:
        if self._signature is not None and not self._signature.holds(callback.headers, now_unix_s):
            return NotTaken.UNPROVEN
        entries = entries_of(decode_object(callback.body).get("statuses"))
        return entries if isinstance(entries, NotTaken) else [_receipt(entry) for entry in entries]


def _receipt(entry: Mapping[str, Any]) -> VendorReceipt:
    event, name = event_of(EVENTS, entry.get("status"))
    token = text_of(entry.get("token"))
    return VendorReceipt(event, text_of(entry.get("biTag")), (token,), unix_ms(entry.get("timestamp")), name)
