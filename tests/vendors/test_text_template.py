"""text_template.py: which template a category has, and what stands in its parameters."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import msgspec
import pytest

from gateway.content import Variant
from vendors.aliyun_sms import AliyunSms, Settings
from vendors.text_template import TextTemplate, constant_text, parameter, template_of, uses

PARAMS = {"a": "{{title}}", "b": "<{{body}}> {{data.k}}", "c": "{{code}}", "d": 'const "q"'}
SETTINGS = Settings(
    access_key_id="ak",
    access_key_secret_file="s",
    sign_name="签名",
    templates={"default": TextTemplate(id="SMS_1", params=PARAMS), "bare": TextTemplate(id="SMS_2")},
)


def params_of(body: bytes) -> dict[str, str]:
    form = parse_qs(body.decode(), strict_parsing=True)
    found: dict[str, str] = json.loads(form["TemplateParam"][0])
    return found


def test_a_parameter_holds_texts_data_variables_and_constants(render: Callable[..., Any]) -> None:
    variant = Variant('T"', "B&=%", data={"k": "数{{code}}"})
    made = render(AliyunSms(SETTINGS), variant, ["13800000000"], variables={"code": ['1"2']})
    assert params_of(made.requests[0].body) == {
        "a": 'T"',
        "b": '<B&=%> 数1"2',
        "c": '1"2',
        "d": 'const "q"',
    }


@pytest.mark.parametrize(
    ("variant", "field"),
    [
        (Variant("t", "b"), "data"),
        (Variant("t", "b", data={"k": 1}), "vars"),
    ],
)
def test_what_a_template_asks_for_and_the_message_lacks_is_refused(
    render: Callable[..., Any], variant: Variant, field: str
) -> None:
    (refused,) = render(AliyunSms(SETTINGS), variant, ["13800000000"]).refused
    assert refused[1] == field


def test_a_category_has_its_own_template_or_the_default_one() -> None:
    templates = SETTINGS.templates
    assert template_of(templates, "bare") == templates["bare"]
    assert template_of(templates, "") == template_of(templates, "other") == templates["default"]
    assert template_of({}, "other") is None


def test_who_uses_a_text_and_what_is_constant() -> None:
    template = SETTINGS.templates["default"]
    assert (uses(template, "title"), uses(template, "body")) == (["a"], ["b"])
    variant = Variant("t", "b", data={"k": "v"})
    told = [parameter(text, variant, with_variables=True) for text in ("{{data.k}}!", "{{title}}", "plain")]
    assert [constant_text(one) for one in told if isinstance(one, str | msgspec.Raw)] == ["v!", None, "plain"]
