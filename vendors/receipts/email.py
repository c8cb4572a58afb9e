"""Bounces of e-mail: the message that a mail server sends back, piped to the listener as it came (message/rfc822).

Source: RFC 3464 (delivery status notifications), RFC 3462 (multipart/report), RFC 6533 (the same in UTF-8), RFC 3463
and 5248 (codes); Exim's X-Failed-Recipients where its report is plain text.

Nothing of it is signed, so the address has a secret at its end (`callback_secret`); who has it is our own mail server.
A bounce is about a message by its return path, `bounce+<message id>@...` (`bounce_address`), or by the Message-ID of
what it returns; both bear the keyed check of a message id. It counts when its recipient is that message's: our own To
where the message comes back, else what the report calls original, failed or final recipient.

A hard bounce is Action failed with a code that names the address (the table of vendors/email.py): the address is dead,
under the guard. Any other failure is undelivered, a delay says nothing. Answers of people and machines that are no
report (out of office) are taken and say nothing.
"""

from __future__ import annotations

import email
import re
from collections.abc import Iterator
from email.message import Message
from email.parser import HeaderParser
from email.utils import parseaddr, parsedate_to_datetime
from typing import Any

from gateway.receipts import TIME_UNKNOWN, Callback, Event, NotTaken, Replies, VendorReceipt
from vendors.auth.credential import SecretPlace
from vendors.receipts.parts import PLAIN_REPLIES

REPLIES: Replies = PLAIN_REPLIES
#: Action -> event, where the code below says nothing else.
EVENTS: dict[str, Event] = {
    "failed": Event.UNDELIVERED,
    "delayed": Event.PENDING,
    "delivered": Event.DELIVERED,
    "relayed": Event.PENDING,
    "expanded": Event.PENDING,
}
#: Enhanced status code of a failure -> event: those that name the address.
CODES: dict[str, Event] = {
    **dict.fromkeys(["5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10"], Event.TOKEN_DEAD),
    "5.2.1": Event.TOKEN_MUTED,
}
_REPORTS = ("message/delivery-status", "message/global-delivery-status")
_RETURNED = ("message/rfc822", "message/global", "text/rfc822-headers", "message/global-headers")
#: Headers that name the return path of the bounce, and those of what it is about.
_RECEIVERS = ("to", "delivered-to", "x-original-to", "envelope-to", "x-envelope-to")
_ABOUT = ("message-id", "in-reply-to", "references", "x-ms-exchange-organization-original-message-id")
_ID = re.compile(r"(?<![0-9A-Fa-f-])([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})@")
_CODE = re.compile(r"(?<![0-9.])([245]\.[0-9]{1,3}\.[0-9]{1,3})(?![0-9.])")
#: Parts of one message that are looked at; a report has three.
_PARTS_MAX = 50
#: Where a plain text report tells its code.
_TEXT_CHARACTERS_MAX = 16_384
#: What the library's parser of strangers' mail may raise.
_LIBRARY_ERRORS = (ValueError, LookupError, AttributeError, TypeError, UnicodeError, OverflowError, RecursionError)


def secret_place(settings: Any) -> SecretPlace | None:
    """Where the secret of the path is; None: no bounces are taken."""
    file, env = settings.callback_secret_file, settings.callback_secret_env
    return SecretPlace(file, env) if file or env else None


class Reader:
    """See gateway/receipts.py."""

    replies = REPLIES

    def __init__(self, settings: Any, secret: bytes) -> None:
        pass

    def read(self, callback: Callback, now_unix_s: float) -> list[VendorReceipt] | NotTaken:
        try:
            message = email.message_from_bytes(callback.body)
            return NotTaken.UNREADABLE if len(message) == 0 else _receipts(message)
        except _LIBRARY_ERRORS:
            return NotTaken.UNREADABLE


def _receipts(message: Message) -> list[VendorReceipt]:
    parts = [part for part, _ in zip(message.walk(), range(_PARTS_MAX), strict=False)]
    returned = next((found for part in parts if (found := _returned(part)) is not None), None)
    blocks = [block for part in parts for block in _blocks(part)]
    told = next((block for block in blocks if _action(block) == "failed"), next(iter(blocks), None))
    if told is None and not message["x-failed-recipients"]:
        return []
    event = _event_of_text(parts) if told is None else _event(told)
    # In the order in which they are what we wrote to: a forwarder has a final recipient of its own.
    recipients = (
        "" if returned is None else parseaddr(str(returned["to"] or ""))[1],
        "" if told is None else _recipient(told, "original-recipient"),
        parseaddr(str(message["x-failed-recipients"] or ""))[1],
        "" if told is None else _recipient(told, "final-recipient"),
    )
    token = next((one for one in recipients if one), "")
    return [VendorReceipt(event, _address(message, returned), (token,), _unix_ms(message))]


def _address(message: Message, returned: Message | None) -> str:
    """The message id in the return path, else in what came back; "" where there is none."""
    sources = [(message, _RECEIVERS), *([] if returned is None else [(returned, _ABOUT)]), (message, _ABOUT[1:])]
    for source, names in sources:
        for name in names:
            for value in source.get_all(name, []):
                found = _ID.search(str(value))
                if found:
                    return found[1]
    return ""


def _blocks(part: Message) -> Iterator[Message]:
    """The fields of each recipient in a report."""
    if part.get_content_type() not in _REPORTS:
        return
    payload = part.get_payload()
    if part.get_content_type() != _REPORTS[0] or not isinstance(payload, list):
        # The library knows the older name alone, and takes the first fields for the head of a message.
        inner = payload[0] if isinstance(payload, list) and payload else None
        text = (inner.as_string() if isinstance(inner, Message) else _text_of(part)).replace("\r\n", "\n")
        payload = [HeaderParser().parsestr(block) for block in text.split("\n\n") if block.strip()]
    for block in payload[:_PARTS_MAX]:
        if isinstance(block, Message) and block["action"]:
            yield block


def _returned(part: Message) -> Message | None:
    """The headers of the message that a bounce brings back."""
    if part.get_content_type() not in _RETURNED:
        return None
    payload = part.get_payload()
    if isinstance(payload, list):
        inner = payload[0] if payload else None
        return inner if isinstance(inner, Message) else None
    return HeaderParser().parsestr(_text_of(part))


def _text_of(part: Message) -> str:
    data = part.get_payload(decode=True)
    return data.decode("utf-8", "replace") if isinstance(data, bytes) else ""


def _action(block: Message) -> str:
    return str(block["action"]).partition(" ")[0].strip().lower()


def _recipient(block: Message, name: str) -> str:
    """`rfc822; user@example.com` -> the address."""
    return parseaddr(str(block[name] or "").partition(";")[2].strip())[1]


def _event(block: Message) -> Event:
    action = _action(block)
    if action != "failed":
        return EVENTS.get(action, Event.UNKNOWN)
    status = _CODE.search(str(block["status"] or ""))
    code = status[1] if status else ""
    if not code or code.endswith(".0.0"):
        # "5.0.0": the server that refused may have said more.
        said = _CODE.search(str(block["diagnostic-code"] or ""))
        code = said[1] if said else code
    return CODES.get(code, Event.UNDELIVERED)


def _event_of_text(parts: list[Message]) -> Event:
    """Of a report that is plain text: a code in it, else a failure of no known reason."""
    for part in parts:
        if part.get_content_type() == "text/plain":
            found = _CODE.search(_text_of(part)[:_TEXT_CHARACTERS_MAX])
            return CODES.get(found[1], Event.UNDELIVERED) if found else Event.UNDELIVERED
    return Event.UNDELIVERED


def _unix_ms(message: Message) -> int:
    try:
        return int(parsedate_to_datetime(str(message["date"])).timestamp() * 1000)
    except (ValueError, TypeError, OverflowError, IndexError):
        return TIME_UNKNOWN
