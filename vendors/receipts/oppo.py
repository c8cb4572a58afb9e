"""Receipts of OPPO: a JSON array, one entry for many registration ids of one message and event.

Source: facts/vendors-china.md section 2.14 (2026-11), made from stored copies of OPPO's receipt page.

Nothing is signed: the callback parameter alone proves a receipt. An aggregator knows two more events (a daily cap of
the app, restricted hours) whose names are not known; they are counted as unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.receipts import Event, VendorReceipt
from vendors.auth.credential import SecretPlace
from vendors.http_answer import text_of
from vendors.receipts.parts import PLAIN_REPLIES, ListReader, event_of, token_list, unix_ms

REPLIES = PLAIN_REPLIES
#: eventType -> event: every name of the sheet.
EVENTS: dict[str, Event] = {
    "push_arrive": Event.DELIVERED,  # reached the client, not necessarily shown
    "regid_invalid": Event.TOKEN_DEAD,  # uninstalled, unregistered, offline for more than 30 days
    "user_daily_limit": Event.QUOTA,
}


def secret_place(settings: Any) -> SecretPlace | None:
    """OPPO signs nothing."""
    return None


class Reader(ListReader):
    """See gateway/receipts.py."""

    replies = REPLIES

    def receipt(self, entry: Mapping[str, Any]) -> VendorReceipt:
        event, name = event_of(EVENTS, entry.get("eventType"))
        tokens = token_list(entry.get("registrationIds"))
        return VendorReceipt(event, text_of(entry.get("param")), tokens, unix_ms(entry.get("eventTime")), name)
