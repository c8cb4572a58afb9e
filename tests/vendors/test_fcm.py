"""FCM: requests as in Google's pages, and what each answer means."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.content import Click, Variant
from gateway.vendor import Refusal, RequestTemplate, Slot
from gateway.verdict import Scope, Verdict
from vendors.fcm import ANSWERS, Fcm, Settings

SETTINGS = Settings("my-proj", service_account_file="key.json")
VENDOR = Fcm(SETTINGS)
FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
QUOTA_FAILURE = "type.googleapis.com/google.rpc.QuotaFailure"


def template(variant: Variant, *, vendor: Fcm = VENDOR, with_variables: bool = False) -> RequestTemplate:
    made = vendor.template(variant, with_variables=with_variables)
    assert isinstance(made, RequestTemplate)
    return made


def body_of(made: RequestTemplate) -> Any:
    """The body with each slot written as <name>."""
    return json.loads(
        b"".join(b"<" + part.name.encode() + b">" if isinstance(part, Slot) else part for part in made.body)
    )


def raw(value: object) -> dict[str, msgspec.Raw]:
    return {"fcm": msgspec.Raw(msgspec.json.encode(value))}


def test_the_example_of_the_fact_sheet_is_reproduced_field_for_field() -> None:
    made = template(
        Variant(
            title="Order shipped",
            body="Parcel 8841 left the depot",
            image="https://cdn.example.com/a.png",
            data={"order_id": "8841"},
            ttl_s=86400,
            collapse_id="order-8841",
            category="orders",
            badge=3,
        )
    )
    assert made.path == (b"/v1/projects/my-proj/messages:send",)
    assert dict(made.headers) == {
        b"authorization": (Slot("authorization"),),
        b"content-type": (b"application/json; charset=UTF-8",),
    }
    message = body_of(made)["message"]
    section = message.pop("apns")
    assert message == {
        "token": "<token>",
        "notification": {"title": "<title>", "body": "<body>", "image": "https://cdn.example.com/a.png"},
        "data": {"order_id": "8841", "message_id": "<message_id>"},
        "android": {
            "priority": "HIGH",
            "ttl": "<ttl_left_s:2419200>s",
            "collapse_key": "<collapse_id>",
            "notification": {
                "channel_id": "orders",
                "tag": "<collapse_id>",
                "sound": "default",
                "notification_count": 3,
            },
        },
    }
    assert section == {
        "headers": {
            "apns-priority": "10",
            "apns-expiration": "<expires_or_zero>",
            "apns-collapse-id": "<collapse_id>",
        },
        "payload": {"aps": {"sound": "default", "badge": 3, "category": "orders", "mutable-content": 1}},
        "fcm_options": {"image": "https://cdn.example.com/a.png"},
    }


def test_data_values_are_strings_and_a_click_is_two_of_them() -> None:
    variant = Variant("t", "b", data={"a": 1, "b": True, "c": 1.5, "d": "{{x}}"}, click=Click("intent", "app://{{x}}"))
    message = body_of(template(variant, with_variables=True))["message"]
    assert message["data"] == {
        "message_id": "<message_id>",
        "click_type": "intent",
        "click_value": "app://<var:x>",
        "a": "1",
        "b": "true",
        "c": "1.5",
        "d": "<var:x>",
    }
    assert message["android"]["notification"]["click_action"] == "app://<var:x>"
    assert body_of(template(variant))["message"]["data"]["d"] == "{{x}}"


def test_a_template_does_not_depend_on_texts_ttl_or_the_collapse_id_itself() -> None:
    one = template(Variant("t", "b", collapse_id="x", ttl_s=0))
    assert one == template(Variant("", "{{x}}" * 5000, collapse_id="y", ttl_s=99))


def test_raw_is_a_merge_patch_over_the_message() -> None:
    variant = Variant(
        "t", "b", raw=raw({"notification": None, "android": {"direct_boot_ok": True}, "data": {"k": "v"}})
    )
    message = body_of(template(variant))["message"]
    assert "notification" not in message
    assert message["android"]["direct_boot_ok"] is True
    assert message["data"] == {"message_id": "<message_id>", "k": "v"}


def test_a_message_for_the_app_alone_shows_and_sounds_on_no_platform() -> None:
    variant = Variant("t", "b", badge=3, sound="ping", collapse_id="c", raw=raw({"notification": None}))
    message = body_of(template(variant))["message"]
    assert message == {
        "token": "<token>",
        "data": {"message_id": "<message_id>"},
        "android": {"priority": "HIGH", "ttl": "<ttl_left_s:2419200>s", "collapse_key": "<collapse_id>"},
        "apns": {
            "headers": {
                "apns-priority": "5",
                "apns-push-type": "background",
                "apns-expiration": "<expires_or_zero>",
                "apns-collapse-id": "<collapse_id>",
            },
            "payload": {"aps": {"content-available": 1}},
        },
    }


def test_browsers_get_a_section_of_their_own_where_the_project_has_any() -> None:
    vendor = Fcm(msgspec.structs.replace(SETTINGS, webpush=True))
    page = Click("url", "https://x.cn/{{id}}")
    message = body_of(template(Variant("t", "b", click=page, priority="normal"), vendor=vendor, with_variables=True))
    assert message["message"]["webpush"] == {
        "headers": {"TTL": "<ttl_left_s:2419200>", "Urgency": "normal"},
        "fcm_options": {"link": "https://x.cn/<var:id>"},
    }
    for click in (None, Click("url", "http://x.cn/"), Click("app")):
        made = template(Variant("t", "b", click=click), vendor=vendor)
        assert "fcm_options" not in body_of(made)["message"]["webpush"]
    assert "webpush" not in body_of(template(Variant("t", "b")))["message"]


def test_a_missing_apns_key_of_the_project_blames_no_credential_of_ours() -> None:
    for code in ("THIRD_PARTY_AUTH_ERROR", "APNS_AUTH_ERROR"):
        answer = VENDOR.classify(401, {}, error_body("UNAUTHENTICATED", fcm_error(code)))
        assert answer.scope is Scope.DEVICE
    assert VENDOR.classify(403, {}, error_body("PERMISSION_DENIED")).scope is Scope.APP


def test_validate_only_asks_for_a_dry_run() -> None:
    vendor = Fcm(msgspec.structs.replace(SETTINGS, validate_only=True))
    assert body_of(template(Variant("t", "b"), vendor=vendor))["validate_only"] is True
    assert "validate_only" not in body_of(template(Variant("t", "b")))


@pytest.mark.parametrize(
    ("variant", "field", "text"),
    [
        (Variant("t", "b", data={"from": 1}), "data", "data key from is reserved (fcm)"),
        (Variant("t", "b", data={"message_type": 1}), "data", "data key message_type is reserved (fcm)"),
        (Variant("t", "b", data={"google.x": 1}), "data", "data key google.x is reserved (fcm)"),
        (Variant("t", "b", data={"gcm_y": 1}), "data", "data key gcm_y is reserved (fcm)"),
        (Variant("t", "b", data={"click_type": 1}, click=Click("app")), "data", "data key click_type is taken (fcm)"),
        (Variant("t", "b", raw=raw("x")), "raw", "raw.fcm is not a JSON object"),
        (Variant("t", "b", raw=raw({"topic": "x"})), "raw", "raw.fcm key topic is the gateway's own"),
        (
            Variant("t", "b", raw=raw({"data": {"message_id": None}})),
            "raw",
            "raw.fcm key data must be an object without message_id",
        ),
        (
            Variant("t", "b", raw=raw({"android": {"data": {}}})),
            "raw",
            "raw.fcm key android.data hides message_id; use data",
        ),
    ],
)
def test_what_cannot_be_sent_is_refused_with_field_and_text(variant: Variant, field: str, text: str) -> None:
    assert VENDOR.template(variant) == Refusal(field, text)


@pytest.mark.parametrize("token", ["cX9fake_instance0id:APA91bFAKEfakeTOKEN-_00", "x"])
def test_well_formed_tokens_are_taken(token: str) -> None:
    assert VENDOR.check_token(token) == ""


@pytest.mark.parametrize("token", ["", 'a"b', "a\\b", "a b", "a\n", "令牌", "x" * 1025])
def test_other_tokens_are_refused_without_being_quoted(token: str) -> None:
    text = VENDOR.check_token(token)
    assert text.startswith("token ")
    assert not token or token not in text


def error_body(status: str, *details: dict[str, Any], message: str = "") -> bytes:
    return json.dumps({"error": {"code": 0, "message": message, "status": status, "details": list(details)}}).encode()


def fcm_error(code: str) -> dict[str, Any]:
    return {"@type": FCM_ERROR, "errorCode": code}


def violations(*fields: str) -> dict[str, Any]:
    return {"@type": BAD_REQUEST, "fieldViolations": [{"field": field, "description": "x"} for field in fields]}


BAD_TOKEN = "The registration token is not a valid FCM registration token"
# Section 2.9 of the fact sheet: status, body, verdict, name, refreshable, wait.
ANSWER_TABLE: list[tuple[int, bytes, str, str, bool, float | None]] = [
    (
        400,
        error_body("INVALID_ARGUMENT", fcm_error("INVALID_ARGUMENT"), message=BAD_TOKEN),
        "TOKEN_DEAD",
        "INVALID_ARGUMENT_token",
        False,
        None,
    ),
    (
        400,
        error_body("INVALID_ARGUMENT", violations("message.token")),
        "TOKEN_DEAD",
        "INVALID_ARGUMENT_token",
        False,
        None,
    ),
    (
        400,
        error_body("INVALID_ARGUMENT", violations("message.data[0].value")),
        "REJECTED",
        "INVALID_ARGUMENT",
        False,
        None,
    ),
    (
        400,
        error_body(
            "INVALID_ARGUMENT", fcm_error("INVALID_ARGUMENT"), violations("message.android.ttl"), message=BAD_TOKEN
        ),
        "REJECTED",
        "INVALID_ARGUMENT",
        False,
        None,
    ),
    (400, error_body("INVALID_ARGUMENT", message="Message is too big"), "REJECTED", "INVALID_ARGUMENT", False, None),
    (401, error_body("UNAUTHENTICATED"), "CREDENTIAL", "UNAUTHENTICATED", True, None),
    (
        401,
        error_body("UNAUTHENTICATED", fcm_error("THIRD_PARTY_AUTH_ERROR")),
        "CREDENTIAL",
        "THIRD_PARTY_AUTH_ERROR",
        False,
        None,
    ),
    (401, error_body("UNAUTHENTICATED", fcm_error("APNS_AUTH_ERROR")), "CREDENTIAL", "APNS_AUTH_ERROR", False, None),
    (
        403,
        error_body("PERMISSION_DENIED", fcm_error("SENDER_ID_MISMATCH")),
        "TOKEN_DEAD",
        "SENDER_ID_MISMATCH",
        False,
        None,
    ),
    (403, error_body("PERMISSION_DENIED"), "CREDENTIAL", "PERMISSION_DENIED", False, None),
    (404, error_body("NOT_FOUND", fcm_error("UNREGISTERED")), "TOKEN_DEAD", "UNREGISTERED", False, None),
    (404, error_body("NOT_FOUND"), "CREDENTIAL", "NOT_FOUND", False, None),
    (429, error_body("RESOURCE_EXHAUSTED", fcm_error("QUOTA_EXCEEDED")), "THROTTLED", "QUOTA_EXCEEDED", False, None),
    (429, error_body("RESOURCE_EXHAUSTED"), "THROTTLED", "RESOURCE_EXHAUSTED", False, None),
    (500, error_body("INTERNAL", fcm_error("INTERNAL")), "UNAVAILABLE", "INTERNAL", False, None),
    (503, error_body("UNAVAILABLE", fcm_error("UNAVAILABLE")), "UNAVAILABLE", "UNAVAILABLE", False, None),
    (418, error_body("X", fcm_error("UNSPECIFIED_ERROR")), "UNAVAILABLE", "UNSPECIFIED_ERROR", False, None),
]


@pytest.mark.parametrize(("status", "body", "verdict", "name", "is_refreshable", "wait_s"), ANSWER_TABLE)
def test_each_documented_error_has_its_verdict(
    status: int, body: bytes, verdict: str, name: str, is_refreshable: bool, wait_s: float | None
) -> None:
    answer = VENDOR.classify(status, {}, body)
    assert answer.verdict is Verdict[verdict]
    assert (answer.name, answer.is_refreshable, answer.retry_after_s) == (name, is_refreshable, wait_s)


def test_every_row_of_the_table_is_reached_by_a_documented_error() -> None:
    reached = {(status, name) for status, _, _, name, _, _ in ANSWER_TABLE}
    assert {key for key in ANSWERS if key not in reached} == {(429, "QUOTA_EXCEEDED_device")}


def test_a_quota_failure_that_names_the_device_waits_for_that_device_only() -> None:
    failure = {"@type": QUOTA_FAILURE, "violations": [{"subject": "device:x", "description": "Device message rate"}]}
    answer = VENDOR.classify(429, {}, error_body("RESOURCE_EXHAUSTED", fcm_error("QUOTA_EXCEEDED"), failure))
    assert (answer.name, answer.scope) == ("QUOTA_EXCEEDED_device", Scope.DEVICE)
    failure["violations"] = [{"subject": "project:x", "description": "Messages per minute"}]
    answer = VENDOR.classify(429, {}, error_body("RESOURCE_EXHAUSTED", fcm_error("QUOTA_EXCEEDED"), failure))
    assert (answer.name, answer.scope) == ("QUOTA_EXCEEDED", Scope.APP)


def test_retry_after_is_obeyed_and_else_the_policy_s_backoff_grows() -> None:
    """Google wants 10 s before the first retry (retry_first_s), a minute after a 429 (retry.throttled_s), then more."""
    body = error_body("UNAVAILABLE", fcm_error("UNAVAILABLE"))
    assert VENDOR.classify(503, {b"retry-after": b"120"}, body).retry_after_s == 120.0
    assert VENDOR.classify(429, {b"retry-after": b"7"}, b"no json").retry_after_s == 7.0
    assert VENDOR.classify(429, {}, b"no json").retry_after_s is None
    assert SETTINGS.retry_first_s == 10.0


def test_200_is_accepted() -> None:
    assert VENDOR.classify(200, {}, b'{"name":"projects/p/messages/1"}').verdict is Verdict.ACCEPTED


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from([FCM_ERROR, "INVALID_ARGUMENT"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["@type", "errorCode", "status", "details", "message", "fieldViolations", "field"]), inner
        )
    ),
    max_leaves=10,
)


@given(
    st.integers(0, 999),
    st.dictionaries(st.sampled_from([b"retry-after", b"date"]), st.binary(max_size=40)),
    st.binary(max_size=80) | json_values.map(lambda error: json.dumps({"error": error}).encode()),
)
def test_classify_is_total(status: int, headers: dict[bytes, bytes], body: bytes) -> None:
    answer = VENDOR.classify(status, headers, body)
    assert (answer.verdict is Verdict.ACCEPTED) == (status == 200)
    assert len(answer.name) <= 64


@given(st.integers(0, 999), st.text(st.characters(codec="ascii"), max_size=20))
def test_an_unknown_code_never_unregisters_a_token(status: int, code: str) -> None:
    answer = VENDOR.classify(status, {}, error_body("x", fcm_error(f"NEW{code}")))
    assert answer.verdict is not Verdict.TOKEN_DEAD


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"service_account_env": "ALSO"}, "exactly one of service_account_file and service_account_env"),
        ({"project_id": "a/b"}, "project_id must be"),
        ({"project_id": ""}, "project_id must be"),
        ({"port": 70000}, "port is 70000"),
        ({"burst": 0}, "must be positive"),
        ({"retry_first_s": 0}, "retry_first_s is 0"),
        ({"key": "x"}, "unknown field `key`"),
    ],
)
def test_wrong_settings_are_refused(change: dict[str, Any], text: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=text):
        msgspec.convert({**msgspec.structs.asdict(SETTINGS), **change}, Settings)
