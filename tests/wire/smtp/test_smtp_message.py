"""compose: fields become a message that a reader finds again, or a ValueError; never more headers than we wrote."""

from __future__ import annotations

import email
import email.policy
import json
from email.message import EmailMessage
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.smtp.message import compose

FIELDS = {
    "sender": "商店 <no-reply@shop.example>",
    "to": "user@mail.example",
    "message_id": "01a20257-d856-8001-8000-0000000be0be@shop.example",
    "unix_s": 1_763_700_000,
    "subject": "标题 title",
    "text": "Text",
}
printable = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=120)


def fields(**changes: Any) -> bytes:
    return json.dumps(FIELDS | changes).encode()


def read(data: bytes) -> EmailMessage:
    message = email.message_from_bytes(data, policy=email.policy.SMTP)
    assert isinstance(message, EmailMessage)
    return message


def text_of(message: EmailMessage, kind: str = "plain") -> str:
    part = message.get_body((kind,))
    assert part is not None
    return str(part.get_content()).replace("\r\n", "\n")


def test_a_message_has_what_rfc_5322_asks_for() -> None:
    mail = compose(fields(text="第一行\n.dot\n\nend", headers={"Reply-To": "help@shop.example"}))
    assert (mail.sender, mail.recipient) == ("no-reply@shop.example", "user@mail.example")
    assert mail.message.isascii()
    assert mail.message.endswith(b"\r\n")
    message = read(mail.message)
    assert {name: str(message[name]) for name in ("From", "To", "Subject", "Date", "Message-ID", "Reply-To")} == {
        "From": "商店 <no-reply@shop.example>",
        "To": "user@mail.example",
        "Subject": "标题 title",
        "Date": "Fri, 21 Nov 2025 04:40:00 +0000",
        "Message-ID": "<01a20257-d856-8001-8000-0000000be0be@shop.example>",
        "Reply-To": "help@shop.example",
    }
    assert message["Auto-Submitted"] == "auto-generated"
    assert text_of(message) == "第一行\n.dot\n\nend\n"


@pytest.mark.parametrize(
    "subject",
    ["day. 한국어We 23:40. 🇨🇳🧑 x" * 9, " blanks around ", "", "=?utf-8?q?x?=", "a" * 500, "长" * 200, "plain words"],
)
def test_a_subject_arrives_as_it_is_in_words_of_75_characters(subject: str) -> None:
    data = compose(fields(subject=subject)).message
    assert str(read(data)["Subject"]) == subject
    head = data.partition(b"\r\n\r\n")[0]
    assert all(len(word) <= 75 for line in head.split(b"\r\n") for word in line.split() if word.startswith(b"=?"))


def test_html_is_a_second_part() -> None:
    message = read(compose(fields(html="<p>嗨</p>")).message)
    assert message.get_content_type() == "multipart/alternative"
    assert (text_of(message), text_of(message, "html")) == ("Text\n", "<p>嗨</p>\n")


@given(printable, st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\x00"), max_size=300))
def test_any_text_arrives_in_short_ascii_lines_and_adds_no_header(subject: str, text: str) -> None:
    data = compose(fields(subject=subject, text=text)).message
    assert data.isascii()
    assert all(len(line) <= 998 for line in data.split(b"\r\n"))
    assert b"\n" not in data.replace(b"\r\n", b"")
    message = read(data)
    assert [name.lower() for name in message.keys()] == [  # noqa: SIM118 - not a dict: repeated names would show
        *("from", "to", "subject", "date", "message-id", "auto-submitted", "content-type"),
        *("content-transfer-encoding", "mime-version"),
    ] or {name.lower() for name in message} == {
        *("from", "to", "subject", "date", "message-id", "auto-submitted", "content-type"),
        *("content-transfer-encoding", "mime-version"),
    }
    assert text_of(message).removesuffix("\n") == text.removesuffix("\n")
    assert str(message["Subject"]) == subject


@given(
    printable,
    st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
    st.sampled_from(["商店 <no-reply@shop.example>", "a@b.c", '"Shop, 1" <a@b.c>', "x" * 90 + " <a@b.c>"]),
    st.integers(0, 1 << 33),
)
def test_a_plain_message_is_what_the_library_makes_of_it(subject: str, text: str, sender: str, unix_s: int) -> None:
    """A header of one's own takes the way through the library; without it the message is laid out by hand."""
    told = {"subject": subject, "text": text, "sender": sender, "unix_s": unix_s}
    quick, library = compose(fields(**told)), compose(fields(**told, headers={"X-Own": "1"}))
    assert (quick.sender, quick.recipient) == (library.sender, library.recipient)
    twin = read(library.message)
    del twin["X-Own"]
    found = read(quick.message)
    assert sorted((name, str(value)) for name, value in found.items()) == sorted(
        (name, str(value)) for name, value in twin.items()
    )
    assert found.get_content() == twin.get_content()
    assert all(len(line) <= 998 for line in quick.message.split(b"\r\n"))


@pytest.mark.parametrize(
    "changes",
    [
        {"subject": "a\r\nBcc: x@y.z"},
        {"subject": "a\nb"},
        {"headers": {"X-A": "b\nc"}},
        {"headers": {"From": "someone@else.example"}},
        {"message_id": "a>\r\nX: <b"},
        {"to": "a@b.c\r\nBcc: x@y.z"},
        {"unix_s": 10**17},
        {"colour": 1},
        {"text": 7},
        {"text": "\ud800"},
    ],
)
def test_what_cannot_be_a_message_is_a_value_error(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        compose(fields(**changes))


@given(st.binary(max_size=80))
def test_arbitrary_bytes_are_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        compose(data)
