"""Meizu: the sheet's example with its signature, lists, verdicts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import msgspec
import pytest

from gateway.columns import TextColumn, join
from gateway.content import Click, Variant
from gateway.verdict import Verdict
from vendors.meizu import ANSWERS, TARGET_ANSWERS, Meizu, Settings

SETTINGS = Settings(app_id="110000", app_secret_file="secret")
VENDOR = Meizu(SETTINGS)
TOKEN = "RA500000000000000000000000000000000000000001"
#: Removes what is ours, so that the message is the sheet's.
BARE = {
    "noticeBarInfo": {"noticeMsgType": None},
    "clickTypeInfo": None,
    "pushTimeInfo": None,
    "advanceInfo": None,
}


def form(body: bytes) -> dict[str, str]:
    parsed = parse_qs(body.decode("ascii"), strict_parsing=True)
    assert all(len(values) == 1 for values in parsed.values())
    return {name: values[0] for name, values in parsed.items()}


def plain_sign(fields: dict[str, str], secret: str) -> str:
    """The twin: the rule of section 4.3 over what a server reads."""
    text = "".join(f"{name}={fields[name]}" for name in sorted(fields) if name != "sign")
    return hashlib.md5((text + secret).encode()).hexdigest()


def test_the_example_of_the_sheet_comes_out_byte_for_byte(render: Callable[..., Any]) -> None:
    """Sections 4.16 and 10: the signature is real for the secret `secretdemo`."""
    variant = Variant("t", "c", raw={"meizu": msgspec.Raw(json.dumps(BARE).encode())})
    (request,) = render(VENDOR, variant, [TOKEN], authorization=b"secretdemo").requests
    assert request.path == "/garcia/api/server/push/varnished/pushByPushId"
    assert request.headers == {"content-type": "application/x-www-form-urlencoded;charset=UTF-8"}
    assert form(request.body) == {
        "appId": "110000",
        "pushIds": TOKEN,
        "messageJson": '{"noticeBarInfo":{"title":"t","content":"c"}}',
        "sign": "168f2b8ed7c0b71d3c2c71887c79ea61",
    }


def test_the_vendors_own_signature_vector() -> None:
    """Section 10, the row of S18."""
    message = '{"title":"title","content":"content","pushTimeInfo":{"offLine":1,"validTime":24}}'
    ids = "RA50c6348036344485d01776773577c64740465480a6b"
    text = f"appId=10000messageJson={message}pushIds={ids}<APP_SECRET>"
    (signature,) = join((VENDOR.sign([(text[:9].encode(), TextColumn.from_rows([text[9:].encode()]))], 1),), 0, 1)
    assert signature == b"ac076ff25d9900015a681cb5172aa53b"


def test_every_request_is_signed_over_what_it_carries(render: Callable[..., Any]) -> None:
    tokens = [f"{TOKEN}{number:03d}" for number in range(250)]
    variant = Variant('标题"&', "内容%s\n", data={"k": "%s"})
    made = render(VENDOR, variant, tokens, authorization=b"s3cret")
    assert [len(request.rows) for request in made.requests] == [83, 83, 84]
    for request in made.requests:
        fields = form(request.body)
        assert fields["sign"] == plain_sign(fields, "s3cret")
        assert fields["pushIds"].split(",") == [tokens[row] for row in request.rows]
        assert json.loads(fields["messageJson"])["noticeBarInfo"]["title"] == '标题"&'


@pytest.mark.parametrize("several", [False, True])
def test_different_texts_are_signed_one_by_one(render: Callable[..., Any], several: bool) -> None:
    values = ['a"b', "c&d=%", "长" * 200]
    if several:
        made = render(VENDOR, [Variant(value, "b") for value in values], ["A", "B", "C"], authorization=b"s3cret")
    else:
        columns = {"x": values}
        made = render(VENDOR, Variant("{{x}}", "b"), ["A", "B", "C"], variables=columns, authorization=b"s3cret")
    titles = {}
    for request in made.requests:
        fields = form(request.body)
        assert fields["sign"] == plain_sign(fields, "s3cret")
        titles[fields["pushIds"]] = json.loads(fields["messageJson"])["noticeBarInfo"]["title"]
    assert titles == {"A": 'a"b', "B": "c&d=%", "C": "长" * 31 + "…"}


@pytest.mark.parametrize(("ttl_s", "hours"), [(0, 1), (1, 1), (3600, 1), (3601, 2), (40 * 86400, 72)])
def test_the_ttl_is_whole_hours_rounded_up(render: Callable[..., Any], ttl_s: int, hours: int) -> None:
    (request,) = render(VENDOR, Variant("t", "b", ttl_s=ttl_s), [TOKEN]).requests
    told = json.loads(form(request.body)["messageJson"])["pushTimeInfo"]
    assert told == {"offLine": int(ttl_s > 0), "validTime": hours}


def test_the_notify_key_has_eight_characters_at_most(render: Callable[..., Any]) -> None:
    keys = []
    for collapse_id in ("order-1", "a much longer one", ""):
        (request,) = render(VENDOR, Variant("t", "b", collapse_id=collapse_id), [TOKEN]).requests
        keys.append(json.loads(form(request.body)["messageJson"])["advanceInfo"]["notifyKey"])
    assert keys[0] == "order-1"
    assert all(0 < len(key) <= 8 for key in keys)
    assert len(set(keys)) == 3


@pytest.mark.parametrize(
    ("click", "expected"),
    [
        (None, {"clickType": 0}),
        (Click("url", "https://a.b"), {"clickType": 2, "url": "https://a.b"}),
        (Click("intent", "app://x"), {"clickType": 2, "url": "app://x"}),
        (Click("intent", "com.a.Main"), {"clickType": 1, "activity": "com.a.Main"}),
    ],
)
def test_clicks_have_their_type(render: Callable[..., Any], click: Click | None, expected: dict[str, Any]) -> None:
    (request,) = render(VENDOR, Variant("t", "b", click=click), [TOKEN]).requests
    assert expected.items() <= json.loads(form(request.body)["messageJson"])["clickTypeInfo"].items()


TABLE = """
ACCEPTED 200
UNAVAILABLE 300 500 1001 1003
REJECTED 1005 110004 110031 110032
CREDENTIAL 1006 110000 110001 110033 110009
TOKEN_DEAD 110002 110003
THROTTLED 110010
QUOTA 110019 110051 110053
"""
TARGETS = """
CREDENTIAL 201
UNAVAILABLE 501 513 519
THROTTLED 518 520
TOKEN_DEAD 110002 110003
TOKEN_MUTED 110005 110010
QUOTA 110011
"""


def test_every_code_of_the_sheet_has_its_verdict(judged: Callable[..., Any]) -> None:
    for table, answers, body in (
        (TABLE, ANSWERS, '{"code":"%s","value":""}'),
        (TARGETS, TARGET_ANSWERS, '{"code":"200","value":{"%s":["A"]}}'),
    ):
        found = judged(table, lambda code, body=body: VENDOR.classify(200, {}, (body % code).encode()))
        assert set(found) == set(answers)


def test_failed_ids_stand_under_their_codes() -> None:
    body = b'{"code":"200","message":"","value":{"110002":["A"],"110011":["B","C"],"999":["D"]},"msgId":"1"}'
    told = VENDOR.judge(200, {}, body, is_distinct=False)
    found = {token: answer.verdict.name for token, answer in told.by_token.items()}
    assert found == {b"A": "TOKEN_DEAD", b"B": "QUOTA", b"C": "QUOTA", b"D": "REJECTED"}
    assert told.by_token[b"D"].is_unknown
    assert told.rest.verdict is Verdict.ACCEPTED
    dead = VENDOR.judge(200, {}, b'{"code":"110002","value":""}', is_distinct=False)
    assert dead.rest.verdict is Verdict.REJECTED


def test_the_region_chooses_the_host() -> None:
    assert VENDOR.authority() == ("server-api-push.meizu.com", 443)
    overseas = Meizu(msgspec.structs.replace(SETTINGS, region="overseas"))
    assert overseas.authority()[0] == "server-api-push.in.meizu.com"
