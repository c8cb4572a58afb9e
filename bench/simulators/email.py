"""A submission server as a judge: one message to one recipient, as it came over SMTP. No sockets (smtp_front.py).

Written from RFC 5321, 5322, 6409 and 3463. A message is judged twice: at RCPT by the recipient, at its end by its form:
header fields that RFC 5322 section 3.6 wants once, an originator that is the account's, lines of at most 998 octets,
no bare CR or LF, 7-bit lines, size. Replies carry enhanced status codes.

Recorded are Subject and the text part, decoded; what names a row is the left side of Message-ID.
"""

from __future__ import annotations

import email
import email.policy
import re
from email.headerregistry import Address
from email.message import EmailMessage
from typing import Any

from bench.simulators.config_base import Count, Positive
from bench.simulators.exchange import Answer, Request
from bench.simulators.push_api import Kit, PushApi, PushSection, Refused
from bench.simulators.rate import DeviceWindow

LINE_OCTETS_MAX = 998
ONCE = ("date", "from", "to", "subject", "message-id")
MESSAGE_ID_FORM = re.compile(r"\s*<([^<>@\s]+)@([^<>@\s]+)>\s*")
MAILBOX_FORM = re.compile(r"[^\s@<>\"(),:;\\\[\]]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")
#: code of a refusal -> reply. Faults may bring any other code as `451` or `451 4.3.0`.
REPLIES = {
    "unknown": (550, "5.1.1", "no such user here"),
    "full": (452, "4.2.2", "mailbox full"),
    "disabled": (550, "5.2.1", "mailbox disabled"),
    "greylisted": (450, "4.7.1", "greylisted, try again later"),
    "spam": (554, "5.7.1", "message looks like spam"),
    "address": (501, "5.1.3", "bad recipient address syntax"),
    "sender": (550, "5.7.1", "sender is not the account's"),
    "form": (554, "5.6.0", "the message is malformed"),
    "size": (552, "5.3.4", "message too big"),
    "rate": (451, "4.7.1", "too many messages, slow down"),
    "per_recipient": (450, "4.2.1", "too many messages to this recipient"),
    "closing": (421, "4.3.2", "service closing"),
}


class EmailSection(PushSection, frozen=True, kw_only=True):
    """The e-mail simulator. starttls: clear text until STARTTLS instead of TLS from the first byte."""

    user_name: str = "sim-user"
    password: str = "sim-email-password"
    sender_domain: str = "sim.example.com"
    starttls: bool = False
    message_bytes_max: Positive = 1_048_576
    per_recipient_per_minute: Count = 0
    messages_per_session: Count = 0


class Email(PushApi):
    """The judgement on one message; implements exchange.Vendor. A request's path is the recipient, its body the
    message; method RCPT asks about the recipient only."""

    name = "email"
    known_fates = frozenset({"unknown", "full", "disabled", "greylisted", "spam"})
    throttle_code = (451, "rate")
    fault_code = (451, "451")
    body_bytes_max = 64 << 20

    def __init__(self, section: EmailSection, kit: Kit) -> None:
        super().__init__(section, kit)
        self.section = section
        self.reset()

    def credentials(self, host: str, port: int) -> dict[str, Any]:
        """The account."""
        section = self.section
        known = {"user_name": section.user_name, "password": section.password}
        return known | {"sender": f"Sim <no-reply@{section.sender_domain}>", "security": self.security}

    @property
    def security(self) -> str:
        """As configurations of clients call it."""
        return "starttls" if self.section.starttls else "tls"

    def reset(self) -> None:
        """Nobody has had a message."""
        super().reset()
        self._per_recipient = DeviceWindow(self.section.per_recipient_per_minute, 60.0)

    def refusal(self, refused: Refused, request: Request) -> Answer:
        """A reply line: code, enhanced code, words."""
        status, enhanced, words = REPLIES.get(refused.code, (refused.status or 451, "", refused.code))
        text = f"{enhanced} {words}".strip() if enhanced else words
        return Answer(status, body=text.encode(), reason=refused.code, why=refused.why)

    def answer_call(self, request: Request) -> Answer:
        """The reply to RCPT, or to the end of the message."""
        self._check_recipient(request.path)
        if request.method == "RCPT":
            return Answer(250, body=b"2.1.5 recipient ok")
        try:
            named, title, text = self._read(request)
        except (ValueError, LookupError, AttributeError, TypeError) as error:
            # What the standard library's parser raises for some malformed headers and unknown charsets.
            raise Refused("form", f"the message cannot be read: {type(error).__name__}") from None
        self.pace(1)
        if self._per_recipient.take(request.path, self.now) > 0:
            raise Refused("per_recipient", "too many messages to one recipient in a minute")
        rows = self.rows_of(named, "", [request.path], title, text)
        return Answer(250, body=b"2.0.0 queued", rows=rows)

    def _check_recipient(self, address: str) -> None:
        if not MAILBOX_FORM.fullmatch(address):
            raise Refused("address", "the recipient is no address")
        fate = self.sync_fate(address)
        if fate is not None and fate.fate != "spam":
            raise Refused(fate.fate, "by the configured fate of the address")

    def _read(self, request: Request) -> tuple[str, str, str]:
        """(message id, title, text) of a message whose form is right. Raises Refused."""
        message = self._checked(request)
        body = message.get_body(("plain",))
        if body is None:
            raise Refused("form", "there is no text part")
        found = MESSAGE_ID_FORM.fullmatch(str(message["message-id"]))
        text = str(body.get_content()).replace("\r\n", "\n").removesuffix("\n")
        return found[1] if found is not None else "", str(message["subject"]), text

    def _checked(self, request: Request) -> EmailMessage:
        data = request.body
        if request.body_bytes > self.section.message_bytes_max:
            raise Refused("size", f"{request.body_bytes} bytes, limit {self.section.message_bytes_max}")
        if b"\r" in data.replace(b"\r\n", b"") or b"\n" in data.replace(b"\r\n", b""):
            raise Refused("form", "a bare CR or LF")
        lines = data.split(b"\r\n")
        if any(len(line) > LINE_OCTETS_MAX for line in lines):
            raise Refused("form", f"a line of more than {LINE_OCTETS_MAX} octets")
        if not data.isascii():
            raise Refused("form", "8-bit octets without 8BITMIME")
        message = email.message_from_bytes(data, policy=email.policy.SMTP)
        assert isinstance(message, EmailMessage)
        for name in ONCE:
            if len(message.get_all(name, [])) != 1:
                raise Refused("form", f"{name} is missing or repeated")
        if message.defects or any(getattr(value, "defects", ()) for value in message.values()):
            raise Refused("form", "the message has defects")
        if not MESSAGE_ID_FORM.fullmatch(str(message["message-id"])):
            raise Refused("form", "message-id has no form")
        senders: tuple[Address, ...] = message["from"].addresses
        if len(senders) != 1 or senders[0].domain != self.section.sender_domain:
            raise Refused("sender", "From is not of the account's domain")
        to: tuple[Address, ...] = message["to"].addresses
        if [one.addr_spec for one in to] != [request.path]:
            raise Refused("form", "To is not the recipient")
        fate = self.sync_fate(request.path)
        if fate is not None:
            raise Refused(fate.fate, "by the configured fate of the address")
        return message
