"""Receipts of the webhook and of UPS phones: this project's own contract, signed as the messages are.

Source: docs/vendors/webhook.md (2026-11), RFC 2104 (HMAC).

    x-signature: t=<Unix seconds>,v1=<hex of HMAC-SHA256(secret, t + "." + body)>
    {"receipts": [{"message_id", "target", "event", "unix_ms"}]}

What is not signed, or too old, proves nothing; a receipt that comes again changes nothing.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from typing import Any

from gateway.receipts import Callback, Event, NotTaken, Replies, Reply, VendorReceipt
from vendors.auth.credential import SecretPlace
from vendors.auth.request_hmac import webhook_signature
from vendors.http_answer import decode_object, text_of
from vendors.receipts.parts import entries_of, event_of, unix_ms

#: As far as the far end believes our clock, we believe its.
CLOCK_SKEW_S = 300.0
REPLIES = Replies(
    taken=Reply(200, b'{"ok":true}'),
    unreadable=Reply(400, b'{"error":"bad_body","detail":"not a receipt"}'),
    unproven=Reply(401, b'{"error":"bad_signature","detail":"not signed with the secret, or too old"}'),
    busy=Reply(503, b'{"error":"unavailable","detail":"again later"}'),
)
EVENTS: dict[str, Event] = {
    "delivered": Event.DELIVERED,
    "displayed": Event.DISPLAYED,
    "clicked": Event.CLICKED,
    "closed": Event.NOTIFICATIONS_CLOSED,
    "target_dead": Event.TOKEN_DEAD,
}
_SIGNATURE = re.compile(rb"t=([0-9]{10}),v1=([0-9a-f]{64})")


def secret_place(settings: Any) -> SecretPlace | None:
    """Where the secret is: the one that signs messages."""
    file, env = settings.secret_file, settings.secret_env
    return SecretPlace(file, env) if file or env else None


class Reader:
    """See gateway/receipts.py. Without a secret nothing is ever proven."""

    replies = REPLIES

    def __init__(self, settings: Any, secret: bytes) -> None:
        self._secret = secret.strip()

    def read(self, callback: Callback, now_unix_s: float) -> list[VendorReceipt] | NotTaken:
        entries = entries_of(decode_object(callback.body).get("receipts"))
        if isinstance(entries, NotTaken):
            return entries
        if not self._is_signed(callback, now_unix_s):
            return NotTaken.UNPROVEN
        return [_receipt(entry) for entry in entries]

    def _is_signed(self, callback: Callback, now_unix_s: float) -> bool:
        found = _SIGNATURE.fullmatch(callback.headers.get(b"x-signature", b""))
        if found is None or not self._secret or abs(int(found[1]) - now_unix_s) > CLOCK_SKEW_S:
            return False
        return hmac.compare_digest(webhook_signature(self._secret, found[1], callback.body), found[2])


def _receipt(entry: Mapping[str, Any]) -> VendorReceipt:
    event, name = event_of(EVENTS, entry.get("event"))
    tokens = (text_of(entry.get("target")),)
    return VendorReceipt(event, text_of(entry.get("message_id")), tokens, unix_ms(entry.get("unix_ms")), name)
