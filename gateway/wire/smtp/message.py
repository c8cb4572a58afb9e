"""An e-mail from the fields that a template filled: the JSON of one row -> addresses and the bytes of the message.

RFC 5322 (form), RFC 2047 and 2045 (headers and bodies that are not ASCII), RFC 3834 section 5 (Auto-Submitted); all
but Subject by the standard library's `email`. A vendor file gives JSON, because that is what templates are made of, and
because `pushgw preview` then shows it as people read it. Text leaves as base64, so that no server needs 8BITMIME.

Sans-IO: time is one of the fields. Raises ValueError for whatever cannot become a message, and nothing else.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from email.errors import MessageError
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, parseaddr
from typing import NamedTuple

import msgspec


class Fields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message. sender: `Name <address>`. message_id: with its domain, without brackets. unix_s: for Date.

    headers: others that the caller wants (Reply-To, List-Unsubscribe).
    """

    sender: str
    to: str
    message_id: str
    unix_s: int
    subject: str
    text: str
    html: str = ""
    headers: dict[str, str] = {}


class Mail(NamedTuple):
    """What goes over the wire: envelope and message, lines ended by CR LF, dots not yet doubled."""

    sender: str
    recipient: str
    message: bytes


#: What the library's parser of headers raises is whatever its parts raise.
_LIBRARY_ERRORS = (ValueError, UnicodeError, IndexError, AttributeError, TypeError, OSError, OverflowError)
_POLICY = SMTP.clone(cte_type="7bit", raise_on_defect=False)
#: Bytes of one encoded word: base64 makes 60 characters of them, with its frame 72 of the 75 allowed (RFC 2047).
_WORD_BYTES_MAX = 45
_PLAIN_CHARACTERS_MAX = 60
_decode = msgspec.json.Decoder(Fields).decode


def _encoded(subject: str) -> bytes:
    """A subject as it stands in its header: plain where nothing could change it, else encoded words.

    Not by the library: where it folds, blanks between encoded and plain words come out doubled (Python 3.11).
    Raises ValueError for control characters, which would end the header.
    """
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in subject):
        raise ValueError("a subject with control characters")
    if (
        subject.isascii()
        and "=?" not in subject
        and subject == subject.strip()
        and 0 < len(subject) <= _PLAIN_CHARACTERS_MAX
    ):
        return subject.encode()
    words, word = [], b""
    for character in subject:
        encoded = character.encode()
        if len(word) + len(encoded) > _WORD_BYTES_MAX:
            words.append(word)
            word = b""
        word += encoded
    return b"\r\n ".join(b"=?utf-8?b?" + base64.b64encode(one) + b"?=" for one in [*words, word])


def compose(data: bytes) -> Mail:
    """The e-mail that these fields describe. Raises ValueError."""
    try:
        fields = _decode(data)
    except msgspec.DecodeError as error:
        raise ValueError(f"fields of an e-mail: {error}") from error
    message = EmailMessage(policy=_POLICY)
    try:
        message["From"] = fields.sender
        message["To"] = fields.to
        message["Date"] = format_datetime(datetime.fromtimestamp(fields.unix_s, UTC))
        message["Message-ID"] = f"<{fields.message_id}>"
        message["Auto-Submitted"] = "auto-generated"
        for name, value in fields.headers.items():
            message[name] = value
        message.set_content(fields.text, cte="base64")
        if fields.html:
            message.add_alternative(fields.html, subtype="html", cte="base64")
        data = b"Subject: " + _encoded(fields.subject) + b"\r\n" + message.as_bytes()
        return Mail(parseaddr(fields.sender)[1], fields.to, data)
    except (MessageError, *_LIBRARY_ERRORS) as error:
        raise ValueError(f"an e-mail cannot be made of these fields: {type(error).__name__}") from error
