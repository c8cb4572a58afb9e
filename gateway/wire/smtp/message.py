"""An e-mail from the fields that a template filled: the JSON of one row -> addresses and the bytes of the message.

RFC 5322 (form), RFC 2047 and 2045 (headers and bodies that are not ASCII), RFC 3834 section 5 (Auto-Submitted); all of
it by the standard library's `email`. A vendor file gives JSON, because that is what templates are made of, and because
`pushgw preview` then shows it as people read it. Text leaves as quoted-printable or base64, so that no server needs
8BITMIME.

Sans-IO: time is one of the fields. Raises ValueError for whatever cannot become a message, and nothing else.
"""

from __future__ import annotations

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
_decode = msgspec.json.Decoder(Fields).decode


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
        message["Subject"] = fields.subject
        message["Date"] = format_datetime(datetime.fromtimestamp(fields.unix_s, UTC))
        message["Message-ID"] = f"<{fields.message_id}>"
        message["Auto-Submitted"] = "auto-generated"
        for name, value in fields.headers.items():
            message[name] = value
        message.set_content(fields.text, cte="base64")
        if fields.html:
            message.add_alternative(fields.html, subtype="html", cte="base64")
        return Mail(parseaddr(fields.sender)[1], fields.to, message.as_bytes())
    except (MessageError, *_LIBRARY_ERRORS) as error:
        raise ValueError(f"an e-mail cannot be made of these fields: {type(error).__name__}") from error
