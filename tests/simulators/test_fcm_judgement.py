"""The FCM simulator's answers, asked with httpx over HTTP/2 and HTTP/1.1."""

from __future__ import annotations

import hashlib
import json
import uuid

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
SEND = "/v1/projects/sim-project/messages:send"
TOKEN = "cX9fake_instance0id:APA91bFAKEfakeTOKEN-_00"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"


def _post(client, access_token, body, path=SEND, **headers):
    headers = {"authorization": f"Bearer {access_token}", "content-type": "application/json"} | headers
    return client.post(path, content=body, headers=headers)


def _codes(response):
    """(errorCode or None, violated fields or None) of an error body, whose outer form is checked."""
    error = response.json()["error"]
    assert error["code"] == response.status_code
    assert error["message"]
    details = {detail["@type"]: detail for detail in error.get("details", [])}
    code = details.get(FCM_ERROR, {}).get("errorCode")
    violations = details.get(BAD_REQUEST, {}).get("fieldViolations")
    return code, None if violations is None else [violation["field"] for violation in violations]


@pytest.mark.parametrize("is_http2", [True, False])
def test_fcm_accepts_a_message_over_both_versions_of_http(running, make_message, is_http2):
    message_id = uuid.uuid4()
    body = make_message(notification={"title": "标题", "body": "Text"}, data={"message_id": str(message_id), "n": "1"})
    with running.httpx("fcm", is_http2=is_http2) as client:
        answer = client.post("/token", data={"grant_type": GRANT, "assertion": running.assertion()})
        token = answer.json()
        response = _post(client, token["access_token"], body)
    assert (token["expires_in"], token["token_type"]) == (3599, "Bearer")
    assert response.http_version == ("HTTP/2" if is_http2 else "HTTP/1.1")
    assert response.status_code == 200
    assert response.json()["name"].startswith("projects/sim-project/messages/0:")
    [row] = running.received("fcm")
    assert row["message_id"] == message_id.hex
    assert row["sha256"] == hashlib.sha256("标题".encode() + b"\x00" + b"Text").hexdigest()
    assert row["target"] == hashlib.sha256(TOKEN.encode()).hexdigest()[:32]
    assert running.statistics("fcm")["outcomes"] == {"oauth": 1, "accepted": 1}


# path of the change, value -> status, FcmError code, violated fields
FAULTS = {
    "no target": ({"token": None}, "INVALID_ARGUMENT", ["message"]),
    "two targets": ({"topic": "news"}, None, ["message"]),
    "token is a number": ({"token": 1}, None, ["message.token"]),
    "token too short": ({"token": "abc"}, "INVALID_ARGUMENT", None),
    "token with a space": ({"token": "x " * 20}, "INVALID_ARGUMENT", None),
    "unknown field": ({"alert": {}}, None, ["message"]),
    "unknown field below": ({"notification": {"titel": "x"}}, None, ["message.notification"]),
    "title is a number": ({"notification": {"title": 1}}, None, ["message.notification.title"]),
    "notification is a list": ({"notification": []}, None, ["message.notification"]),
    "data value is a number": ({"data": {"a": "x", "n": 1}}, None, ["message.data[1].value"]),
    "data is a list": ({"data": []}, None, ["message.data"]),
    "reserved key from": ({"data": {"from": "x"}}, "INVALID_ARGUMENT", ["message.data"]),
    "reserved key google": ({"data": {"google.x": "x"}}, "INVALID_ARGUMENT", ["message.data"]),
    "reserved key gcm": ({"data": {"gcm_x": "x"}}, "INVALID_ARGUMENT", ["message.data"]),
    "reserved key in android": (
        {"android": {"data": {"message_type": "x"}}},
        "INVALID_ARGUMENT",
        ["message.android.data"],
    ),
    "ttl as a number": ({"android": {"ttl": 3600}}, None, ["message.android.ttl"]),
    "ttl without s": ({"android": {"ttl": "3600"}}, None, ["message.android.ttl"]),
    "ttl beyond four weeks": ({"android": {"ttl": "2419201s"}}, "INVALID_ARGUMENT", ["message.android.ttl"]),
    "negative ttl": ({"android": {"ttl": "-1s"}}, "INVALID_ARGUMENT", ["message.android.ttl"]),
    "priority of apns": ({"android": {"priority": "10"}}, None, ["message.android.priority"]),
    "badge as text": (
        {"android": {"notification": {"notification_count": "many"}}},
        None,
        ["message.android.notification.notification_count"],
    ),
    "negative badge": (
        {"android": {"notification": {"notification_count": -1}}},
        "INVALID_ARGUMENT",
        ["message.android.notification.notification_count"],
    ),
    "colour by name": (
        {"android": {"notification": {"color": "red"}}},
        "INVALID_ARGUMENT",
        ["message.android.notification.color"],
    ),
    "sticky as text": ({"android": {"notification": {"sticky": "yes"}}}, None, ["message.android.notification.sticky"]),
    "apns header as number": ({"apns": {"headers": {"apns-priority": 10}}}, None, ["message.apns.headers[0].value"]),
    "aps is text": ({"apns": {"payload": {"aps": "x"}}}, "INVALID_ARGUMENT", ["message.apns.payload"]),
    "link without tls": (
        {"webpush": {"fcm_options": {"link": "http://x"}}},
        "INVALID_ARGUMENT",
        ["message.webpush.fcm_options.link"],
    ),
    "label with a space": (
        {"fcm_options": {"analytics_label": "a b"}},
        "INVALID_ARGUMENT",
        ["message.fcm_options.analytics_label"],
    ),
    "both spellings": ({"android": {"collapseKey": "a", "collapse_key": "b"}}, None, ["message.android"]),
    "malformed topic": ({"token": None, "topic": "/topics/news"}, "INVALID_ARGUMENT", ["message.topic"]),
    "malformed condition": ({"token": None, "condition": "news"}, "INVALID_ARGUMENT", ["message.condition"]),
    "two faults": ({"x": 1, "notification": {"title": 1}}, None, ["message.notification.title", "message"]),
}


def test_fcm_refuses_each_faulty_message_with_googles_details(running, make_message):
    access_token = running.access_token()
    with running.httpx("fcm") as client:
        for case, (changes, code, fields) in FAULTS.items():
            response = _post(client, access_token, make_message(**changes))
            assert response.status_code == 400, case
            assert response.json()["error"]["status"] == "INVALID_ARGUMENT", case
            assert _codes(response) == (code, fields), case
    assert running.received("fcm") == []
    assert running.statistics("fcm")["reasons"] == {"400 INVALID_ARGUMENT": len(FAULTS)}


def test_fcm_words_unknown_names_and_wrong_values_as_google_does(running, make_message):
    access_token = running.access_token()
    with running.httpx("fcm") as client:
        unknown = _post(client, access_token, make_message(notification={"titel": "x"})).json()["error"]
        wrong = _post(client, access_token, make_message(data={"n": 123})).json()["error"]
        token = _post(client, access_token, make_message(token="abc")).json()["error"]
    text = "Invalid JSON payload received. Unknown name \"titel\" at 'message.notification': Cannot find field."
    assert unknown["message"] == text
    assert wrong["message"] == "Invalid value at 'message.data[0].value' (TYPE_STRING), 123"
    assert "not a valid FCM registration token" in token["message"]


def test_fcm_refuses_bodies_that_are_no_message(running, make_message):
    access_token = running.access_token()
    with running.httpx("fcm") as client:
        for body in (b"", b"{", b"[]", b"{}", b'{"message":null}', b'{"massage":{}}', b'{"message":{"token":"\xff"}}'):
            response = _post(client, access_token, body)
            assert response.status_code == 400, body
            _codes(response)
        form = _post(client, access_token, make_message(), **{"content-type": "text/plain"})
    assert form.status_code == 400


GOOD = {
    "camel case": {"android": {"collapseKey": "x", "directBootOk": True, "notification": {"channelId": "c"}}},
    "snake case": {"android": {"collapse_key": "x", "direct_boot_ok": True, "notification": {"channel_id": "c"}}},
    "everything android": {
        "android": {
            "priority": "high",
            "ttl": "0s",
            "restricted_package_name": "com.example",
            "data": {"a": "b"},
            "notification": {
                "title": "t",
                "color": "#a0B1c2",
                "notification_priority": "PRIORITY_MAX",
                "vibrate_timings": ["0.5s", "1s"],
                "event_time": "2026-01-01T00:00:00Z",
                "light_settings": {"color": {"red": 1}, "light_on_duration": "1s"},
                "title_loc_args": ["a"],
                "proxy": "ALLOW",
                "visibility": "PRIVATE",
                "notification_count": 3,
            },
            "fcm_options": {"analytics_label": "a-b"},
        }
    },
    "everything apns": {
        "apns": {
            "headers": {"apns-priority": "10"},
            "payload": {"aps": {"badge": 1}, "x": [1]},
            "live_activity_token": "t",
            "fcm_options": {"image": "https://x"},
        }
    },
    "webpush": {"webpush": {"headers": {"TTL": "1"}, "notification": {"x": 1}, "fcm_options": {"link": "https://x"}}},
    "null is absent": {"android": None, "webpush": None},
    "longest ttl": {"android": {"ttl": "2419200s"}},
    "topic": {"token": None, "topic": "news"},
    "condition": {"token": None, "condition": "'a' in topics && 'b' in topics"},
    "fid": {"token": None, "fid": "cX9fake_instance0id-22"},
}


def test_fcm_accepts_what_google_documents(running, make_message):
    access_token = running.access_token()
    with running.httpx("fcm") as client:
        for case, changes in GOOD.items():
            response = _post(client, access_token, make_message(**changes))
            assert response.status_code == 200, (case, response.text)
    assert len(running.received("fcm")) == len(GOOD)


def test_fcm_measures_keys_and_values_against_its_limits(running, make_message):
    access_token = running.access_token()

    def body(size, **target):
        return make_message(notification=None, data={"message_id": "1" * 36, "k": "é" * ((size - 47) // 2)}, **target)

    assert sum(len(k) + len(v.encode()) for k, v in json.loads(body(4_097))["message"]["data"].items()) == 4_097
    with running.httpx("fcm") as client:
        assert _post(client, access_token, body(4_095)).status_code == 200
        too_big = _post(client, access_token, body(4_097))
        assert _post(client, access_token, body(2_047, token=None, topic="n")).status_code == 200
        assert _post(client, access_token, body(2_049, token=None, topic="n")).status_code == 400
        apns = _post(client, access_token, make_message(apns={"payload": {"x": "y" * 4_096}}))
    assert (too_big.status_code, *_codes(too_big)) == (400, "INVALID_ARGUMENT", ["message"])
    assert _codes(apns) == ("INVALID_ARGUMENT", ["message.apns.payload"])


def test_fcm_validates_only_when_asked(running, make_message):
    body = json.dumps(json.loads(make_message()) | {"validate_only": True})
    with running.httpx("fcm") as client:
        response = _post(client, running.access_token(), body)
    assert response.json() == {"name": "projects/sim-project/messages/fake_message_id"}
    assert running.received("fcm") == []
    assert running.statistics("fcm")["outcomes"]["other_calls"] == 1


def test_fcm_counts_messages_without_an_id(running, make_message):
    access_token = running.access_token()
    with running.httpx("fcm") as client:
        for data in ({}, {"message_id": "7"}, None):
            assert _post(client, access_token, make_message(data=data)).status_code == 200
    assert running.statistics("fcm")["without_message_id"] == 3
    assert len(running.received("fcm")) == 3


def test_fcm_knows_paths_projects_and_methods(start, make_message):
    running = start(apns={"enabled": False}, fcm={"forbidden_projects": ["not-mine"]})
    access_token = running.access_token()
    with running.httpx("fcm") as client:
        answers = {
            path: _post(client, access_token, make_message(), path=path)
            for path in (
                "/v1/projects/123456789012/messages:send",
                "/v1/projects/not-mine/messages:send",
                "/v1/projects/nobody/messages:send",
                "/v1/projects/sim-project/messages",
                "/batch",
            )
        }
        get = client.get(SEND, headers={"authorization": f"Bearer {access_token}"})
    assert [answer.status_code for answer in answers.values()] == [200, 403, 404, 404, 404]
    assert answers["/v1/projects/not-mine/messages:send"].json()["error"]["status"] == "PERMISSION_DENIED"
    assert _codes(answers["/v1/projects/nobody/messages:send"]) == (None, None)
    assert get.status_code == 404


def test_fcm_access_tokens_expire_by_the_injected_clock(running, make_message):
    access_token = running.access_token()
    with running.httpx("fcm") as client:
        missing = client.post(SEND, content=make_message(), headers={"content-type": "application/json"})
        wrong = _post(client, "ya29.other", make_message())
        running.control("PUT", "/clock", {"advance_s": 3_590})
        assert _post(client, access_token, make_message()).status_code == 200
        running.control("PUT", "/clock", {"advance_s": 20})
        expired = _post(client, access_token, make_message())
        assert _post(client, running.access_token(), make_message()).status_code == 200
    for response in (missing, wrong, expired):
        assert response.status_code == 401
        assert response.json()["error"]["status"] == "UNAUTHENTICATED"
        assert _codes(response) == (None, None)
        assert response.headers["www-authenticate"].startswith("Bearer")


def test_fcm_gives_each_token_its_fate(start, make_message):
    fates = [
        {"fate": "UNREGISTERED", "prefixes": ["dead"]},
        {"fate": "SENDER_ID_MISMATCH", "prefixes": ["other"]},
        {"fate": "THIRD_PARTY_AUTH_ERROR", "prefixes": ["noapns"]},
        {"fate": "INVALID_ARGUMENT", "prefixes": ["bad"]},
    ]
    running = start(apns={"enabled": False}, fcm={"fates": fates, "bad_token_form": "field_violation"})
    access_token = running.access_token()
    with running.httpx("fcm") as client:
        seen = {}
        for prefix in ("dead", "other", "noapns", "bad"):
            response = _post(client, access_token, make_message(token=prefix + "x" * 30))
            seen[prefix] = (response.status_code, response.json()["error"]["status"], *_codes(response))
    assert seen == {
        "dead": (404, "NOT_FOUND", "UNREGISTERED", None),
        "other": (403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH", None),
        "noapns": (401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR", None),
        "bad": (400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", ["message.token"]),
    }


def test_fcm_keeps_the_rates_of_project_and_device(start, make_message):
    running = start(apns={"enabled": False}, fcm={"rate_per_s": 0.01, "burst": 5, "device_messages_per_minute": 2})
    running.control("PUT", "/clock", {"advance_s": 60 - running.now() % 60})
    access_token = running.access_token()
    with running.httpx("fcm") as client:
        device = [_post(client, access_token, make_message(token="a" * 30)) for _ in range(3)]
        project = [_post(client, access_token, make_message(token=name * 30)) for name in "bcde"]
    assert [response.status_code for response in device] == [200, 200, 429]
    assert [response.status_code for response in project] == [200, 200, 200, 429]
    for response in (device[2], project[3]):
        assert _codes(response)[0] == "QUOTA_EXCEEDED"
        assert int(response.headers["retry-after"]) >= 1
        quota = response.json()["error"]["details"][1]
        assert quota["@type"] == "type.googleapis.com/google.rpc.QuotaFailure"
    assert device[2].json()["error"]["details"][1]["violations"][0]["subject"] == "device"


# ---- OAuth


def test_fcm_oauth_refuses_each_faulty_assertion(running):
    now = int(running.now())
    stranger = rsa.generate_private_key(65_537, 2_048)
    cases = {
        "another key": (running.assertion(key=stranger), "invalid_grant"),
        "unknown kid": (running.assertion(kid="x"), "invalid_grant"),
        "wrong algorithm": (running.assertion(key="s" * 64, algorithm="HS256"), "invalid_grant"),
        "another account": (running.assertion(claims={"iss": "x@y"}), "invalid_grant"),
        "another audience": (running.assertion(claims={"aud": "https://elsewhere/token"}), "invalid_grant"),
        "no scope": (running.assertion(claims={"scope": None}), "invalid_scope"),
        "another scope": (running.assertion(claims={"scope": "https://x/drive"}), "invalid_scope"),
        "expired": (running.assertion(claims={"iat": now - 7_200, "exp": now - 3_600}), "invalid_grant"),
        "too long": (running.assertion(claims={"exp": now + 3_700}), "invalid_grant"),
        "from the future": (running.assertion(claims={"iat": now + 600, "exp": now + 1_200}), "invalid_grant"),
        "no exp": (running.assertion(claims={"exp": None}), "invalid_grant"),
        "garbage": ("abc", "invalid_grant"),
        "empty": ("", "invalid_request"),
    }
    with running.httpx("fcm") as client:
        for case, (assertion, error) in cases.items():
            response = client.post("/token", data={"grant_type": GRANT, "assertion": assertion})
            assert response.status_code == 400, case
            assert response.json()["error"] == error, case
            assert response.json()["error_description"], case
        password = client.post("/token", data={"grant_type": "password", "assertion": running.assertion()})
        as_json = client.post("/token", json={"grant_type": GRANT, "assertion": running.assertion()})
        get = client.get("/token")
    assert password.json()["error"] == "unsupported_grant_type"
    assert as_json.json()["error"] == "invalid_request"
    assert get.status_code == 405


def test_fcm_oauth_faults_hit_the_token_endpoint_only(running, make_message):
    access_token = running.access_token()
    mix = [{"share": 1, "status": 503, "reason": "internal_failure"}]
    running.fault("fcm", "errors", mix=mix, applies_to="oauth")
    with running.httpx("fcm") as client:
        oauth = client.post("/token", data={"grant_type": GRANT, "assertion": running.assertion()})
        assert _post(client, access_token, make_message()).status_code == 200
    assert (oauth.status_code, oauth.json()["error"]) == (503, "internal_failure")


@pytest.mark.parametrize(
    ("status", "reason", "canonical", "code"),
    [
        (500, "INTERNAL", "INTERNAL", "INTERNAL"),
        (503, "UNAVAILABLE", "UNAVAILABLE", "UNAVAILABLE"),
        (500, "UNSPECIFIED_ERROR", "UNKNOWN", "UNSPECIFIED_ERROR"),
        (429, "RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED", None),
        (403, "PERMISSION_DENIED", "PERMISSION_DENIED", None),
    ],
)
def test_fcm_errors_by_fault_have_googles_form(running, make_message, status, reason, canonical, code):
    access_token = running.access_token()
    mix = [{"share": 1, "status": status, "reason": reason, "retry_after_s": 7}]
    running.fault("fcm", "errors", mix=mix, for_requests=1)
    with running.httpx("fcm") as client:
        response = _post(client, access_token, make_message())
        assert _post(client, access_token, make_message()).status_code == 200
    assert (response.status_code, response.json()["error"]["status"]) == (status, canonical)
    assert _codes(response)[0] == code
    assert response.headers["retry-after"] == "7"
