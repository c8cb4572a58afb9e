"""An e-mail from the fields that a template filled: the JSON of one row -> addresses and the bytes of the message.

RFC 5322 (form), RFC 2047 and 2045 (headers and bodies that are not ASCII), RFC 3834 section 5 (Auto-Submitted); all
but Subject by the standard library's `email`. A vendor file gives JSON, because that is what templates are made of, and
because `pushgw preview` then shows it as people read it. Text leaves as base64, so that no server needs 8BITMIME.

Sans-IO: time is one of the fields. Raises ValueError for whatever cannot become a message, and nothing else.
"""

from __future__ import annotations

import base64
import binascii
import re
from datetime import UTC, datetime
from email.errors import MessageError
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, parseaddr
from functools import lru_cache
from typing import NamedTuple

import msgspec


class Fields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message. sender: `Name <address>`. message_id: with its domain, without brackets. unix_s: for Date.

    headers: others that the caller wants (Reply-To, List-Unsubscribe). envelope: where bounces go; the sender without.
    """

    sender: str
    to: str
    message_id: str
    unix_s: int
    subject: str
    text: str
    html: str = ""
    headers: dict[str, str] = {}
    envelope: str = ""


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
#: Names that stand in a header as they are, on one line.
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9.@_+-]{,63}")
_REST_OF_HEAD = (
    b'Auto-Submitted: auto-generated\r\nContent-Type: text/plain; charset="utf-8"\r\n'
    b"Content-Transfer-Encoding: base64\r\nMIME-Version: 1.0\r\n\r\n"
)
#: Bytes of a line of base64: 76 characters (RFC 2045 section 6.8).
_LINE_BYTES = 57
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
    return (_laid_out if _is_plain(fields) else _built)(fields)


def _is_plain(fields: Fields) -> bool:
    """Nothing in it needs the library's judgement: a text alone, and short names in ASCII."""
    names = (fields.to, fields.message_id)
    return not fields.html and not fields.headers and all(map(_PLAIN_NAME.fullmatch, names))


def _laid_out(fields: Fields) -> Mail:
    """As `_built`, a twentieth of its price: what the library says once of sender and date is kept, and a text's base64
    needs no library."""
    envelope, sender = _sender_lines(fields.sender)
    text = b"\r\n".join(fields.text.encode().splitlines()) + b"\r\n"
    message = b"".join(
        [
            *(b"Subject: ", _encoded(fields.subject), b"\r\n", sender, b"To: ", fields.to.encode(), b"\r\n"),
            *(_date_line(fields.unix_s), b"Message-ID: <", fields.message_id.encode(), b">\r\n", _REST_OF_HEAD),
            *(
                binascii.b2a_base64(text[at : at + _LINE_BYTES], newline=False) + b"\r\n"
                for at in range(0, len(text), _LINE_BYTES)
            ),
        ]
    )
    return Mail(fields.envelope or envelope, fields.to, message)


@lru_cache(maxsize=256)
def _sender_lines(sender: str) -> tuple[str, bytes]:
    """The address alone, and the header's lines. Raises ValueError."""
    message = EmailMessage(policy=_POLICY)
    try:
        message["From"] = sender
        return parseaddr(sender)[1], message.as_bytes().removesuffix(b"\r\n")
    except (MessageError, *_LIBRARY_ERRORS) as error:
        raise ValueError(f"an e-mail cannot be sent from this sender: {type(error).__name__}") from error


@lru_cache(maxsize=16)
def _date_line(unix_s: int) -> bytes:
    """Raises ValueError for a time that is no date."""
    try:
        return b"Date: " + format_datetime(datetime.fromtimestamp(unix_s, UTC)).encode() + b"\r\n"
    except (OverflowError, OSError) as error:
        raise ValueError(f"unix_s {unix_s} is no date") from error


def _built(fields: Fields) -> Mail:
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
        return Mail(fields.envelope or parseaddr(fields.sender)[1], fields.to, data)
    except (MessageError, *_LIBRARY_ERRORS) as error:
        raise ValueError(f"an e-mail cannot be made of these fields: {type(error).__name__}") from error
