"""Receipts of vivo: a JSON object keyed by task id.

Source: facts/vendors-china.md section 3.14 and facts/vendors-addendum.md section 2.2 (2026-11).

Nothing is signed: the callback parameter alone proves a receipt. The older form (`param`, `targets`) tells deliveries
only; the newer adds `ackTime` and `ackType`, of which "0" (arrived) is all that is known. The body of receipts by
`callback.id` beyond that is in no document that was found; other numbers are counted as unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.receipts import Callback, Event, NotTaken, VendorReceipt
from vendors.auth.credential import SecretPlace
from vendors.http_answer import decode_object, text_of
from vendors.receipts.parts import ENTRIES_MAX, PLAIN_REPLIES, event_of, token_list, unix_ms

REPLIES = PLAIN_REPLIES
#: ackType -> event; without one it is the older form.
EVENTS: dict[str, Event] = {"0": Event.DELIVERED}


def secret_place(settings: Any) -> SecretPlace | None:
    """vivo signs nothing."""
    return None


class Reader:
    """See gateway/receipts.py."""

    replies = REPLIES

    def __init__(self, settings: Any, secret: bytes) -> None:
        pass

    def read(self, callback: Callback, now_unix_s: float) -> list[VendorReceipt] | NotTaken:
        reports = list(decode_object(callback.body).values())[:ENTRIES_MAX]
        if not reports:
            return NotTaken.UNREADABLE
        return [_receipt(report) for report in reports if isinstance(report, dict)]


def _receipt(report: Mapping[str, Any]) -> VendorReceipt:
    event, name = event_of(EVENTS, report.get("ackType", "0"))
    address, tokens = text_of(report.get("param")), token_list(report.get("targets"))
    return VendorReceipt(event, address, tokens, unix_ms(report.get("ackTime")), name)
