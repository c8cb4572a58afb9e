"""Content: each rule of form at its limit, one step beyond it, and in words a caller can mend his request from."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.content import (
    BADGE_MAX,
    COLLAPSE_ID_BYTES_MAX,
    DATA_BYTES_MAX,
    DATA_KEYS_MAX,
    NAME_BYTES_MAX,
    REGION_CHANNELS,
    STRATEGY_CHANNELS,
    TEXT_BYTES_MAX,
    TTL_S_MAX,
    URL_BYTES_MAX,
    Click,
    FallbackStep,
    Fault,
    Texts,
    Variant,
    check_variant,
    fallback_variables,
    template_parts,
    variable_names,
)
from gateway.core.options import AppDefaults, compile_options
from gateway.ledger import VENDOR_CHANNELS
from gateway.regions import VENDORS


def variant(**fields: object) -> Variant:
    return Variant(**{"title": "t", "body": "b", **fields})  # type: ignore[arg-type]


GOOD = [
    {},
    {"title": "", "body": ""},
    {"title": "中" * (TEXT_BYTES_MAX // 3)},
    {"body": "b" * TEXT_BYTES_MAX},
    {"body": "line\nline\ttab"},
    {"ttl_s": 0},
    {"ttl_s": TTL_S_MAX},
    {"strategy": 4},
    {"strategy": {"default": 1, "apns": 2, "long_link": 3}},
    {"strategy": {}},
    {"badge": 0},
    {"badge": BADGE_MAX},
    {"collapse_id": "c" * COLLAPSE_ID_BYTES_MAX},
    {"category": "news", "sound": "x.caf", "plan_id": "spring"},
    {"custom_callback": '{"order":\n"春"}' + 239 * "x"},
    {"image": "https://example.org/a.png"},
    {"image": "http://[2001:db8::1]:8080/a?b=c#d"},
    {"data": {f"k{index}": index for index in range(DATA_KEYS_MAX)}},
    {"data": {"k": "v" * (DATA_BYTES_MAX - 1)}},
    {"data": {"a": True, "b": 1.5, "c": -(2**63), "d": "line\n"}},
    {"click": Click("app")},
    {"click": Click("url", "https://example.org")},
    {"click": Click("url", "{{link}}")},
    {"click": Click("intent", "intent://x")},
    {"click": Click("payload", "{}")},
    {"action": "transmission"},
    {"title": "a\tb\r\nc", "body": "\u200fשלום\u200e \u2067x\u2069"},
    {"texts": {"vivo": Texts("t"), "long_link": Texts(body="")}},
    {"action": "revoke", "collapse_id": "o-1", "strategy": 3},
    {"action": "badge", "badge": 0, "strategy": {"default": 3}},
]

BAD = [
    ({"title": "b" * (TEXT_BYTES_MAX + 1)}, "title", "title is 65537 bytes, limit 65536"),
    ({"body": "中" * (TEXT_BYTES_MAX // 3 + 1)}, "body", "body is 65538 bytes, limit 65536"),
    ({"title": "a\x00b"}, "title", "title holds a NUL character at 1"),
    ({"title": "a\x1b[1m"}, "title", "title holds a control character at 1"),
    ({"body": "a\n\t\x7f"}, "body", "body holds a control character at 3"),
    ({"body": "pay\u202egpj.exe"}, "body", "body holds a sign that overrides the direction of text at 3"),
    ({"texts": {"fax": Texts("t")}}, "texts", "texts names 'fax', which is no channel"),
    ({"texts": {"default": Texts("t")}}, "texts", "texts names 'default', which is no channel"),
    ({"texts": {"vivo": Texts(body="\x00")}}, "texts.vivo.body", "texts.vivo.body holds a NUL character at 0"),
    ({"body": "a\ud800"}, "body", "body holds a lone surrogate at character 1"),
    ({"ttl_s": -1}, "ttl_s", "ttl_s is -1, expected 0 to 3456000"),
    ({"ttl_s": TTL_S_MAX + 1}, "ttl_s", "ttl_s is 3456001, expected 0 to 3456000"),
    ({"strategy": 5}, "strategy", "strategy of default is 5, expected 1, 2, 3 or 4"),
    ({"strategy": -1}, "strategy", "strategy of default is -1, expected 1, 2, 3 or 4"),
    ({"strategy": {"apns": 0}}, "strategy", "strategy of apns is 0, expected 1, 2, 3 or 4"),
    ({"strategy": {"nobody": 1}}, "strategy", "strategy names 'nobody', which is no channel"),
    ({"strategy": {"none": 1}}, "strategy", "strategy names 'none', which is no channel"),
    ({"badge": -1}, "badge", "badge is -1, expected 0 to 99999"),
    ({"badge": BADGE_MAX + 1}, "badge", "badge is 100000, expected 0 to 99999"),
    ({"collapse_id": "中" * 22}, "collapse_id", "collapse_id is 66 bytes, limit 64"),
    ({"collapse_id": "a\r\nb"}, "collapse_id", "collapse_id holds a control character"),
    ({"category": "c" * (NAME_BYTES_MAX + 1)}, "category", "category is 129 bytes, limit 128"),
    ({"sound": "a\x7f"}, "sound", "sound holds a control character"),
    ({"plan_id": "\t"}, "plan_id", "plan_id holds a control character"),
    ({"custom_callback": 257 * "x"}, "custom_callback", "custom_callback is 257 bytes, limit 256"),
    ({"image": "ftp://example.org/a"}, "image", "image is not an http or https URL"),
    ({"image": "https://"}, "image", "image is not an http or https URL"),
    ({"image": "https://a b/"}, "image", "image is not an http or https URL"),
    ({"image": "http://[::1"}, "image", "image is not an http or https URL"),
    ({"image": "https://e/" + "a" * URL_BYTES_MAX}, "image", "image is 2058 bytes, limit 2048"),
    ({"image": "https://e/\nx"}, "image", "image holds a control character"),
    ({"data": {f"k{index}": 1 for index in range(DATA_KEYS_MAX + 1)}}, "data", "data has 65 keys, limit 64"),
    ({"data": {"message_id": "x"}}, "data", "data key message_id is the gateway's own"),
    ({"data": {"k": "v" * DATA_BYTES_MAX}}, "data", "data is 32769 bytes, limit 32768"),
    ({"data": {"k\n": "v"}}, "data", "data holds a control character"),
    ({"data": {"k": "\x00"}}, "data", "data holds a NUL character at 0"),
    ({"data": {"k": math.nan}}, "data", "data holds a number that JSON has no form for"),
    ({"data": {"k": -math.inf}}, "data", "data holds a number that JSON has no form for"),
    ({"click": Click("url", "javascript:1")}, "click", "click.value is not an http or https URL"),
    ({"click": Click("intent")}, "click", "click of type intent needs a value"),
    ({"action": "revoke"}, "collapse_id", "action revoke needs collapse_id, or data.revokes with a message id"),
    ({"action": "badge"}, "badge", "action badge needs badge"),
    *(
        ({"action": "transmission", "strategy": strategy}, "strategy", text)
        for strategy in (1, {"default": 3, "apns": 2})
        for text in ("action transmission goes over the long link only: strategy 3, or none",)
    ),
    ({"click": Click("payload", "x" * (URL_BYTES_MAX + 1))}, "click", "click is 2049 bytes, limit 2048"),
]


@pytest.mark.parametrize("fields", GOOD, ids=lambda fields: "-".join(fields) or "bare")
def test_a_good_variant_has_no_fault(fields: dict[str, object]) -> None:
    assert check_variant(variant(**fields)) is None


@pytest.mark.parametrize(("fields", "field", "text"), BAD, ids=[text[:40] for _, _, text in BAD])
def test_a_faulty_variant_is_refused_with_field_and_reason(fields: dict[str, object], field: str, text: str) -> None:
    assert check_variant(variant(**fields)) == Fault(field, text)


def test_the_first_of_several_faults_is_told() -> None:
    assert check_variant(variant(title="\x00", ttl_s=-1)).field == "title"


def test_a_strategy_may_name_every_channel_there_is_and_the_rest() -> None:
    assert {"default", "long_link", *VENDORS} == STRATEGY_CHANNELS
    assert set(VENDOR_CHANNELS) - VENDORS == REGION_CHANNELS


class _Rows:
    """What `compile_options` reads of a batch."""

    def __init__(self, variants: list[Variant]) -> None:
        self.variants = variants


@given(
    st.integers(-1, 5)
    | st.dictionaries(st.sampled_from(sorted(STRATEGY_CHANNELS)) | st.text(max_size=3), st.integers(-1, 5), max_size=4)
)
def test_what_the_door_lets_in_the_router_can_compile(strategy: int | dict[str, int]) -> None:
    made = variant(strategy=strategy)
    if check_variant(made) is None:
        options = compile_options(_Rows([made]), AppDefaults())  # type: ignore[arg-type]
        assert set(options.strategies[0].tolist()) <= {1, 2, 3, 4}


def test_a_fault_quotes_a_long_name_only_in_part() -> None:
    fault = check_variant(variant(strategy={"x" * 10_000: 1}))
    assert fault is not None
    assert len(fault.text) < 200


scalars = st.text(max_size=5) | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.booleans()


@given(
    st.builds(
        Variant,
        title=st.text(max_size=5),
        body=st.text(max_size=5),
        data=st.none() | st.dictionaries(st.text(max_size=4), scalars, max_size=4),
        ttl_s=st.integers(-10, TTL_S_MAX + 10),
        collapse_id=st.text(max_size=30),
        image=st.text(max_size=20) | st.text(max_size=10).map("https://".__add__),
        click=st.none() | st.builds(Click, st.sampled_from(["app", "url", "intent", "payload"]), st.text(max_size=9)),
    )
)
def test_check_is_total_and_what_passes_survives_json(made: Variant) -> None:
    if check_variant(made) is None:
        text = msgspec.json.encode(made)
        assert msgspec.json.decode(text, type=Variant) == made


def test_a_variant_refuses_fields_it_does_not_know() -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.json.decode(b'{"title":"","body":"","tll_s":5}', type=Variant)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"title":"","body":"","class":"ads"}', type=Variant)


# Variables


@given(st.lists(st.sampled_from(["{{a}}", "{{b.c-d_1}}", "{{", "}}", "{", "x", "{{ }}", "{{}}", "中"]), max_size=10))
def test_template_parts_join_to_the_text_again(pieces: list[str]) -> None:
    text = "".join(pieces)
    parts = template_parts(text)
    assert len(parts) % 2 == 1
    assert "".join(f"{{{{{part}}}}}" if index % 2 else part for index, part in enumerate(parts)) == text
    assert frozenset(parts[1::2]) == variable_names(variant(title=text, body=""))


@pytest.mark.parametrize(
    ("text", "names"),
    [("{{a}}", {"a"}), ("{{a}}{{a}}{{b}}", {"a", "b"}), ("{{" + "a" * 65 + "}}", set()), ("{{a b}}", set())],
)
def test_variable_names_are_those_in_double_braces(text: str, names: set[str]) -> None:
    assert variable_names(variant(title=text)) == names


def test_variables_are_looked_for_in_every_text_a_device_sees() -> None:
    made = variant(
        title="{{a}}",
        body="{{b}}",
        data={"k": "{{c}}", "n": 1},
        click=Click("payload", "{{d}}"),
        category="{{no}}",
        collapse_id="{{no}}",
    )
    assert variable_names(made) == {"a", "b", "c", "d"}


SMS = FallbackStep("aliyun_sms", 600, "phone")


@pytest.mark.parametrize(
    ("steps", "fields", "text"),
    [
        ((FallbackStep("pager", 600),), {}, "'pager', which is no channel of a vendor"),
        ((FallbackStep("long_link", 600),), {}, "'long_link', which is no channel of a vendor"),
        ((FallbackStep("fcm", 0),), {}, "after 0 s, expected above 0 and below ttl_s"),
        ((SMS,), {"ttl_s": 600}, "after 600 s, expected above 0 and below ttl_s"),
        ((SMS, FallbackStep("fcm", 600)), {}, "fcm after 600 s, expected above 600"),
        ((SMS, FallbackStep("aliyun_sms", 700)), {}, "names a channel twice"),
        ((FallbackStep("fcm", 1, "a b"),), {}, "not the name of a variable"),
        (tuple(FallbackStep("fcm", n) for n in range(1, 5)), {}, "4 steps, limit 3"),
        ((SMS,), {"action": "transmission"}, "goes over the long link only"),
    ],
)
def test_a_chain_that_leads_nowhere_is_refused(
    steps: tuple[FallbackStep, ...], fields: dict[str, Any], text: str
) -> None:
    fault = check_variant(Variant("t", "b", fallback=steps, **fields))
    assert fault is not None
    assert fault.field == "fallback"
    assert text in fault.text


def test_a_chain_names_its_variables_and_travels_as_written() -> None:
    variant = Variant("t", "b", fallback=(SMS, FallbackStep("fcm", 700)))
    assert check_variant(variant) is None
    assert fallback_variables(variant) == {"phone"}
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(variant), type=Variant) == variant
    assert b"fallback" not in msgspec.msgpack.encode(Variant("t", "b"))
