"""E-mail: fields of a message, replies and what they mean, bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.content import Click, Variant
from gateway.verdict import Verdict
from gateway.wire.smtp.message import compose
from vendors.email import ANSWERS, REPLIES, Email, Settings

SETTINGS = Settings(
    host="smtp.shop.example", sender="Shop <no-reply@shop.example>", user_name="push", password_file="s"
)
VENDOR = Email(SETTINGS)
ADDRESS = "user+tag@mail.example"


def test_a_row_has_the_fields_of_its_message(render: Callable[..., Any]) -> None:
    variant = Variant('T "q"\nx', "B\n长", click=Click("url", "https://a.b/c?d=e&f"))
    (request,) = render(VENDOR, variant, [ADDRESS]).requests
    fields = json.loads(request.body)
    identity, _, domain = fields.pop("message_id").partition("@")
    assert (len(identity), domain) == (36, "shop.example")
    assert fields == {
        "sender": "Shop <no-reply@shop.example>",
        "to": ADDRESS,
        "unix_s": 1_763_700_000,
        "subject": 'T "q" x',
        "text": "B\n长\n\nhttps://a.b/c?d=e&f",
    }
    assert compose(request.body).recipient == ADDRESS


def test_every_row_is_a_message_of_its_own(render: Callable[..., Any]) -> None:
    addresses = [f"u{index}@mail.example" for index in range(3)]
    html = msgspec.Raw(b'{"html":"<p>{{x}}</p>"}')
    for variants, variables in (
        (Variant("t", "b"), None),
        (
            Variant("t {{x}}", "b {{x}}", raw={"email": html}),
            {"x": ["1", '"2"', "3"]},
        ),
        ([Variant(f"t{index}", "b") for index in range(3)], None),
    ):
        made = render(VENDOR, variants, addresses, variables=variables)
        mails = [compose(request.body) for request in made.requests]
        assert sorted(mail.recipient for mail in mails) == addresses
        assert len({mail.message for mail in mails}) == 3


def test_texts_are_cut_and_raw_patches_what_may_be_patched(render: Callable[..., Any]) -> None:
    made = render(VENDOR, Variant("长" * 300, "长" * 200_000), [ADDRESS])
    fields = json.loads(made.requests[0].body)
    assert len(fields["subject"]) == 200
    assert fields["text"].endswith("…")
    assert made.truncated == [0]
    raw = {"email": msgspec.Raw(b'{"headers":{"Reply-To":"help@shop.example"},"subject":"own"}')}
    (request,) = render(VENDOR, Variant("t", "b", raw=raw), [ADDRESS]).requests
    fields = json.loads(request.body)
    assert (fields["subject"], fields["headers"]) == ("own", {"Reply-To": "help@shop.example"})
    for bad in ('{"to":"x"}', '{"headers":{"Bcc":"x@y.z"}}', '{"headers":{"A b":"c"}}', '{"headers":[]}'):
        (refused,) = render(VENDOR, Variant("t", "b", raw={"email": msgspec.Raw(bad.encode())}), [ADDRESS]).refused
        assert refused[1] == "raw"
    for bad in ('{"headers":{"X":"a\\nb"}}', '{"subject":"a\\nb"}', '{"html":7}'):
        assert render(VENDOR, Variant("t", "b", raw={"email": msgspec.Raw(bad.encode())}), [ADDRESS]).refused


@pytest.mark.parametrize(
    "address",
    ["", "a", "a@", "@b", "a b@c.d", "a@b\r\nc", "a@b>", "<a@b.c>", "a..b@c.d", "用户@c.d", "a@-b", "a@" + "b" * 300],
)
def test_what_is_no_address_is_no_target(address: str) -> None:
    assert VENDOR.check_token(address) == "token is no e-mail address in ASCII"


@pytest.mark.parametrize(
    "changes",
    [
        {"sender": "nobody"},
        {"sender": "A\nB <a@b.c>"},
        {"proxy": "p:1"},
        {"password_env": "X"},
        {"host": ""},
        {"port": 0},
        {"local_name": "a b"},
        {"subject_code_points_max": 0},
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any]) -> None:
    table = {"host": "h", "sender": "a@b.c", "user_name": "u", "password_file": "p"}
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(table | changes, Settings)


ENHANCED = """
THROTTLED 4.2 4.5.3 4.7
UNAVAILABLE 4.3 4.4
TOKEN_DEAD 5.1.1 5.1.2 5.1.3 5.1.6 5.1.10
CREDENTIAL 5.1.7 5.1.8 5.7.8 5.7.9 5.7.11 5.7.14
TOKEN_MUTED 5.2.1
REJECTED 5.2 5.3 5.4 5.5 5.6 5.7
"""
PLAIN = """
UNAVAILABLE 421 451 452 454
THROTTLED 450
CREDENTIAL 530 534 535 538
REJECTED 500 501 502 503 504 550 551 552 553 554 555
"""


def said(code: int, text: str, phase: str = "rcpt") -> Any:
    return VENDOR.classify(code, {b"smtp-phase": phase.encode()}, text.encode())


def test_every_code_of_the_tables_has_its_verdict() -> None:
    seen: set[str] = set()
    for line in ENHANCED.strip().splitlines():
        verdict, *codes = line.split()
        seen |= set(codes)
        for code in codes:
            full = code if code.count(".") == 2 else f"{code}.99"
            answer = said(450 if code[0] == "4" else 550, f"{full} words")
            assert (answer.verdict.name, answer.name) == (verdict, "enhanced_" + full.replace(".", "_")), code
    assert seen == set(ANSWERS)
    replies: set[int] = set()
    for line in PLAIN.strip().splitlines():
        verdict, *numbers = line.split()
        replies |= set(map(int, numbers))
        for number in map(int, numbers):
            answer = said(number, "words without a code")
            assert (answer.verdict.name, answer.name) == (verdict, f"reply_{number}")
    assert replies == set(REPLIES)


def test_an_enhanced_code_of_another_class_is_not_believed() -> None:
    assert said(550, "4.1.1 what").name == "reply_550"
    assert said(450, "5.1.1 what").verdict is Verdict.THROTTLED
    assert said(550, "5.1.1000 what").name == "reply_550"


def test_before_the_recipient_was_named_nobody_is_blamed() -> None:
    for code, text in ((550, "5.1.1 x"), (450, "4.7.1 x"), (450, "x"), (550, "5.2.1 x")):
        assert said(code, text, "mail").verdict is Verdict.UNAVAILABLE


@given(st.integers(0, 999), st.binary(max_size=40))
def test_arbitrary_replies_never_raise_and_bury_nobody_without_a_code(code: int, text: bytes) -> None:
    answer = VENDOR.classify(code, {}, text)
    if answer.verdict is Verdict.TOKEN_DEAD:
        assert text.lstrip().startswith(b"5.1.")
    if answer.verdict is Verdict.ACCEPTED:
        assert (code, text) == (200, b"")


def test_bounces_go_to_an_address_that_names_the_message(render: Callable[..., Any]) -> None:
    own = Email(msgspec.structs.replace(SETTINGS, bounce_address="bounce@push.example"))
    for variant in (Variant("t", "b"), Variant("t", "b", raw={"email": msgspec.Raw(b'{"html":"<b>x</b>"}')})):
        (request,) = render(own, variant, [ADDRESS]).requests
        mail = compose(request.body)
        named = json.loads(request.body)["message_id"].partition("@")[0]
        assert mail.sender == f"bounce+{named}@push.example"
        assert len(mail.sender.partition("@")[0]) <= 64
        assert b"no-reply@shop.example" in mail.message
    assert compose(render(VENDOR, Variant("t", "b"), [ADDRESS]).requests[0].body).sender == "no-reply@shop.example"
    for wrong in ("bounce", "b" * 28 + "@push.example", 'a"b@push.example'):
        with pytest.raises(ValueError, match="bounce_address"):
            Settings(**{**msgspec.structs.asdict(SETTINGS), "bounce_address": wrong})
