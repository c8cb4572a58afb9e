"""An e-mail from the fields that a template filled: the JSON of one row -> addresses and the bytes of the message.

RFC 5322 (form), RFC 2047 and 2045 (headers and bodies that are not ASCII), RFC 3834 section 5 (Auto-Submitted); all
but Subject by the standard library's `email`. A vendor file gives JSON, because that is what templates are made of, and
because `pushgw preview` then shows it as people read it. Text leaves as base64, so that no server needs 8BITMIME.

Sans-IO: time is one of the fields. Raises ValueError for whatever cannot become a message, and nothing else.
"""

from __future__ import annotations

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
#: Of a line of base64 (RFC 2045 section 6.8): whole groups of four, so that lines are cut from one long run.
_LINE_CHARACTERS = 76
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_decode = msgspec.json.Decoder(Fields).decode


def _encoded(subject: str) -> bytes:
    """A subject as it stands in its header: plain where nothing could change it, else encoded words.

    Not by the library: where it folds, blanks between encoded and plain words come out doubled (Python 3.11).
    Raises ValueError for control characters, which would end the header.
    """
    if _CONTROL.search(subject) is not None:
        raise ValueError("a subject with control characters")
    if (
        subject.isascii()
        and "=?" not in subject
        and subject == subject.strip()
        and 0 < len(subject) <= _PLAIN_CHARACTERS_MAX
    ):
        return subject.encode()
    raw = subject.encode()
    words, at = [], 0
    while len(raw) - at > _WORD_BYTES_MAX:
        end = at + _WORD_BYTES_MAX
        while raw[end] & 0xC0 == 0x80:
            # A word holds whole characters.
            end -= 1
        words.append(binascii.b2a_base64(raw[at:end], newline=False))
        at = end
    words.append(binascii.b2a_base64(raw[at:], newline=False))
    return b"=?utf-8?b?" + b"?=\r\n =?utf-8?b?".join(words) + b"?="


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
    text = fields.text.encode()
    if b"\n" in text or b"\r" in text:
        text = b"\r\n".join(text.splitlines())
    encoded = binascii.b2a_base64(text + b"\r\n", newline=False)
    lines = [encoded[at : at + _LINE_CHARACTERS] for at in range(0, len(encoded), _LINE_CHARACTERS)]
    head = b"Subject: %b\r\n%bTo: %b\r\n%bMessage-ID: <%b>\r\n%b" % (
        _encoded(fields.subject),
        sender,
        fields.to.encode(),
        _date_line(fields.unix_s),
        fields.message_id.encode(),
        _REST_OF_HEAD,
    )
    return Mail(fields.envelope or envelope, fields.to, head + b"\r\n".join(lines) + b"\r\n")


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
