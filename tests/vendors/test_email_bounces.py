"""Bounces as Postfix, Exim and Exchange write them, and what is none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.receipts import Callback, Event, NotTaken, VendorReceipt
from vendors.receipts import READERS

ID = "01a20257-d856-8001-8000-0000000be0be"
AT_UNIX_MS = 1_763_700_002_000
DATE = "Fri, 21 Nov 2025 12:40:02 +0800 (CST)"

POSTFIX = f"""Return-Path: <>
X-Original-To: bounce+{ID}@push.example
Delivered-To: bounce@push.example
Received: by mx.push.example (Postfix) id 4Zx1Y23Fz; {DATE}
Date: {DATE}
From: MAILER-DAEMON@mx.push.example (Mail Delivery System)
Subject: Undelivered Mail Returned to Sender
To: bounce+{ID}@push.example
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status;
\tboundary="4Zx1Y13Fz.1763700002/mx.push.example"
Message-Id: <20251121044002.4Zx1Y23Fz@mx.push.example>

This is a MIME-encapsulated message.

--4Zx1Y13Fz.1763700002/mx.push.example
Content-Description: Notification
Content-Type: text/plain; charset=us-ascii

This is the mail system at host mx.push.example.

<user@mail.example>: host mx.mail.example[192.0.2.7] said: 550 5.1.1
    <user@mail.example>: Recipient address rejected: User unknown in virtual
    mailbox table (in reply to RCPT TO command)

--4Zx1Y13Fz.1763700002/mx.push.example
Content-Description: Delivery report
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.push.example
X-Postfix-Queue-ID: 4Zx1Y13Fz
X-Postfix-Sender: rfc822; bounce+{ID}@push.example
Arrival-Date: {DATE}

Final-Recipient: rfc822; user@mail.example
Original-Recipient: rfc822;user@mail.example
Action: failed
Status: 5.1.1
Remote-MTA: dns; mx.mail.example
Diagnostic-Code: smtp; 550 5.1.1 <user@mail.example>: Recipient address
    rejected: User unknown in virtual mailbox table

--4Zx1Y13Fz.1763700002/mx.push.example
Content-Description: Undelivered Message
Content-Type: message/rfc822

Return-Path: <bounce+{ID}@push.example>
Subject: t
From: Shop <no-reply@shop.example>
To: user@mail.example
Message-ID: <{ID}@shop.example>

Text

--4Zx1Y13Fz.1763700002/mx.push.example--
"""

EXIM = f"""Received: from Debian-exim by mx.push.example with local (Exim 4.96)
\tid 1vMJ7W-000abc-1d
\tfor bounce+{ID}@push.example; {DATE}
X-Failed-Recipients: user@mail.example
Auto-Submitted: auto-replied
From: Mail Delivery System <Mailer-Daemon@mx.push.example>
To: bounce+{ID}@push.example
References: <{ID}@shop.example>
Content-Type: multipart/report; report-type=delivery-status; boundary=1763700002-eximdsn-1804289383
MIME-Version: 1.0
Subject: Mail delivery failed: returning message to sender
Message-Id: <E1vMJ7W-000abc-1d@mx.push.example>
Date: {DATE}

--1763700002-eximdsn-1804289383
Content-type: text/plain; charset=us-ascii

This message was created automatically by mail delivery software.

A message that you sent could not be delivered to one or more of its
recipients. This is a permanent error. The following address(es) failed:

  user@mail.example
    host mx.mail.example [192.0.2.7]
    SMTP error from remote mail server after RCPT TO:<user@mail.example>:
    550 5.1.1 The email account that you tried to reach does not exist

--1763700002-eximdsn-1804289383
Content-type: message/delivery-status

Reporting-MTA: dns; mx.push.example

Action: failed
Final-Recipient: rfc822;user@mail.example
Status: 5.0.0
Remote-MTA: dns; mx.mail.example
Diagnostic-Code: smtp; 550 5.1.1 The email account that you tried to reach does not exist

--1763700002-eximdsn-1804289383
Content-type: text/rfc822-headers

Subject: t
From: Shop <no-reply@shop.example>
To: user@mail.example
Message-ID: <{ID}@shop.example>


--1763700002-eximdsn-1804289383--
"""

EXIM_TEXT = f"""X-Failed-Recipients: user@mail.example
Auto-Submitted: auto-replied
From: Mail Delivery System <Mailer-Daemon@mx.push.example>
To: bounce+{ID}@push.example
Subject: Mail delivery failed: returning message to sender
Date: {DATE}

A message that you sent could not be delivered to one or more of its
recipients. This is a permanent error. The following address(es) failed:

  user@mail.example
    SMTP error from remote mail server after RCPT TO:<user@mail.example>:
    host mx.mail.example [192.0.2.7]: 550 5.1.1 <user@mail.example>... User unknown

------ This is a copy of the message, including all the headers. ------

Return-path: <bounce+{ID}@push.example>
"""

EXCHANGE = f"""Received: from AM0PR01MB0001.eurprd01.prod.exchangelabs.com (2603:10a6::1) by
 AM0PR01MB0002.eurprd01.prod.exchangelabs.com with HTTPS; Fri, 21 Nov 2025 04:40:02 +0000
From: Microsoft Outlook
\t<MicrosoftExchange329e71ec88ae4615bbc36ab6ce41109e@mail.example>
To: <bounce+{ID}@push.example>
Date: Fri, 21 Nov 2025 04:40:02 +0000
Content-Type: multipart/report; report-type=delivery-status;
\tboundary="c5c8b2a3-0f1d-4f8a-9a52-0d0f3f8a0001"
X-MS-Exchange-Message-Is-Ndr:
Content-Language: en-US
Message-ID: <0a1b2c3d-1111-2222-3333-444455556666@AM0PR01MB0002.eurprd01.prod.exchangelabs.com>
In-Reply-To: <{ID}@shop.example>
References: <{ID}@shop.example>
Subject: Undeliverable: t
Auto-Submitted: auto-replied
MIME-Version: 1.0

--c5c8b2a3-0f1d-4f8a-9a52-0d0f3f8a0001
Content-Type: multipart/alternative; differences=Content-Type;
\tboundary="83a56ed0-0d9b-4c5f-a4d2-000000000001"

--83a56ed0-0d9b-4c5f-a4d2-000000000001
Content-Type: text/plain; charset="us-ascii"
Content-Transfer-Encoding: quoted-printable

Your message to user@mail.example couldn't be delivered.=

--83a56ed0-0d9b-4c5f-a4d2-000000000001--

--c5c8b2a3-0f1d-4f8a-9a52-0d0f3f8a0001
Content-Type: message/delivery-status

Reporting-MTA: dns;AM0PR01MB0001.eurprd01.prod.exchangelabs.com
Received-From-MTA: dns;mx.push.example
Arrival-Date: Fri, 21 Nov 2025 04:40:00 +0000

Original-Recipient: rfc822;user@mail.example
Final-Recipient: rfc822;user@mail.example
Action: failed
Status: 5.1.10
Diagnostic-Code: smtp;550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup

--c5c8b2a3-0f1d-4f8a-9a52-0d0f3f8a0001
Content-Type: message/rfc822

From: Shop <no-reply@shop.example>
To: user@mail.example
Subject: t
Message-ID: <{ID}@shop.example>
Date: Fri, 21 Nov 2025 04:40:00 +0000

Text
--c5c8b2a3-0f1d-4f8a-9a52-0d0f3f8a0001--
"""


def read(text: str | bytes) -> Any:
    body = text if isinstance(text, bytes) else text.replace("\n", "\r\n").encode()
    reader: Any = READERS["email"].reader(None, b"")
    return reader.read(Callback({}, "", body), 0.0)


def told(event: Event, token: str = "user@mail.example", address: str = ID) -> list[VendorReceipt]:
    return [VendorReceipt(event, address, (token,), AT_UNIX_MS)]


@pytest.mark.parametrize("text", [POSTFIX, EXIM, EXIM_TEXT, EXCHANGE], ids=["postfix", "exim", "exim text", "exchange"])
def test_a_hard_bounce_names_message_and_address_whoever_wrote_it(text: str) -> None:
    assert read(text) == told(Event.TOKEN_DEAD)
    # A pipe may bring lines as Unix has them.
    assert read(text.encode()) == told(Event.TOKEN_DEAD)


@pytest.mark.parametrize(
    ("action", "status", "event"),
    [
        ("failed", "5.2.1", Event.TOKEN_MUTED),
        ("failed", "5.2.2", Event.UNDELIVERED),
        ("failed", "5.7.1", Event.UNDELIVERED),
        ("failed", "4.4.7", Event.UNDELIVERED),
        ("failed", "5.1.10", Event.TOKEN_DEAD),
        ("failed", "5.1.11", Event.UNDELIVERED),
        ("failed", "", Event.UNDELIVERED),
        ("delayed", "4.4.1", Event.PENDING),
        ("delivered", "2.0.0", Event.DELIVERED),
        ("relayed (to a server without reports)", "2.0.0", Event.PENDING),
        ("vanished", "5.1.1", Event.UNKNOWN),
    ],
)
def test_action_and_code_say_what_became_of_it(action: str, status: str, event: Event) -> None:
    text = POSTFIX.replace("Action: failed", f"Action: {action}").replace("Status: 5.1.1", f"Status: {status}")
    if not status:
        text = text.replace("smtp; 550 5.1.1", "smtp; 550")
    assert read(text) == told(event)


def test_the_message_is_found_without_its_return_path_and_the_address_behind_a_forwarder() -> None:
    text = POSTFIX.replace(f"bounce+{ID}@push.example", "no-reply@shop.example")
    assert read(text) == told(Event.TOKEN_DEAD)
    forwarded = POSTFIX.replace(
        "Final-Recipient: rfc822; user@mail.example", "Final-Recipient: rfc822; u2@else.example"
    )
    assert read(forwarded) == told(Event.TOKEN_DEAD)
    bare = forwarded[: forwarded.index("Content-Description: Undelivered Message")]
    assert read(bare) == told(Event.TOKEN_DEAD)
    assert read(bare.replace("Original-Recipient", "X-Other")) == told(Event.TOKEN_DEAD, "u2@else.example")
    assert read(bare.replace(ID, "somebody"))[0].address == ""


def test_a_report_in_utf_8_is_read() -> None:
    text = POSTFIX.replace("message/delivery-status", "message/global-delivery-status")
    assert read(text) == told(Event.TOKEN_DEAD)


@pytest.mark.parametrize(
    "text",
    [
        f"From: user@mail.example\nTo: bounce+{ID}@push.example\nSubject: Out of office\n\nI am away, 5.1.1 2026.\n",
        f"Subject: 5.1.1\nTo: bounce+{ID}@push.example\nContent-Type: multipart/report; boundary=x\n\n--x\n\n--x--\n",
    ],
)
def test_what_is_no_report_says_nothing(text: str) -> None:
    assert read(text) == []


def test_what_is_no_mail_is_unreadable() -> None:
    for body in (b"", b"\r\n\r\nx", b"\xff\xfe\x00"):
        assert read(body) is NotTaken.UNREADABLE


@given(st.data())
def test_no_mail_raises(data: st.DataObject) -> None:
    """Real ones with pieces missing, doubled and replaced."""
    lines = data.draw(st.sampled_from([POSTFIX, EXIM, EXIM_TEXT, EXCHANGE])).splitlines()
    for _ in range(data.draw(st.integers(0, 6))):
        at = data.draw(st.integers(0, len(lines) - 1))
        lines[at : at + data.draw(st.integers(0, 3))] = data.draw(
            st.lists(st.sampled_from(lines) | st.text(max_size=20), max_size=3)
        ) or [""]
    found = read("\n".join(lines).encode("utf-8", "surrogatepass"))
    assert isinstance(found, NotTaken) or all(isinstance(one, VendorReceipt) for one in found)
