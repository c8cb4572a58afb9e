"""What the readers of receipts share: JSON and forms of strangers, replies, tables of events.

Source: facts/vendors-china.md and facts/vendors-international.md (2026-11), the sections on receipts of each vendor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import parse_qsl

import msgspec

from gateway.receipts import TIME_UNKNOWN, Callback, Event, NotTaken, Replies, Reply, VendorReceipt
from vendors.http_answer import code_of, counted_name, text_of

#: Entries of one request; the largest maximum that a vendor names is a thousand, and bodies are bounded beside.
ENTRIES_MAX = 10_000
#: Vendors that want nothing but a 2xx.
PLAIN_REPLIES = Replies(
    taken=Reply(200, b"ok", "text/plain"),
    unreadable=Reply(400, b"not a receipt", "text/plain"),
    unproven=Reply(401, b"not proven", "text/plain"),
    busy=Reply(503, b"again later", "text/plain"),
)
_UNIX_MS_MAX = 1 << 48


def json_of(text: bytes | str) -> Any:
    """The value, or NotTaken.UNREADABLE."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return NotTaken.UNREADABLE


def form_of(body: bytes) -> dict[str, str]:
    """The fields of a form; of one that comes twice the last. Empty for anything that is no form."""
    try:
        pairs = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=100)
    except ValueError:
        return {}
    return dict(pairs)


def entries_of(value: object) -> list[dict[str, Any]] | NotTaken:
    """A list of objects; whatever else stands among them is passed over."""
    if not isinstance(value, list):
        return NotTaken.UNREADABLE
    return [entry for entry in value[:ENTRIES_MAX] if isinstance(entry, dict)]


class ListReader(ABC):
    """Of a vendor that signs nothing and sends a list: each entry is a receipt. See gateway/receipts.py."""

    replies: ClassVar[Replies]

    def __init__(self, settings: Any, secret: bytes) -> None:
        del settings, secret

    def entries(self, body: bytes) -> object:
        """Where the list stands."""
        return json_of(body)

    @abstractmethod
    def receipt(self, entry: Mapping[str, Any]) -> VendorReceipt: ...

    def read(self, callback: Callback, now_unix_s: float) -> list[VendorReceipt] | NotTaken:
        entries = entries_of(self.entries(callback.body))
        return entries if isinstance(entries, NotTaken) else [self.receipt(entry) for entry in entries]


def token_list(value: object) -> list[str]:
    """Tokens with commas between them, or as an array."""
    listed = value if isinstance(value, list) else text_of(value).split(",")
    return [token.strip() for token in listed if isinstance(token, str) and token.strip()]


def unix_ms(value: object) -> int:
    """A time in Unix ms, as a number or as text; TIME_UNKNOWN for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 15:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _UNIX_MS_MAX:
        return value
    return TIME_UNKNOWN


def event_of(events: Mapping[str, Event], found: object) -> tuple[Event, str]:
    """The event of a code, and the name that one in no table is counted under."""
    code = code_of(found) or text_of(found)
    event = events.get(code)
    return (Event.UNKNOWN, counted_name(f"code_{code}", 200)) if event is None else (event, "")
