"""The e-mail simulator over real sockets: SMTP as RFC 5321 wants it, asked by `smtplib` and by hand."""

from __future__ import annotations

import hashlib
import smtplib
import socket
import ssl
import uuid

import pytest

MESSAGE = (
    b"From: Sim <no-reply@sim.example.com>\r\nTo: %s\r\nSubject: =?utf-8?b?5qCH6aKY?=\r\n"
    b"Date: Fri, 21 Nov 2025 04:40:00 +0000\r\nMessage-ID: <01a20257-d856-8001-8000-0000000be0be@sim.example.com>\r\n"
    b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\n5q2j5paH\r\n"
)
ID = uuid.UUID("01a20257-d856-8001-8000-0000000be0be")
SENDER = "no-reply@sim.example.com"
OFF = {"apns": {"enabled": False}, "fcm": {"enabled": False}}


@pytest.fixture
def far(start):
    fates = [{"fate": name, "tokens": [f"{name}@x.example"]} for name in ("unknown", "greylisted", "spam")]
    return start(**OFF, email={"enabled": True, "fates": fates, "message_bytes_max": 2000})


def context_of(far):
    return ssl.create_default_context(cafile=far.ready["ca_file"])


def logged_in(far):
    known = far.ready["email"]
    client = smtplib.SMTP_SSL(known["host"], known["port"], timeout=10, context=context_of(far))
    client.login(known["user_name"], known["password"])
    return client


def said(client, recipient, message=None, sender=SENDER):
    """The reply that ended it."""
    for code, text in (client.mail(sender), client.rcpt(recipient)):
        if code != 250:
            client.rset()
            return code, text[:5]
    try:
        code, text = client.data(MESSAGE % recipient.encode() if message is None else message)
    except smtplib.SMTPDataError as error:
        code, text = error.smtp_code, error.smtp_error
    return code, text[:5]


def test_email_takes_a_message_and_keeps_what_it_says(far):
    with logged_in(far) as client:
        assert said(client, "user@x.example") == (250, b"2.0.0")
    (row,) = far.control("GET", "/received?simulator=email")[1]
    expected = {"message_id": ID.hex, "copies": 1, "target": hashlib.sha256(b"user@x.example").hexdigest()[:32]}
    expected["sha256"] = hashlib.sha256("标题".encode() + b"\x00" + "正文".encode()).hexdigest()
    assert {name: row[name] for name in expected} == expected


CASES = {
    "unknown": (("unknown@x.example",), (550, b"5.1.1")),
    "greylisted": (("greylisted@x.example",), (450, b"4.7.1")),
    "spam": (("spam@x.example",), (554, b"5.7.1")),
    "no address": (("nobody",), (501, b"5.1.3")),
    "another sender": (("u@x.example", None, "a@else.example"), (550, b"5.7.1")),
    "no date": (("u@x.example", (MESSAGE % b"u@x.example").replace(b"Date", b"X-Date")), (554, b"5.6.0")),
    "two subjects": (("u@x.example", b"Subject: x\r\n" + MESSAGE % b"u@x.example"), (554, b"5.6.0")),
    "another recipient": (("u@x.example", MESSAGE % b"v@x.example"), (554, b"5.6.0")),
    "another From": (("u@x.example", (MESSAGE % b"u@x.example").replace(b"no-reply@sim", b"x@other")), (550, b"5.7.1")),
    "8 bit": (("u@x.example", MESSAGE % b"u@x.example" + b"\xe6\xad\xa3\r\n"), (554, b"5.6.0")),
    "a long line": (("u@x.example", MESSAGE % b"u@x.example" + b"a" * 999 + b"\r\n"), (554, b"5.6.0")),
    "too big": (("u@x.example", MESSAGE % b"u@x.example" + b"aaaa\r\n" * 400), (552, b"5.3.4")),
}


def test_email_refuses_with_the_codes_of_the_rfcs(far):
    with logged_in(far) as client:
        for name, (asked, expected) in CASES.items():
            assert said(client, *asked) == expected, name
        # And the session is as good as before.
        assert said(client, "user@x.example")[0] == 250
    refused = far.statistics("email")["outcomes"]["refused"]
    assert refused >= len(CASES) - 1


def test_email_wants_commands_in_their_order(far):
    known = far.ready["email"]
    raw = socket.create_connection((known["host"], known["port"]), 10)
    with context_of(far).wrap_socket(raw, server_hostname=known["host"]) as wire:
        stream = wire.makefile("rwb")

        def ask(line):
            stream.write(line + b"\r\n")
            stream.flush()
            while (reply := stream.readline())[3:4] == b"-":
                pass
            return int(reply[:3])

        assert stream.readline().startswith(b"220 ")
        codes = [
            ask(line)
            for line in (
                b"MAIL FROM:<a@b.c>",
                b"EHLO",
                b"EHLO me",
                b"MAIL FROM:<a@b.c>",
                b"AUTH PLAIN AHgAeQ==",
                b"AUTH PLAIN !",
                b"AUTH CRAM-MD5",
                b"NOOP",
                b"VRFY x",
                b"QUIT",
            )
        ]
    assert codes == [530, 501, 250, 530, 535, 501, 504, 250, 500, 221]


def test_email_starttls_comes_before_everything(start):
    far = start(**OFF, email={"enabled": True, "starttls": True})
    known = far.ready["email"]
    with smtplib.SMTP(known["host"], known["port"], timeout=10) as client:
        client.ehlo()
        assert not client.has_extn("auth")
        assert client.docmd("MAIL", f"FROM:<{SENDER}>")[0] == 530
        client.starttls(context=context_of(far))
        client.login(known["user_name"], known["password"])
        assert said(client, "user@x.example")[0] == 250


def test_email_faults_lose_repeat_and_hang_up(far):
    with logged_in(far) as client:
        far.fault("email", "drop", for_requests=1)
        assert said(client, "a@x.example")[0] == 250
        far.fault("email", "double", for_requests=1)
        assert said(client, "b@x.example")[0] == 250
        far.fault("email", "errors", for_requests=1, mix=[{"share": 1.0, "status": 451, "reason": "4.3.0 later"}])
        assert said(client, "c@x.example")[0] == 451
        far.fault("email", "reset_socket", for_requests=1, recorded=True)
        with pytest.raises((OSError, smtplib.SMTPServerDisconnected)):
            said(client, "d@x.example")
    assert sorted(row["copies"] for row in far.control("GET", "/received?simulator=email")[1]) == [3]
