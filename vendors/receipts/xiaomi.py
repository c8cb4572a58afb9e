"""Receipts of Xiaomi: a form whose field `data` is a JSON object keyed by message id.

Source: facts/vendors-china.md section 1.14 (2026-11), made from public MiPush callback services.

Nothing is signed: the callback parameter alone proves a receipt. `barStatus: Disable` says beside any event that the
user has switched notifications off; of a report with several targets nobody can say whose it is. Of type 16 only
errorCode 1 (or none) speaks of the registration id; 2 and 3 are aliases and accounts, which we do not use.
`replaceTarget` (old id -> new id) is an event of its own before the report's: what that says of the old id does not
hold for the new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.receipts import Callback, Event, NotTaken, VendorReceipt
from vendors.auth.credential import SecretPlace
from vendors.http_answer import code_of, decode_object, text_of
from vendors.receipts.parts import ENTRIES_MAX, PLAIN_REPLIES, event_of, form_of, token_list, unix_ms

REPLIES = PLAIN_REPLIES
#: Type -> event: every bit of the sheet's list.
EVENTS: dict[str, Event] = {
    "1": Event.DELIVERED,
    "2": Event.CLICKED,
    "16": Event.TOKEN_DEAD,
    "32": Event.NOTIFICATIONS_CLOSED,
    "64": Event.UNDELIVERED,  # filtered out
    "128": Event.QUOTA,  # daily total or cap of the device
    "1024": Event.UNDELIVERED,  # TTL is over
}


def secret_place(settings: Any) -> SecretPlace | None:
    """Xiaomi signs nothing."""
    return None


class Reader:
    """See gateway/receipts.py."""

    replies = REPLIES

    def __init__(self, settings: Any, secret: bytes) -> None:
        pass

    def read(self, callback: Callback, now_unix_s: float) -> list[VendorReceipt] | NotTaken:
        data = form_of(callback.body).get("data")
        if data is None:
            return NotTaken.UNREADABLE
        reports = list(decode_object(data.encode("utf-8", "replace")).values())[:ENTRIES_MAX]
        if not reports:
            return NotTaken.UNREADABLE
        return [receipt for report in reports if isinstance(report, dict) for receipt in _receipts(report)]


def _receipts(report: Mapping[str, Any]) -> list[VendorReceipt]:
    event, name = event_of(EVENTS, report.get("type"))
    if event is Event.TOKEN_DEAD and code_of(report.get("errorCode")) not in ("", "1"):
        event = Event.UNDELIVERED
    address, tokens = text_of(report.get("param")), token_list(report.get("targets"))
    at_unix_ms = unix_ms(report.get("timestamp"))
    receipts = [
        VendorReceipt(Event.TOKEN_REPLACED, address, [old], at_unix_ms, new_token=new)
        for old, new in _replaced(report.get("replaceTarget"))
    ]
    receipts.append(VendorReceipt(event, address, tokens, at_unix_ms, name))
    if report.get("barStatus") == "Disable" and len(tokens) == 1 and event is not Event.NOTIFICATIONS_CLOSED:
        receipts.append(VendorReceipt(Event.NOTIFICATIONS_CLOSED, address, tokens, at_unix_ms))
    return receipts


def _replaced(told: object) -> list[tuple[str, str]]:
    pairs = told.items() if isinstance(told, dict) else ()
    return [(old, new) for old, new in pairs if isinstance(new, str) and old and new and old != new][:ENTRIES_MAX]
