"""Receipts of Tencent Cloud SMS: a JSON array of statuses, each with the `sid` that the answer called SerialNo.

Source: facts/vendors-china.md section 7B.14 (2026-11, from memory there).

Nothing is signed, and nothing of ours comes back: the address has a secret at its end (`callback_secret`), and a status
counts only for a `sid` that an answer has told and the number it was told for. Doubts: the words of failures are
operators' and many, so every FAIL is undelivered and makes no number dead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.receipts import TIME_UNKNOWN, Event, Replies, Reply, VendorReceipt
from vendors.auth.credential import SecretPlace
from vendors.http_answer import code_of, text_of
from vendors.neutral import OWN_ID_CHARACTERS_MAX
from vendors.receipts.parts import ListReader, event_of

REPLIES = Replies(
    taken=Reply(200, b'{"result":0,"errmsg":"OK"}'),
    unreadable=Reply(400, b'{"result":1,"errmsg":"not a status"}'),
    unproven=Reply(401, b'{"result":2,"errmsg":"not proven"}'),
    busy=Reply(503, b'{"result":3,"errmsg":"again later"}'),
)
#: report_status -> event.
EVENTS: dict[str, Event] = {"SUCCESS": Event.DELIVERED, "FAIL": Event.UNDELIVERED}


def secret_place(settings: Any) -> SecretPlace | None:
    """Where the secret of the path is; None: no statuses are taken."""
    file, env = settings.callback_secret_file, settings.callback_secret_env
    return SecretPlace(file, env) if file or env else None


class Reader(ListReader):
    """See gateway/receipts.py."""

    replies = REPLIES

    def receipt(self, entry: Mapping[str, Any]) -> VendorReceipt:
        event, name = event_of(EVENTS, entry.get("report_status"))
        number = f"+{code_of(entry.get('nationcode'))}{text_of(entry.get('mobile'))}"
        sid = text_of(entry.get("sid"))[:OWN_ID_CHARACTERS_MAX]
        # user_receive_time bears no zone.
        return VendorReceipt(event, "", (number,), TIME_UNKNOWN, name, own_id=sid)
