"""Receipts of the webhook: signed with the secret of the messages, young, and of known events."""

from __future__ import annotations

import hashlib
import hmac
import json

import pytest

from gateway.receipts import Callback, Event, NotTaken, VendorReceipt
from vendors.receipts import READERS
from vendors.receipts.webhook import EVENTS, Reader
from vendors.webhook import Settings

NOW_UNIX_S = 1_763_700_001.5
SECRET = b"s3cret"
SETTINGS = Settings(host="hook.example.com", secret_file="secrets/webhook")
ID = "01a20257-d856-8001-8000-0000000be0be"
BODY = json.dumps(
    {
        "receipts": [
            {"message_id": ID, "target": "user-1", "event": event, "unix_ms": 1_763_700_000_123} for event in EVENTS
        ]
    }
).encode()


def signed(body: bytes, stamp: str = "1763700000", secret: bytes = SECRET) -> Callback:
    value = hmac.new(secret, stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return Callback({b"x-signature": f"t={stamp},v1={value}".encode()}, "", body)


@pytest.mark.parametrize("name", ["webhook", "ups"])
def test_every_event_of_the_contract_is_read(name: str) -> None:
    reader = READERS[name].reader(SETTINGS, SECRET)
    assert reader.read(signed(BODY), NOW_UNIX_S) == [
        VendorReceipt(event, ID, ("user-1",), 1_763_700_000_123) for event in EVENTS.values()
    ]
    assert READERS[name].secret_place(SETTINGS) == ("secrets/webhook", "")


def test_an_unknown_event_is_counted_by_name() -> None:
    body = json.dumps({"receipts": [{"message_id": ID, "target": "u", "event": "eaten"}]}).encode()
    (receipt,) = Reader(SETTINGS, SECRET).read(signed(body), NOW_UNIX_S)  # type: ignore[misc]
    assert (receipt.event, receipt.name) == (Event.UNKNOWN, "code_eaten")


@pytest.mark.parametrize(
    "callback",
    [
        Callback({}, "", BODY),
        Callback(signed(BODY).headers, "", BODY + b" "),
        signed(BODY, secret=b"another"),
        signed(BODY, "1763699400"),
        signed(BODY, "1763700602"),
        Callback({b"x-signature": b"t=1,v1=\xff"}, "", BODY),
    ],
)
def test_what_is_not_signed_or_not_young_proves_nothing(callback: Callback) -> None:
    assert Reader(SETTINGS, SECRET).read(callback, NOW_UNIX_S) is NotTaken.UNPROVEN


def test_without_a_secret_nothing_is_proven() -> None:
    assert Reader(SETTINGS, b"").read(signed(BODY, secret=b""), NOW_UNIX_S) is NotTaken.UNPROVEN
