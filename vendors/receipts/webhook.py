"""Receipts of the generic webhook: JSON `receipts`, signed as the messages are.

Source: docs/vendors/webhook.md, the contract of this gateway (2026-11). `x-signature: t=<Unix s>,v1=<hex>` is
HMAC-SHA256 over the seconds, a dot and the body, under the secret that both ends know; it proves every receipt of the
request, and each names its message and target beside.
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Mapping
from typing import Any

from gateway.receipts import Callback, Event, NotTaken, Replies, Reply, VendorReceipt
from vendors.auth.credential import SecretPlace
from vendors.auth.request_hmac import webhook_signature
from vendors.http_answer import decode_object, text_of
from vendors.receipts.parts import entries_of, event_of, unix_ms

#: How far the sender's clock may be from ours.
CLOCK_SKEW_S = 600.0
REPLIES = Replies(
    taken=Reply(200, b'{"ok":true}'),
    unreadable=Reply(400, b'{"error":"bad_body"}'),
    unproven=Reply(401, b'{"error":"bad_signature"}'),
    busy=Reply(503, b'{"error":"unavailable"}'),
)
#: event -> event: every word of the contract.
EVENTS: dict[str, Event] = {
    "delivered": Event.DELIVERED,
    "displayed": Event.DISPLAYED,
    "clicked": Event.CLICKED,
    "closed": Event.NOTIFICATIONS_CLOSED,
    "target_dead": Event.TOKEN_DEAD,
}


def secret_place(settings: Any) -> SecretPlace | None:
    """The secret that signs messages signs receipts, too."""
    file, env = getattr(settings, "secret_file", ""), getattr(settings, "secret_env", "")
    return SecretPlace(file, env) if file or env else None


class Reader:
    """See gateway/receipts.py. Without a secret no receipt is believed."""

    replies = REPLIES

    def __init__(self, settings: Any, secret: bytes) -> None:
        self._secret = secret

    def read(self, callback: Callback, now_unix_s: float) -> list[VendorReceipt] | NotTaken:
        if not self._holds(callback, now_unix_s):
            return NotTaken.UNPROVEN
        entries = entries_of(decode_object(callback.body).get("receipts"))
        return entries if isinstance(entries, NotTaken) else [_receipt(entry) for entry in entries]

    def _holds(self, callback: Callback, now_unix_s: float) -> bool:
        given = callback.headers.get(b"x-signature", b"").decode("latin-1")
        parts = dict(part.strip().partition("=")[::2] for part in given.split(","))
        stamp = parts.get("t", "")
        sent = int(stamp) if stamp.isascii() and stamp.isdigit() and len(stamp) <= 12 else math.inf
        if not self._secret or abs(now_unix_s - sent) > CLOCK_SKEW_S:
            return False
        signed = webhook_signature(self._secret, stamp.encode(), callback.body)
        return hmac.compare_digest(signed, parts.get("v1", "").encode("latin-1", "replace"))


def _receipt(entry: Mapping[str, Any]) -> VendorReceipt:
    event, name = event_of(EVENTS, entry.get("event"))
    target = text_of(entry.get("target"))
    return VendorReceipt(event, text_of(entry.get("message_id")), (target,), unix_ms(entry.get("unix_ms")), name)
