"""Receipts of HarmonyOS: version 2 of the body, with the outcome in `deliveryStatus` or, of cards, `formStatus`.

Source: facts/vendors-international.md section 4.10 (2026-11), made from developer.huawei.com push-msg-receipt and
push-api-msg-receipt. Header and reply are those of vendors/receipts/huawei.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.receipts import Callback, Event, NotTaken, VendorReceipt
from vendors.http_answer import decode_object, text_of
from vendors.receipts import huawei
from vendors.receipts.parts import entries_of, event_of, unix_ms

REPLIES = huawei.REPLIES
#: Result -> event: every row of the sheet's list.
EVENTS: dict[str, Event] = {
    "0": Event.DELIVERED,
    "2": Event.TOKEN_DEAD,  # uninstalled
    "5": Event.TOKEN_DEAD,  # the token is not this device's
    "6": Event.NOTIFICATIONS_CLOSED,  # or minor mode
    "10": Event.TOKEN_MUTED,  # inactive for 30 days
    "14": Event.UNDELIVERED,  # network
    "15": Event.UNDELIVERED,  # replaced, or more than 120 offline messages
    "22": Event.UNDELIVERED,  # private space
    "27": Event.PENDING,  # kept in the background
    "31": Event.UNDELIVERED,  # the page to open is not there
    "51": Event.PENDING,  # booted, not unlocked
    "102": Event.QUOTA,  # control of the device
    "144": Event.UNDELIVERED,  # profileId
    "151": Event.UNDELIVERED,  # not shown, or the card is not there
    "155": Event.UNDELIVERED,  # live view: update failed
    "156": Event.UNDELIVERED,  # live view: out of order
    "158": Event.UNDELIVERED,  # live view: exists already
    "188": Event.UNDELIVERED,  # launch failed
    "191": Event.UNDELIVERED,  # badge failed
    "256": Event.QUOTA,  # frequency cap
    "259": Event.UNDELIVERED,  # content or URL rejected
    "261": Event.UNDELIVERED,  # no card for 30 days
    "262": Event.QUOTA,  # refreshes of a card in a day
    "264": Event.UNDELIVERED,  # not subscribed
    "265": Event.UNDELIVERED,  # no live view for 24 hours
    "268": Event.UNDELIVERED,  # no status field
    "269": Event.UNDELIVERED,  # live view twice
}

secret_place = huawei.secret_place


class Reader:
    """See gateway/receipts.py."""

    replies = REPLIES

    def __init__(self, settings: Any, secret: bytes) -> None:
        self._signature = huawei.signature_of(settings, secret)

    def read(self, callback: Callback, now_unix_s: float) -> list[VendorReceipt] | NotTaken:
        if self._signature is not None and not self._signature.holds(callback.headers, now_unix_s):
            return NotTaken.UNPROVEN
        entries = entries_of(decode_object(callback.body).get("statuses"))
        return entries if isinstance(entries, NotTaken) else [_receipt(entry) for entry in entries]


def _receipt(entry: Mapping[str, Any]) -> VendorReceipt:
    outcome = entry.get("deliveryStatus", entry.get("formStatus"))
    told = outcome if isinstance(outcome, dict) else {}
    event, name = event_of(EVENTS, told.get("result"))
    token = text_of(entry.get("token"))
    return VendorReceipt(event, text_of(entry.get("biTag")), (token,), unix_ms(told.get("timestamp")), name)
