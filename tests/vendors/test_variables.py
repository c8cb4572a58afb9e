"""Variables of SMS and WeChat: cut to the parameter they stand in, by columns and row by row alike, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import msgspec
import pytest

from gateway.content import Variant
from vendors import aliyun_sms, tencent_sms, wechat
from vendors.text_template import TextTemplate

LONG = "长" * 50
PARAMS = {
    "thing1": "{{a}}",
    "thing2": "单：{{b}}/{{c}}",
    "phrase3": "{{p}}",
    "character_string4": "{{data.order}}",
    "number5": "{{n}}",
    "thing6": "{{title}} {{a}}",
}
WECHAT = wechat.Wechat(
    wechat.Settings(appid="wx1", app_secret_file="s", templates={"default": TextTemplate(id="T", params=PARAMS)})
)
SMS = {"default": TextTemplate(id="1", params={"1": "{{a}}", "2": "No. {{a}}"})}
TENCENT = tencent_sms.TencentSms(
    tencent_sms.Settings(secret_id="i", sdk_app_id="1", secret_key_file="s", templates=SMS)
)
ALIYUN = aliyun_sms.AliyunSms(aliyun_sms.Settings(access_key_id="i", access_key_secret_file="s", templates=SMS))
TOKENS = {"wechat": "o{:027d}", "tencent_sms": "+86138{:08d}", "aliyun_sms": "138{:08d}"}


def parameters(vendor: Any, request: Any) -> dict[str, str]:
    if vendor is WECHAT:
        return {key: entry["value"] for key, entry in json.loads(request.body)["data"].items()}
    if vendor is TENCENT:
        return dict(enumerate(json.loads(request.body)["TemplateParamSet"], 1))  # type: ignore[arg-type]
    return dict(msgspec.json.decode(parse_qs(request.body.decode())["TemplateParam"][0]))


def tokens(vendor: Any, n: int) -> list[str]:
    return [TOKENS[vendor.name].format(index) for index in range(n)]


#: One content, many contents of one template (columns), and few (a loop): all the same.
@pytest.mark.parametrize("several", [0, 30, 3])
def test_wechats_variables_are_cut_to_what_their_type_leaves(render: Callable[..., Any], several: int) -> None:
    n = several or 3
    values = {"a": [LONG] * n, "b": [LONG] * n, "c": ["1"] * n, "p": [LONG] * n, "n": ["7" * 40] * n}
    values = {name: ["ok", *column[1:]] for name, column in values.items()}
    variant = Variant("标题", "b", data={"order": "A{{x}}"})
    values["x"] = ["1"] + ["B" * 99] * (n - 1)
    variants = [msgspec.structs.replace(variant, ttl_s=60 + index) for index in range(n)] if several else variant
    made = render(WECHAT, variants, tokens(WECHAT, n), variables=values)
    assert made.refused == []
    assert made.truncated == list(range(1, n))
    found = [parameters(WECHAT, request) for request in sorted(made.requests, key=lambda one: one.rows)]
    # b and c share the 17 that the constant text of thing2 leaves; title and a the 19 of thing6, so that a has 9.
    assert found[1] == {
        "thing1": LONG[:8] + "…",
        "thing2": f"单：{LONG[:7]}…/1",
        "phrase3": LONG[:5],
        "character_string4": "A" + "B" * 31,
        "number5": "7" * 40,
        "thing6": f"标题 {LONG[:8]}…",
    }
    assert found[0]["thing1"] == "ok"


@pytest.mark.parametrize("vendor", [TENCENT, ALIYUN], ids=["tencent", "aliyun"])
@pytest.mark.parametrize("several", [0, 30, 3])
def test_variables_of_sms_are_cut_to_the_parameter(render: Callable[..., Any], vendor: Any, several: int) -> None:
    n, most = several or 3, vendor.settings.param_code_points_max
    variant = Variant("t", "b")
    variants = [msgspec.structs.replace(variant, ttl_s=60 + index) for index in range(n)] if several else variant
    # A flag of two characters at the cut: it goes whole.
    flag = "长" * (most - 6) + "\U0001f1e8\U0001f1f3" * 9
    made = render(vendor, variants, tokens(vendor, n), variables={"a": ["ok", *[flag] * (n - 1)]})
    assert made.truncated == list(range(1, n))
    shown = [parameters(vendor, request) for request in sorted(made.requests, key=lambda one: one.rows)]
    first, second = list(shown[1].values())
    assert second == f"No. {first}"
    assert first == "长" * (most - 6) + "…"
    assert list(shown[0].values()) == ["ok", "No. ok"]


@pytest.mark.parametrize("several", [0, 30, 3])
def test_with_truncation_off_they_are_refused_with_field_and_reason(render: Callable[..., Any], several: int) -> None:
    n = several or 3
    variant = Variant("t", "b")
    variants = [msgspec.structs.replace(variant, ttl_s=60 + index) for index in range(n)] if several else variant
    values = ["1" * 8] * (n - 1) + ["1" * 9]
    made = render(TENCENT, variants, tokens(TENCENT, n), variables={"a": values}, may_cut=False)
    assert made.refused == [([n - 1], "vars.a", "vars.a is 9 code points, limit 8 (tencent_sms)")]
    assert sorted(row for request in made.requests for row in request.rows) == list(range(n - 1))
    assert made.truncated == []


def test_a_variable_that_stands_in_a_text_as_well_is_cut_in_its_parameter_alone(render: Callable[..., Any]) -> None:
    own = tencent_sms.TencentSms(
        msgspec.structs.replace(
            TENCENT.settings,
            templates={"default": TextTemplate(id="1", params={"1": "{{a}}", "2": "{{body}}"})},
            param_code_points_max=5,
        )
    )
    made = render(own, Variant("t", "{{a}}xyz"), tokens(TENCENT, 2), variables={"a": ["abcdefg", "ab"]})
    found = [json.loads(request.body)["TemplateParamSet"] for request in made.requests]
    assert found == [["abcd…", "abcd…"], ["ab", "abxyz"]]
    assert made.truncated == [0]
