"""Receipts of Meizu: a form with `cb`, a JSON object keyed by message id and type, and the console's `access_token`.

Source: facts/vendors-china.md section 4.14 (2026-11), made from Meizu's server SDK documents.

Whether Meizu means `access_token` as the proof is an assumption of the sheet: it is checked where `callback_token` is
configured, and each receipt by its callback parameter all the same. There are no receipts of invalid or disabled
targets.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any

from gateway.receipts import Callback, Event, NotTaken, VendorReceipt
from vendors.auth.credential import SecretPlace
from vendors.http_answer import decode_object, text_of
from vendors.receipts.parts import ENTRIES_MAX, PLAIN_REPLIES, event_of, form_of, token_list

REPLIES = PLAIN_REPLIES
#: type -> event.
EVENTS: dict[str, Event] = {"1": Event.DELIVERED, "2": Event.CLICKED}


def secret_place(settings: Any) -> SecretPlace | None:
    """Where the console's token for callbacks is; None where it is not checked."""
    file, env = settings.callback_token_file, settings.callback_token_env
    return SecretPlace(file, env) if file or env else None


class Reader:
    """See gateway/receipts.py."""

    replies = REPLIES

    def __init__(self, settings: Any, secret: bytes) -> None:
        self._token = secret

    def read(self, callback: Callback, now_unix_s: float) -> list[VendorReceipt] | NotTaken:
        form = form_of(callback.body)
        given = form.get("access_token", "").encode("utf-8", "replace")
        if self._token and not hmac.compare_digest(given, self._token):
            return NotTaken.UNPROVEN
        reports = list(decode_object(form.get("cb", "").encode("utf-8", "replace")).values())[:ENTRIES_MAX]
        if not reports:
            return NotTaken.UNREADABLE
        return [_receipt(report) for report in reports if isinstance(report, dict)]


def _receipt(report: Mapping[str, Any]) -> VendorReceipt:
    event, name = event_of(EVENTS, report.get("type"))
    return VendorReceipt(event, text_of(report.get("param")), token_list(report.get("targets")), name=name)
