"""WeChat: the sheet's example field for field, types of values, pages, verdicts."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import msgspec
import pytest

from gateway.content import Click, Variant
from gateway.verdict import Scope, Verdict
from vendors.text_template import TextTemplate
from vendors.wechat import ANSWERS, TYPES, Settings, Wechat

OPENID = "oDEMO00000000000000000000001"
TEMPLATE = "TPLdemo00000000000000000000000000000000000"
PARAMS = {"character_string1": "{{data.order}}", "thing2": "{{body}}", "time3": "{{data.time}}"}
SETTINGS = Settings(
    appid="wx1",
    app_secret_file="s",
    page="pages/index/index",
    web_view_page="pages/web/index?from=push",
    templates={
        "order": TextTemplate(id=TEMPLATE, params=PARAMS),
        "default": TextTemplate(id="D", params={"thing1": "{{title}}", "thing2": "去：{{body}}"}),
    },
)
VENDOR = Wechat(SETTINGS)
ORDER = Variant(
    "t",
    "您的包裹已发货",
    category="order",
    data={"order": "A20261121", "time": "2026年11月21日 21:30"},
    click=Click("intent", "pages/order/index?id=1"),
)


def test_the_example_of_the_sheet_comes_out_field_for_field(render: Callable[..., Any]) -> None:
    (request,) = render(VENDOR, ORDER, [OPENID], authorization=b"00_DEMOTOKEN").requests
    assert request.path == "/cgi-bin/message/subscribe/send?access_token=00_DEMOTOKEN"
    body = json.loads(request.body)
    page, _, message_id = body.pop("page").rpartition("&message_id=")
    assert (page, len(message_id)) == ("pages/order/index?id=1", 36)
    assert body == {
        "touser": OPENID,
        "template_id": TEMPLATE,
        "miniprogram_state": "formal",
        "lang": "zh_CN",
        "data": {
            "character_string1": {"value": "A20261121"},
            "thing2": {"value": "您的包裹已发货"},
            "time3": {"value": "2026年11月21日 21:30"},
        },
    }


def values(body: bytes) -> dict[str, str]:
    return {key: entry["value"] for key, entry in json.loads(body)["data"].items()}


@pytest.mark.parametrize("several", [False, True])
def test_title_and_body_are_cut_to_their_values_and_stand_on_one_line(
    render: Callable[..., Any], several: bool
) -> None:
    texts = ["长" * 30, 'a\nb\t"c"', "\x7f"]
    if several:
        made = render(VENDOR, [Variant(text, text) for text in texts], [OPENID] * 3)
    else:
        made = render(VENDOR, Variant("{{x}}", "{{x}}"), [OPENID] * 3, variables={"x": texts})
    told = [values(request.body) for request in made.requests]
    assert told == [
        {"thing1": "长" * 19 + "…", "thing2": "去：" + "长" * 17 + "…"},
        {"thing1": 'a b "c"', "thing2": '去：a b "c"'},
        {"thing1": " ", "thing2": "去： "},
    ]
    assert made.truncated == [0]


@pytest.mark.parametrize(
    ("click", "page", "url"),
    [
        (None, "pages/index/index", None),
        (Click("app"), "pages/index/index", None),
        (Click("intent", "pages/a?b=c"), "pages/a?b=c", None),
        (Click("url", "https://x.y/z?a=b&c=d#e"), "pages/web/index?from=push", "https://x.y/z?a=b&c=d#e"),
    ],
)
def test_a_click_opens_a_page_that_knows_its_message(
    render: Callable[..., Any], click: Click | None, page: str, url: str | None
) -> None:
    (request,) = render(VENDOR, Variant("t", "b", click=click), [OPENID]).requests
    told, _, query = json.loads(request.body)["page"].partition("?")
    fields = {name: found[0] for name, found in parse_qs(query, strict_parsing=True).items()}
    assert len(fields.pop("message_id")) == 36
    expected_path, _, expected_query = page.partition("?")
    expected = {name: found[0] for name, found in parse_qs(expected_query).items()}
    assert (told, fields) == (expected_path, expected | ({"url": url} if url else {}))


def test_a_url_with_variables_is_encoded_row_by_row(render: Callable[..., Any]) -> None:
    click = Click("url", "https://x.y/?q={{q}}")
    (request,) = render(VENDOR, Variant("t", "b", click=click), [OPENID], variables={"q": ["a&b=长"]}).requests
    query = json.loads(request.body)["page"].partition("?")[2]
    assert parse_qs(query)["url"] == ["https://x.y/?q=a&b=长"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"data": {"order": "单号", "time": "21:30"}}, "data"),
        ({"data": {"order": "A1", "time": "tomorrow"}}, "data"),
        ({"data": {"order": "A1"}}, "data"),
        ({"click": Click("intent", "weixin://x")}, "click"),
        ({"click": Click("url", "https://x.y/" + "a" * 1000)}, "click"),
        ({"raw": {"wechat": msgspec.Raw(b'{"touser":"x"}')}}, "raw"),
    ],
)
def test_what_wechat_would_refuse_is_refused_before(
    render: Callable[..., Any], changes: dict[str, Any], field: str
) -> None:
    (refused,) = render(VENDOR, msgspec.structs.replace(ORDER, **changes), [OPENID]).refused
    assert refused[1] == field


def test_raw_may_choose_template_and_values(render: Callable[..., Any]) -> None:
    raw = {"wechat": msgspec.Raw(b'{"template_id":"R","page":null,"data":{"thing1":null,"number9":{"value":"{{n}}"}}}')}
    (request,) = render(VENDOR, Variant("t", "b", raw=raw), [OPENID], variables={"n": ["7"]}).requests
    body = json.loads(request.body)
    assert (body["template_id"], "page" in body) == ("R", False)
    assert body["data"] == {"thing2": {"value": "去：b"}, "number9": {"value": "7"}}


FORMS = {
    "thing": (["a", "长" * 20], ["", "长" * 21]),
    "number": (["12", "-1.5"], ["a", "1" * 33]),
    "letter": (["abC"], ["a1"]),
    "symbol": (["!!"], ["!" * 6]),
    "character_string": (["A-1 b"], ["长"]),
    "time": (["15:01", "2019年10月1日 15:01", "9:00~10:00"], ["25:00", "now"]),
    "date": (["2019年10月1日", "2019-10-01 15:01", "2019/1/2~2019/1/3"], ["1.2"]),
    "amount": (["¥10.5", "10元"], ["$x"]),
    "phone_number": (["+86-0766-66888866"], ["1" * 18, "a"]),
    "car_number": (["粤A8Z888挂"], ["1" * 9]),
    "name": (["王小明", "a" * 20], ["王" * 11]),
    "phrase": (["配送中"], ["abc", "一二三四五六"]),
    "enum": (["x"], [""]),
}


def test_every_type_of_the_sheet_takes_its_examples() -> None:
    assert FORMS.keys() == TYPES.keys()
    for name, (good, bad) in FORMS.items():
        for text in good:
            assert TYPES[name].form.fullmatch(text), (name, text)
        for text in bad:
            assert not TYPES[name].form.fullmatch(text), (name, text)


@pytest.mark.parametrize(
    "params", [{"thing": "x"}, {"colour1": "x"}, {"thing1": "{{title}}{{body}}"}, {"thing1": "x" * 20 + "{{title}}"}]
)
def test_a_template_that_no_message_could_fill_is_refused(params: dict[str, str]) -> None:
    table = {"appid": "wx1", "app_secret_file": "s", "templates": {"default": {"id": "T", "params": params}}}
    with pytest.raises(msgspec.ValidationError, match="template default"):
        msgspec.convert(table, Settings)


TABLE = """
ACCEPTED 0
UNAVAILABLE -1
CREDENTIAL 40001 40014 41001 42001 40013 40125 40164 48001 50002 61023 43107
TOKEN_DEAD 40003
REJECTED 40037 41030 43101 45168 47001 47003
THROTTLED 43108 45011
QUOTA 45009
"""


def test_every_code_of_the_sheet_has_its_verdict(judged: Callable[..., Any]) -> None:
    found = judged(
        TABLE, lambda code: VENDOR.classify(200, {}, json.dumps({"errcode": int(code), "errmsg": "x"}).encode())
    )
    assert set(found) == set(ANSWERS)
    refreshable = {code for code, answer in ANSWERS.items() if answer.is_refreshable}
    assert refreshable == {"40001", "40014", "41001", "42001"}


def test_a_user_without_consent_keeps_the_openid() -> None:
    body = b'{"errcode":43101,"errmsg":"user refuse to accept the msg rid: 0-0-0"}'
    answer = VENDOR.classify(200, {}, body)
    assert (answer.verdict, answer.name, answer.scope) == (Verdict.REJECTED, "43101_no_consent", Scope.DEVICE)


def test_a_second_message_would_cost_a_second_consent() -> None:
    assert not Wechat.may_repeat
