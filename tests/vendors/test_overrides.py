"""Beside the neutral model, for every push vendor: texts of its own, and raw fields by JSON pointer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
import pytest

from bench.render_check import Request, reader_of
from gateway.content import Texts, Variant

PUSH_VENDORS = ["apns", "fcm", "harmony", "honor", "huawei", "meizu", "oppo", "vivo", "xiaomi"]
TOKENS = [f"{number:064x}" for number in range(3)]


@pytest.fixture(params=PUSH_VENDORS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def texts_of(name: str, made: Any) -> dict[str, tuple[str, str]]:
    assert not made.refused
    read = reader_of(name)
    return {
        row.token: (row.title, row.body) for each in made.requests for row in read(Request(each.path, {}, each.body))
    }


def test_texts_of_a_channel_stand_in_for_everybodys(
    vendor_of: Callable[[str], Any], name: str, render: Callable[..., Any]
) -> None:
    other = "vivo" if name != "vivo" else "oppo"
    options = {"authorization": b"CREDENTIAL"}
    own = Variant("all", "everybody", texts={name: Texts("own", "only {{x}}"), other: Texts("not", "this")})
    # One row; rows with variables; several contents, of which one keeps the common title.
    made = render(vendor_of(name), msgspec.structs.replace(own, texts={name: Texts("own")}), TOKENS[:1], **options)
    assert texts_of(name, made) == {TOKENS[0]: ("own", "everybody")}
    made = render(vendor_of(name), own, TOKENS, variables={"x": ["1", "2", "3"]}, **options)
    assert texts_of(name, made) == {token: ("own", f"only {row}") for row, token in enumerate(TOKENS, 1)}
    several = [own, Variant("all", "everybody"), Variant("all", "x", texts={name: Texts(body="y")})]
    made = render(vendor_of(name), several, TOKENS, **options)
    wanted = [("own", "only {{x}}"), ("all", "everybody"), ("all", "y")]
    assert texts_of(name, made) == dict(zip(TOKENS, wanted, strict=True))
    # They are cut as the others are.
    made = render(vendor_of(name), Variant("t", "b", texts={name: Texts(body="long " * 2_000)}), TOKENS[:1], **options)
    assert made.truncated == [0]


def test_a_new_field_of_the_vendor_needs_no_release(
    vendor_of: Callable[[str], Any], name: str, render: Callable[..., Any]
) -> None:
    raw = {name: msgspec.Raw(json.dumps({"/newField/inside~1it": {"deep": "value 1"}}).encode())}
    made = render(vendor_of(name), Variant("t", "b", raw=raw), TOKENS[:1], authorization=b"CREDENTIAL")
    assert not made.refused
    body = unquote_to_bytes(made.requests[0].body).replace(b"\\", b"")
    assert b"newField" in body
    assert b'"inside/it":{"deep":"value 1"}' in body
    # Nobody's tokens and ids can be set that way.
    for pointer in ("/token", "/registration_id", "/regId", "/target", "/app_message_id", "/message_id"):
        raw = {name: msgspec.Raw(json.dumps({pointer: "theirs"}).encode())}
        made = render(vendor_of(name), Variant("t", "b", raw=raw), TOKENS[:1], authorization=b"CREDENTIAL")
        if made.refused:
            assert made.refused[0][1] == "raw"
        else:
            assert texts_of(name, made) == {TOKENS[0]: ("t", "b")}
