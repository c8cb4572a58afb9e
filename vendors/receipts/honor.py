"""Receipts of Honor: JSON `statuses`, as one public client decodes them.

Source: facts/vendors-addendum.md section 1 "Receipt states" and facts/vendors-international.md section 5.10 (2026-11).

Doubts: no signature is known, so the callback parameter alone proves a receipt; the numbers are inferred from an
aggregator's (1800NN) and one client's (40000002), so only those with the prefix 400000 are believed; what Honor wants
to hear is unknown, it is told what Huawei wants.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.receipts import Event, VendorReceipt
from vendors.auth.credential import SecretPlace
from vendors.http_answer import decode_object, text_of
from vendors.receipts import huawei
from vendors.receipts.parts import ListReader, event_of, unix_ms

REPLIES = huawei.REPLIES
#: Status -> event: every row of the sheet's table.
EVENTS: dict[str, Event] = {
    "40000000": Event.PENDING,  # kept until the app runs
    "40000001": Event.DELIVERED,  # data message
    "40000002": Event.DELIVERED,  # notice
    "40000003": Event.TOKEN_DEAD,  # not installed
    "40000004": Event.TOKEN_DEAD,  # not known on the device
    "40000005": Event.NOTIFICATIONS_CLOSED,
    "40000006": Event.NOTIFICATIONS_CLOSED,  # the app is disabled
    "40000008": Event.UNDELIVERED,  # kind of message not supported
    "40000009": Event.QUOTA,  # duplicate or over quota
    "40000011": Event.UNDELIVERED,  # the page to open failed
    "40000013": Event.PENDING,  # held while the screen is off
    "40000014": Event.TOKEN_MUTED,  # another user of the device
    "40000015": Event.UNDELIVERED,  # showing failed
}


def secret_place(settings: Any) -> SecretPlace | None:
    """Honor signs nothing."""
    return None


class Reader(ListReader):
    """See gateway/receipts.py."""

    replies = REPLIES

    def entries(self, body: bytes) -> object:
        return decode_object(body).get("statuses")

    def receipt(self, entry: Mapping[str, Any]) -> VendorReceipt:
        event, name = event_of(EVENTS, entry.get("status"))
        token = text_of(entry.get("token"))
        return VendorReceipt(event, text_of(entry.get("biTag")), (token,), unix_ms(entry.get("timestamp")), name)
