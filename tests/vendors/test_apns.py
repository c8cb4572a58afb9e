"""APNs: requests as in Apple's pages, and what each answer means."""

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
from vendors import apns
from vendors.apns import Apns, Settings

SETTINGS = Settings("DEF123GHIJ", "ABC123DEFG", "com.example.app", key_file="key.p8")
VENDOR = Apns(SETTINGS)


def template(variant: Variant, *, with_variables: bool = False) -> RequestTemplate:
    made = VENDOR.template(variant, with_variables=with_variables)
    assert isinstance(made, RequestTemplate)
    return made


def headers_of(made: RequestTemplate) -> dict[str, Any]:
    assert len({name for name, _ in made.headers}) == len(made.headers)
    return {name.decode(): value[0] if len(value) == 1 else value for name, value in made.headers}


def body_of(made: RequestTemplate) -> Any:
    """The body with each slot written as <name>."""
    return json.loads(
        b"".join(b"<" + part.name.encode() + b">" if isinstance(part, Slot) else part for part in made.body)
    )


def refusal(variant: Variant) -> Refusal:
    made = VENDOR.template(variant)
    assert isinstance(made, Refusal)
    return made


def raw(value: object) -> dict[str, msgspec.Raw]:
    return {"apns": msgspec.Raw(msgspec.json.encode(value))}


def test_the_example_of_the_fact_sheet_is_reproduced_field_for_field() -> None:
    made = template(
        Variant(
            title="Order shipped",
            body="Parcel 8841 left the depot",
            data={"order_id": "8841"},
            badge=3,
            category="ORDER",
            collapse_id="order-8841",
            image="https://cdn.example.com/a.png",
            raw=raw({"aps": {"thread-id": "orders"}}),
        )
    )
    assert made.path == (b"/3/device/", Slot("token"))
    assert headers_of(made) == {
        "authorization": Slot("authorization"),
        "apns-push-type": b"alert",
        "apns-topic": b"com.example.app",
        "apns-id": Slot("message_id"),
        "apns-expiration": Slot("expires_or_zero"),
        "apns-priority": b"10",
        "apns-collapse-id": Slot("collapse_id"),
        "content-type": b"application/json",
    }
    assert body_of(made) == {
        "aps": {
            "alert": {"title": "<title>", "body": "<body>"},
            "badge": 3,
            "sound": "default",
            "thread-id": "orders",
            "category": "ORDER",
            "mutable-content": 1,
        },
        "image": "https://cdn.example.com/a.png",
        "order_id": "8841",
        "message_id": "<message_id>",
    }


def test_data_keeps_its_json_types_and_click_is_an_object() -> None:
    made = template(
        Variant("t", "b", data={"a": 1, "b": True, "c": 1.5, "d": "x"}, click=Click("url", "https://x.cn/"))
    )
    body = body_of(made)
    assert [body[key] for key in "abcd"] == [1, True, 1.5, "x"]
    assert body["click"] == {"type": "url", "value": "https://x.cn/"}
    assert body_of(template(Variant("t", "b", click=Click("app"))))["click"] == {"type": "app"}


def test_normal_priority_is_5() -> None:
    assert headers_of(template(Variant("t", "b", priority="normal")))["apns-priority"] == b"5"


def test_variables_are_slots_only_where_the_batch_has_variables() -> None:
    variant = Variant("t", "b", data={"k": 'say "{{name}}"!'}, click=Click("url", "https://x.cn/{{id}}"))
    assert body_of(template(variant))["k"] == 'say "{{name}}"!'
    made = template(variant, with_variables=True)
    assert body_of(made)["k"] == 'say "<var:name>"!'
    assert body_of(made)["click"]["value"] == "https://x.cn/<var:id>"


def test_a_template_does_not_depend_on_texts_ttl_or_the_collapse_id_itself() -> None:
    one = template(Variant("t", "b", collapse_id="x", ttl_s=0))
    assert one == template(Variant("", "{{x}}" * 5000, collapse_id="y", ttl_s=99))
    assert one != template(Variant("t", "b"))


def test_raw_is_a_merge_patch_and_a_silent_push_becomes_background_with_priority_5() -> None:
    silent = {"aps": {"alert": None, "sound": None, "content-available": 1}}
    made = template(Variant("t", "b", raw=raw(silent)))
    assert body_of(made)["aps"] == {"content-available": 1}
    headers = headers_of(made)
    assert (headers["apns-push-type"], headers["apns-priority"]) == (b"background", b"5")


def test_a_live_activity_has_its_own_topic() -> None:
    made = template(Variant("t", "b", raw=raw({"aps": {"content-state": {"n": 1}, "event": "update"}})))
    headers = headers_of(made)
    assert headers["apns-push-type"] == b"liveactivity"
    assert headers["apns-topic"] == b"com.example.app.push-type.liveactivity"


# Section 1.3 of the fact sheet: push type, topic suffix, priorities; the first is what priority "high" becomes.
PUSH_TYPE_TABLE = """
alert - 10 5 1
background - 5
voip .voip 10 5 1
complication .complication 10 5 1
fileprovider .pushkit.fileprovider 10 5 1
location .location-query 10 5
liveactivity .push-type.liveactivity 10 5 1
pushtotalk .voip-ptt 10
widgets .push-type.widgets 10 5 1
controls .push-type.controls 10 5 1
mdm - 10 5 1
""".strip().splitlines()


@pytest.mark.parametrize("line", PUSH_TYPE_TABLE)
def test_each_push_type_has_its_topic_priorities_expiration_and_limit(line: str) -> None:
    name, suffix, *priorities = line.split()
    variant = Variant("t", "b", raw=raw({"apns-push-type": name}))
    made = template(variant)
    headers = headers_of(made)
    assert headers["apns-push-type"] == name.encode()
    assert headers["apns-topic"] == b"com.example.app" + suffix.replace("-", "", suffix == "-").encode()
    assert headers["apns-priority"] == priorities[0].encode()
    assert headers["apns-expiration"] == (b"0" if name == "pushtotalk" else Slot("expires_or_zero"))
    assert not body_of(made).keys() & {"apns-push-type", "apns-priority"}
    assert VENDOR.limits(variant).payload_bytes_max == (5120 if name == "voip" else 4096)
    normal = headers_of(template(Variant("t", "b", priority="normal", raw=raw({"apns-push-type": name}))))
    assert normal["apns-priority"] == (b"5" if "5" in priorities else priorities[0].encode())
    for priority in ("10", "5", "1", "7", "", [5]):
        tried = Variant("t", "b", raw=raw({"apns-push-type": name, "apns-priority": priority}))
        if priority in priorities:
            assert headers_of(template(tried))["apns-priority"] == str(priority).encode()
        else:
            assert refusal(tried).text.startswith("raw.apns key apns-priority is none of ")


def test_the_table_of_push_types_is_the_sheet_s() -> None:
    assert {line.split()[0].encode() for line in PUSH_TYPE_TABLE} == set(apns.PUSH_TYPES)


@pytest.mark.parametrize("named", ["alarm", "", 5, ["voip"], {"voip": 1}, "voip\n"])
def test_what_is_no_push_type_is_refused(named: object) -> None:
    variant = Variant("t", "b", raw=raw({"apns-push-type": named}))
    assert VENDOR.limits(variant).payload_bytes_max == 4096
    if named == "":
        assert headers_of(template(variant))["apns-push-type"] == b"alert"
    else:
        assert refusal(variant).text.startswith("raw.apns key apns-push-type is none of alert, ")


def test_a_priority_named_for_an_alert_goes_out() -> None:
    headers = headers_of(template(Variant("t", "b", raw=raw({"apns-priority": 1}))))
    assert headers["apns-priority"] == b"1"


def test_with_a_certificate_no_header_says_who_we_are_and_the_topic_still_goes_out() -> None:
    vendor = Apns(Settings(topic="com.example.app", certificate_file="c.pem"))
    made = vendor.template(Variant("t", "b"))
    assert isinstance(made, RequestTemplate)
    headers = headers_of(made)
    assert "authorization" not in headers
    assert headers["apns-topic"] == b"com.example.app"
    assert made._replace(headers=()) == template(Variant("t", "b"))._replace(headers=())
    assert vendor.template(Variant("t", "b", raw=raw({"apns-push-type": "location"}))) == Refusal(
        "raw", "push type location needs a key; this app has a certificate (apns)"
    )
    assert apns.secret_place(vendor.settings).file == "c.pem"
    with pytest.raises(ValueError, match="not a certificate"):
        apns.credential(vendor.settings, b"hunter2")


@pytest.mark.parametrize(
    ("variant", "field", "text"),
    [
        (Variant("t", "b", data={"aps": 1}), "data", "data key aps is taken (apns)"),
        (Variant("t", "b", data={"image": 1}, image="https://x.cn/"), "data", "data key image is taken (apns)"),
        (Variant("t", "b", raw=raw([1])), "raw", "raw.apns is not a JSON object"),
        (Variant("t", "b", raw={"apns": msgspec.Raw(b"{]")}), "raw", "raw.apns is not valid JSON"),
        (Variant("t", "b", raw=raw({"message_id": "x"})), "raw", "raw.apns key message_id is the gateway's own"),
        (
            Variant("t", "b", raw={"apns": msgspec.Raw(b'{"a":' + b"[" * 40 + b"]" * 40 + b"}")}),
            "raw",
            "raw.apns is nested deeper than 32 levels",
        ),
    ],
)
def test_what_cannot_be_sent_is_refused_with_field_and_text(variant: Variant, field: str, text: str) -> None:
    assert refusal(variant) == Refusal(field, text)


def test_raw_of_another_vendor_is_ignored() -> None:
    assert template(Variant("t", "b", raw={"fcm": msgspec.Raw(b"[")})) == template(Variant("t", "b"))


@pytest.mark.parametrize("token", ["ab" * 32, "AB" * 32, "0" * 400, "1" * 66])
def test_well_formed_tokens_are_taken(token: str) -> None:
    assert VENDOR.check_token(token) == ""


@pytest.mark.parametrize("token", ["", "ab" * 31, "a" * 65, "g" + "a" * 63, "a" * 402, "ab" * 31 + "a\n", "１" * 64])
def test_other_tokens_are_refused_without_being_quoted(token: str) -> None:
    text = VENDOR.check_token(token)
    assert text.startswith("token ")
    assert not token or token not in text


# Section 1.9 of the fact sheet, with the classes of section 0.1 mapped as DESIGN.md section 7 says.
ANSWER_TABLE = """
400 BadCollapseId REJECTED
400 BadDeviceToken TOKEN_DEAD
400 BadExpirationDate REJECTED
400 BadMessageId REJECTED
400 BadPriority REJECTED
400 InvalidPushType REJECTED
400 DuplicateHeaders REJECTED
400 PayloadEmpty REJECTED
400 MissingDeviceToken REJECTED
400 BadTopic CREDENTIAL
400 MissingTopic CREDENTIAL
400 TopicDisallowed CREDENTIAL
400 DeviceTokenNotForTopic TOKEN_DEAD
400 IdleTimeout UNAVAILABLE new_connection
403 BadCertificate CREDENTIAL
403 BadCertificateEnvironment CREDENTIAL
403 ExpiredProviderToken CREDENTIAL refreshable new_connection
403 InvalidProviderToken CREDENTIAL
403 MissingProviderToken CREDENTIAL refreshable
403 UnrelatedKeyIdInToken CREDENTIAL refreshable new_connection
403 BadEnvironmentKeyIdInToken CREDENTIAL
403 BadEnvironmentKeyInToken CREDENTIAL
403 Forbidden CREDENTIAL
404 BadPath REJECTED
405 MethodNotAllowed REJECTED
410 Unregistered TOKEN_DEAD
410 ExpiredToken TOKEN_DEAD
413 PayloadTooLarge REJECTED
429 TooManyProviderTokenUpdates THROTTLED
429 TooManyRequests THROTTLED
500 InternalServerError UNAVAILABLE
503 ServiceUnavailable UNAVAILABLE
503 Shutdown UNAVAILABLE new_connection
""".strip().splitlines()


@pytest.mark.parametrize("line", ANSWER_TABLE)
def test_each_documented_reason_has_its_verdict(line: str) -> None:
    status, reason, verdict, *marks = line.split()
    answer = VENDOR.classify(int(status), {}, json.dumps({"reason": reason}).encode())
    assert answer.verdict is Verdict[verdict]
    assert answer.name == reason
    assert answer.is_refreshable == ("refreshable" in marks)
    assert answer.needs_new_connection == ("new_connection" in marks)


def test_the_table_has_no_row_beyond_the_documented_ones() -> None:
    documented = {(int(line.split()[0]), line.split()[1]) for line in ANSWER_TABLE}
    assert set(apns.ANSWERS) == documented


def test_200_is_accepted_whatever_its_body() -> None:
    assert VENDOR.classify(200, {}, b"").verdict is Verdict.ACCEPTED
    assert VENDOR.classify(200, {}, b"garbage").verdict is Verdict.ACCEPTED


@pytest.mark.parametrize(
    ("timestamp", "expected"),
    [(1763690000000, 1763690000000), (None, None), ("1763690000000", None), (True, None), (-1, None), (1 << 60, None)],
)
def test_410_tells_since_when_the_token_is_dead(timestamp: object, expected: int | None) -> None:
    body = json.dumps({"reason": "Unregistered", "timestamp": timestamp}).encode()
    assert VENDOR.classify(410, {}, body).dead_since_unix_ms == expected


def test_throttling_is_of_the_device_or_of_the_credential() -> None:
    device = VENDOR.classify(429, {b"retry-after": b"7"}, b'{"reason":"TooManyRequests"}')
    assert (device.scope, device.retry_after_s) == (Scope.DEVICE, 7.0)
    updates = VENDOR.classify(429, {}, b'{"reason":"TooManyProviderTokenUpdates"}')
    assert (updates.scope, updates.retry_after_s) == (Scope.APP, 60.0)


@pytest.mark.parametrize(
    ("status", "verdict"),
    [(400, "REJECTED"), (403, "CREDENTIAL"), (410, "REJECTED"), (429, "THROTTLED"), (502, "UNAVAILABLE")],
)
def test_unknown_reasons_map_by_status_and_are_counted_by_name(status: int, verdict: str) -> None:
    answer = VENDOR.classify(status, {}, b'{"reason":"BrandNewReason"}')
    assert answer.verdict is Verdict[verdict]
    assert answer.name == "BrandNewReason"
    assert VENDOR.classify(status, {}, b'{"reason":"<script>\\n"}').name == f"http_{status}"


@given(
    st.integers(0, 999),
    st.dictionaries(st.sampled_from([b"retry-after", b"date"]), st.binary(max_size=40)),
    st.binary(max_size=80) | st.sampled_from([b'{"reason":[]}', b"[]", b'{"reason":"\xff"}', b"[" * 100_000]),
)
def test_classify_is_total_and_never_unregisters_a_token_for_unknown_answers(
    status: int, headers: dict[bytes, bytes], body: bytes
) -> None:
    answer = VENDOR.classify(status, headers, body)
    assert answer.verdict is not Verdict.TOKEN_DEAD
    assert (answer.verdict is Verdict.ACCEPTED) == (status == 200)


def test_hosts_follow_the_environment_unless_one_is_given() -> None:
    assert VENDOR.authority() == ("api.push.apple.com", 443)
    development = msgspec.structs.replace(SETTINGS, environment="development")
    assert Apns(development).authority() == ("api.sandbox.push.apple.com", 443)
    assert Apns(msgspec.structs.replace(SETTINGS, host="127.0.0.1", port=2197)).authority() == ("127.0.0.1", 2197)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"key_env": "ALSO"}, "exactly one of key_file and key_env"),
        ({"key_file": ""}, "exactly one of key_file and key_env"),
        ({"topic": ""}, "topic must be"),
        ({"team_id": ""}, "team_id must be"),
        ({"certificate_file": "c.pem"}, "with certificate_file there is no"),
        ({"certificate_key_file": "c.pem"}, "certificate_key_file needs certificate_file"),
        ({"token_life_s": 600}, "token_life_s is 600, expected 1500 to 3300"),
        ({"port": 0}, "port is 0"),
        ({"rate_per_s": 0}, "must be positive"),
        ({"secret": "x"}, "unknown field `secret`"),
    ],
)
def test_wrong_settings_are_refused(change: dict[str, Any], text: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=text):
        msgspec.convert({**msgspec.structs.asdict(SETTINGS), **change}, Settings)
