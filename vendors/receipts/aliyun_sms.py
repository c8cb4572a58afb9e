"""Receipts of Alibaba Cloud SMS: SmsReport, a JSON array pushed to the console's URL; `out_id` is what we sent along.

Source: facts/vendors-china.md section 7A.14 (2026-11, from memory there).

Nothing is signed: `out_id` alone proves a receipt. Doubts: the codes of failures are operators' and many, so every
`success: false` is undelivered, and none makes a number dead; the number must come back as it was sent (with or without
+86), else it is nobody's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.receipts import Event, Replies, Reply, VendorReceipt
from vendors.auth.credential import SecretPlace
from vendors.http_answer import text_of
from vendors.receipts.parts import ListReader

REPLIES = Replies(
    taken=Reply(200, '{"code":0,"msg":"成功"}'.encode()),
    unreadable=Reply(400, b'{"code":1,"msg":"not a report"}'),
    unproven=Reply(401, b'{"code":2,"msg":"not proven"}'),
    busy=Reply(503, b'{"code":3,"msg":"again later"}'),
)
#: success -> event.
EVENTS: dict[str, Event] = {"true": Event.DELIVERED, "false": Event.UNDELIVERED}


def secret_place(settings: Any) -> SecretPlace | None:
    """Alibaba Cloud signs nothing here."""
    return None


class Reader(ListReader):
    """See gateway/receipts.py."""

    replies = REPLIES

    def receipt(self, entry: Mapping[str, Any]) -> VendorReceipt:
        success = entry.get("success")
        event = EVENTS["true" if success else "false"] if isinstance(success, bool) else Event.UNKNOWN
        name = "" if isinstance(success, bool) else "no_success"
        return VendorReceipt(event, text_of(entry.get("out_id")), (text_of(entry.get("phone_number")),), name=name)
