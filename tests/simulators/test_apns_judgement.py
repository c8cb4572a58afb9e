"""Every answer of the APNs simulator that a request can provoke, over real TLS and HTTP/2."""

from __future__ import annotations

import hashlib
import json
import uuid
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bench.simulators.apns import STATUS_OF_REASON

TOPIC = "com.example.app"
TOKEN = "ab" * 32

# what is changed in a good request -> status, reason. Header names have _ for -; None leaves the header out.
REFUSALS = {
    "path of another call": ({"path": "/3/devices/ab"}, 404, "BadPath"),
    "path that goes on": ({"path": f"/3/device/{TOKEN}/x"}, 404, "BadPath"),
    "path with a query": ({"path": f"/3/device/{TOKEN}?x=1"}, 404, "BadPath"),
    "no token in the path": ({"path": "/3/device/"}, 400, "MissingDeviceToken"),
    "get": ({"method": "GET"}, 405, "MethodNotAllowed"),
    "no authorization": ({"authorization": None}, 403, "MissingProviderToken"),
    "basic authorization": ({"authorization": "basic eDp5"}, 403, "InvalidProviderToken"),
    "garbage as token": ({"authorization": "bearer abc"}, 403, "InvalidProviderToken"),
    "no topic": ({"apns_topic": None}, 400, "MissingTopic"),
    "topic that is none": ({"apns_topic": "com example"}, 400, "BadTopic"),
    "topic of someone else": ({"apns_topic": "com.other.app"}, 400, "TopicDisallowed"),
    "suffix missing": ({"apns_push_type": "voip"}, 400, "BadTopic"),
    "suffix of another type": ({"apns_topic": f"{TOPIC}.voip"}, 400, "InvalidPushType"),
    "unknown push type": ({"apns_push_type": "Alert"}, 400, "InvalidPushType"),
    "id in upper case": ({"apns_id": "123E4567-E89B-12D3-A456-4266554400A0"}, 400, "BadMessageId"),
    "id that is no uuid": ({"apns_id": "1"}, 400, "BadMessageId"),
    "expiration as a word": ({"apns_expiration": "tomorrow"}, 400, "BadExpirationDate"),
    "negative expiration": ({"apns_expiration": "-1"}, 400, "BadExpirationDate"),
    "priority 7": ({"apns_priority": "7"}, 400, "BadPriority"),
    "background with priority 10": (
        {"apns_push_type": "background", "apns_priority": "10"},
        400,
        "BadPriority",
    ),
    "location with priority 1": (
        {"apns_push_type": "location", "apns_topic": f"{TOPIC}.location-query", "apns_priority": "1"},
        400,
        "BadPriority",
    ),
    "background without priority": ({"apns_push_type": "background"}, 400, "BadPriority"),
    "collapse id of 65 bytes": ({"apns_collapse_id": "x" * 65}, 400, "BadCollapseId"),
    "empty collapse id": ({"apns_collapse_id": ""}, 400, "BadCollapseId"),
    "token of odd length": ({"path": "/3/device/" + "a" * 65}, 400, "BadDeviceToken"),
    "token too short": ({"path": "/3/device/" + "a" * 62}, 400, "BadDeviceToken"),
    "token too long": ({"path": "/3/device/" + "a" * 402}, 400, "BadDeviceToken"),
    "token that is not hex": ({"path": "/3/device/" + "xy" * 32}, 400, "BadDeviceToken"),
    "token listed as bad": ({"path": "/3/device/" + "ba" * 32}, 400, "BadDeviceToken"),
    "token of another topic": ({"path": "/3/device/" + "f0" * 32}, 400, "DeviceTokenNotForTopic"),
    "dead token": ({"path": "/3/device/" + "dead" * 16}, 410, "Unregistered"),
    "expired token": ({"path": "/3/device/" + "e0" * 32}, 410, "ExpiredToken"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_apns_refuses_a_faulty_request_with_apples_reason(running, make_payload, case):
    changes, status, reason = REFUSALS[case]
    with running.http2("apns") as client:
        reply = client.ask(running.apns_headers(**changes), make_payload())
    assert (reply.status, reply.json()["reason"]) == (status, reason)
    assert uuid.UUID(reply.headers["apns-id"])
    assert set(reply.json()) == ({"reason", "timestamp"} if status == 410 else {"reason"})
    statistics = running.statistics("apns")
    assert statistics["reasons"] == {f"{status} {reason}": 1}
    assert statistics["outcomes"] == {"refused": 1}
    [entry] = running.refused("apns")
    assert entry["reason"] == reason
    assert entry["why"]
    assert running.received("apns") == []


BAD_PAYLOADS = {
    "not json": (b"{", "PayloadEmpty"),
    "not utf-8": (b'{"aps":{"alert":"\xff"}}', "PayloadEmpty"),
    "a list": (b"[1]", "PayloadEmpty"),
    "empty": (b"", "PayloadEmpty"),
    "an empty object": (b"{}", "PayloadEmpty"),
    "no aps": (b'{"x":1}', "PayloadEmpty"),
    "aps is a string": (b'{"aps":"x"}', "PayloadEmpty"),
    "alert is a number": (b'{"aps":{"alert":1}}', "PayloadEmpty"),
    "title is a number": (b'{"aps":{"alert":{"title":1}}}', "PayloadEmpty"),
    "unknown key in alert": (b'{"aps":{"alert":{"text":"x"}}}', "PayloadEmpty"),
    "badge is a string": (b'{"aps":{"badge":"1"}}', "PayloadEmpty"),
    "badge is negative": (b'{"aps":{"badge":-1}}', "PayloadEmpty"),
    "sound volume is 2": (b'{"aps":{"sound":{"critical":1,"name":"x","volume":2}}}', "PayloadEmpty"),
    "mutable-content is true": (b'{"aps":{"mutable-content":true}}', "PayloadEmpty"),
    "interruption level is a word of its own": (b'{"aps":{"interruption-level":"loud"}}', "PayloadEmpty"),
    "relevance score is 2": (b'{"aps":{"alert":"x","relevance-score":2}}', "PayloadEmpty"),
    "custom key inside aps": (b'{"aps":{"alert":"x","order":1}}', "PayloadEmpty"),
    "one byte too large": (b'{"aps":{"alert":"' + b"x" * 4_077 + b'"}}', "PayloadTooLarge"),
    "larger than is kept": (b'{"aps":{"alert":"' + b"x" * 60_000 + b'"}}', "PayloadTooLarge"),
}


@pytest.mark.parametrize("case", BAD_PAYLOADS)
def test_apns_refuses_a_faulty_payload(running, case):
    body, reason = BAD_PAYLOADS[case]
    with running.http2("apns") as client:
        reply = client.ask(running.apns_headers(), body)
    assert reply.reason == reason
    assert reply.status == (413 if reason == "PayloadTooLarge" else 400)


def test_apns_accepts_payloads_up_to_the_limit_of_their_push_type(running):
    largest = b'{"aps":{"alert":"' + b"x" * 4_076 + b'"}}'
    assert len(largest) == 4_096
    voip = b'{"aps":{},"x":"' + b"x" * (5_120 - 17) + b'"}'
    assert len(voip) == 5_120
    voip_headers = {"apns_push_type": "voip", "apns_topic": f"{TOPIC}.voip"}
    with running.http2("apns") as client:
        assert client.ask(running.apns_headers(), largest).status == 200
        assert client.ask(running.apns_headers(**voip_headers), voip).status == 200
        assert client.ask(running.apns_headers(**voip_headers), voip[:-2] + b'x"}').reason == "PayloadTooLarge"


GOOD = {
    "background": ({"apns_push_type": "background", "apns_priority": "5"}, b'{"aps":{"content-available":1}}'),
    "live activity": (
        {"apns_push_type": "liveactivity", "apns_topic": f"{TOPIC}.push-type.liveactivity", "apns_priority": "1"},
        b'{"aps":{"event":"update","timestamp":1,"content-state":{"a":1},"relevance-score":50}}',
    ),
    "mdm": ({"apns_push_type": "mdm"}, b'{"mdm":"magic"}'),
    "all of alert": (
        {"apns_expiration": "0", "apns_priority": "5", "apns_collapse_id": "x" * 64},
        b'{"aps":{"alert":{"title-loc-key":"k","title-loc-args":["a"]},"badge":0,"sound":{"critical":1,"name":"x",'
        b'"volume":0.5},"thread-id":"t","category":"c","mutable-content":1,"interruption-level":"active",'
        b'"relevance-score":0.5},"image":"https://cdn.example.com/a.png"}',
    ),
    "no push type": ({"apns_push_type": None}, b'{"aps":{"alert":"x"}}'),
    "long token in upper case": ({"path": "/3/device/" + "AB" * 100}, b'{"aps":{"alert":"x"}}'),
}


@pytest.mark.parametrize("case", GOOD)
def test_apns_accepts_what_apple_documents(running, case):
    changes, body = GOOD[case]
    with running.http2("apns") as client:
        reply = client.ask(running.apns_headers(**changes), body)
    assert (reply.status, reply.body) == (200, b"")


@pytest.mark.parametrize(
    "body",
    [b'{"aps":{"content-available":1,"alert":"x"}}', b'{"aps":{}}', b'{"aps":{"content-available":1,"badge":1}}'],
)
def test_apns_refuses_a_background_push_that_shows_something(running, body):
    with running.http2("apns") as client:
        reply = client.ask(running.apns_headers(apns_push_type="background", apns_priority="5"), body)
    assert reply.reason == "InvalidPushType"


def test_apns_refuses_a_repeated_header(running, make_payload):
    headers = [*running.apns_headers(apns_priority="10"), ("apns-priority", "5")]
    with running.http2("apns") as client:
        assert client.ask(headers, make_payload()).reason == "DuplicateHeaders"


def test_apns_echoes_the_id_and_records_token_and_texts(running, make_payload):
    message_id = uuid.uuid4()
    body = make_payload("标题 😀", "Text", message_id=str(message_id))
    with running.http2("apns") as client:
        reply = client.ask(running.apns_headers(apns_id=str(message_id)), body)
    assert (reply.status, reply.headers["apns-id"], reply.body) == (200, str(message_id), b"")
    [row] = running.received("apns")
    assert row["message_id"] == message_id.hex
    assert row["sha256"] == hashlib.sha256("标题 😀".encode() + b"\x00" + b"Text").hexdigest()
    assert row["target"] == hashlib.sha256(TOKEN.encode()).hexdigest()[:32]
    assert (row["copies"], row["title"], row["body"]) == (1, "标题 😀", "Text")
    assert abs(row["arrived_unix_ms"] / 1000 - running.now()) < 60


def test_apns_takes_a_string_alert_as_body(running):
    with running.http2("apns") as client:
        assert client.ask(running.apns_headers(), b'{"aps":{"alert":"only"}}').status == 200
    [row] = running.received("apns")
    assert (row["title"], row["body"]) == ("", "only")


def test_apns_makes_an_id_when_there_is_none(running, make_payload):
    own = uuid.uuid4()
    with running.http2("apns") as client:
        made = client.ask(running.apns_headers(apns_id=None), make_payload())
        named = client.ask(running.apns_headers(apns_id=None), make_payload(message_id=str(own)))
    assert uuid.UUID(made.headers["apns-id"]).hex == running.received("apns")[0]["message_id"]
    assert named.headers["apns-id"] == str(own)


def test_apns_refuses_a_payload_id_that_is_not_the_apns_id(running, make_payload):
    with running.http2("apns") as client:
        reply = client.ask(running.apns_headers(), make_payload(message_id=str(uuid.uuid4())))
    assert reply.reason == "BadMessageId"


def test_apns_counts_copies_and_notices_other_texts(running, make_payload):
    headers = running.apns_headers()
    with running.http2("apns") as client:
        for text in ("b", "b", "other"):
            assert client.ask(headers, make_payload(body=text)).status == 200
    [row] = running.received("apns")
    assert row["copies"] == 3
    received = running.statistics("apns")["received"]
    assert (received["rows"], received["copies"], received["second_copies"], received["changed_texts"]) == (1, 3, 2, 1)


def test_apns_names_the_time_since_when_a_token_is_dead(running, make_payload):
    with running.http2("apns") as client:
        reply = client.ask(running.apns_headers("dead" * 16), make_payload())
    assert 86_000 < running.now() - reply.json()["timestamp"] / 1000 < 90_000


def test_apns_throttles_one_device(start, make_payload):
    running = start(fcm={"enabled": False}, apns={"device_messages_per_minute": 2})
    running.control("PUT", "/clock", {"advance_s": 60 - running.now() % 60})  # all in one window
    with running.http2("apns") as client:
        statuses = [client.ask(running.apns_headers(), make_payload()).status for _ in range(3)]
        other = client.ask(running.apns_headers("cd" * 32), make_payload())
        running.control("PUT", "/clock", {"advance_s": 60})
        later = client.ask(running.apns_headers(), make_payload())
    assert statuses == [200, 200, 429]
    assert (other.status, later.status) == (200, 200)
    assert running.statistics("apns")["reasons"] == {"429 TooManyRequests": 1}


def test_apns_keeps_the_rate_of_the_whole_app(start, make_payload):
    running = start(fcm={"enabled": False}, apns={"rate_per_s": 0.001, "burst": 2, "retry_after": True})
    with running.http2("apns") as client:
        replies = [client.ask(running.apns_headers(), make_payload()) for _ in range(3)]
        running.control("PUT", "/clock", {"advance_s": 1000})
        later = client.ask(running.apns_headers(), make_payload())
    assert [reply.status for reply in replies] == [200, 200, 429]
    assert 900 < int(replies[2].headers["retry-after"]) <= 1000
    assert later.status == 200
    assert len(running.received("apns")) == 3


def test_apns_kills_a_share_of_tokens_chosen_by_hash(start, make_payload):
    running = start(
        fcm={"enabled": False},
        apns={"fates": [{"fate": "Unregistered", "share": 0.5}], "http2": {"strict_streams": False}},
    )
    tokens = [hashlib.sha256(b"%d" % index).hexdigest() for index in range(100)]
    with running.http2("apns") as client:
        first = [client.ask(running.apns_headers(token), make_payload()).status for token in tokens]
        again = [client.ask(running.apns_headers(token), make_payload()).status for token in tokens]
    assert first == again
    assert 30 < first.count(410) < 70
    assert first.count(200) == 100 - first.count(410)


def test_apns_sandbox_adds_its_unique_id(start, make_payload):
    running = start(fcm={"enabled": False}, apns={"environment": "sandbox", "push_type_required": True})
    with running.http2("apns") as client:
        assert uuid.UUID(client.ask(running.apns_headers(), make_payload()).headers["apns-unique-id"])
        assert client.ask(running.apns_headers(apns_push_type=None), make_payload()).reason == "InvalidPushType"


# ---- provider tokens


def test_apns_refuses_provider_tokens_that_are_not_of_the_key(running, make_payload):
    stranger = ec.generate_private_key(ec.SECP256R1())
    tokens = {
        "another key": running.provider_token(key=stranger),
        "unknown kid": running.provider_token(kid="ZZZZZZZZZZ"),
        "another team": running.provider_token(claims={"iss": "AAAAAAAAAA"}),
        "no iat": running.provider_token(claims={"iat": None}),
        "iat as text": running.provider_token(claims={"iat": "now"}),
        "iat in the future": running.provider_token(age_s=-600),
        "wrong algorithm": running.provider_token(key="secret" * 8, algorithm="HS256"),
    }
    for case, token in tokens.items():
        with running.http2("apns") as client:
            reply = client.ask(running.apns_headers(authorization=f"bearer {token}"), make_payload())
        assert (reply.status, reply.reason) == (403, "InvalidProviderToken"), case
    assert len({entry["why"] for entry in running.refused("apns")}) >= 5


def test_apns_wedges_a_connection_that_has_seen_an_expired_token(running, make_payload):
    old = f"bearer {running.provider_token(age_s=3_700)}"
    with running.http2("apns") as client:
        assert client.ask(running.apns_headers(authorization=old), make_payload()).reason == "ExpiredProviderToken"
        assert client.ask(running.apns_headers(), make_payload()).reason == "ExpiredProviderToken"
    with running.http2("apns") as client:
        assert client.ask(running.apns_headers(), make_payload()).status == 200


def test_apns_lets_a_token_expire_by_the_injected_clock(running, make_payload):
    headers = running.apns_headers()
    with running.http2("apns") as client:
        assert client.ask(headers, make_payload()).status == 200
        running.control("PUT", "/clock", {"advance_s": 3_500})
        assert client.ask(headers, make_payload()).status == 200
        running.control("PUT", "/clock", {"advance_s": 200})
        assert client.ask(headers, make_payload()).reason == "ExpiredProviderToken"


def test_apns_allows_one_change_of_the_token_in_twenty_minutes(running, make_payload):
    def ask(client, token):
        return client.ask(running.apns_headers(authorization=f"bearer {token}"), make_payload())

    tokens = [running.provider_token(age_s=age_s) for age_s in (5, 4, 3, 2)]
    with running.http2("apns") as client:
        assert ask(client, tokens[0]).status == 200
        assert ask(client, tokens[1]).status == 200  # the first change: a connection may begin with an old token
        reply = ask(client, tokens[2])
        assert (reply.status, reply.reason) == (429, "TooManyProviderTokenUpdates")
        assert ask(client, tokens[1]).status == 200
        running.control("PUT", "/clock", {"advance_s": 1_201})
        assert ask(client, tokens[2]).status == 200
        assert ask(client, tokens[3]).reason == "TooManyProviderTokenUpdates"


def _public_key_file(directory: Path, name: str, key: ec.EllipticCurvePrivateKey) -> str:
    path = directory / f"{name}.pem"
    path.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return str(path)


def test_apns_binds_a_connection_to_team_and_key_family(start, tmp_path, make_payload):
    narrow, other_team, sandbox = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    keys = [
        {"key_id": "NARROWKEY1", "team_id": "DEF123GHIJ", "topics": ["com.example.narrow"]},
        {"key_id": "OTHERTEAM1", "team_id": "OTHERTEAM0"},
        {"key_id": "SANDBOXKEY", "team_id": "DEF123GHIJ", "environment": "sandbox"},
    ]
    for one, key in zip(keys, (narrow, other_team, sandbox), strict=True):
        one["public_key_file"] = _public_key_file(tmp_path, one["key_id"], key)
    running = start(fcm={"enabled": False}, apns={"keys": keys})

    def ask(client, token, topic=TOPIC):
        return client.ask(running.apns_headers(authorization=f"bearer {token}", apns_topic=topic), make_payload())

    narrow_token = running.provider_token(key=narrow, kid="NARROWKEY1")
    other_token = running.provider_token(key=other_team, kid="OTHERTEAM1", claims={"iss": "OTHERTEAM0"})
    with running.http2("apns") as client:
        assert ask(client, running.provider_token()).status == 200
        assert ask(client, narrow_token, "com.example.narrow").reason == "UnrelatedKeyIdInToken"
        assert ask(client, other_token).reason == "InvalidProviderToken"
        sandbox_token = running.provider_token(key=sandbox, kid="SANDBOXKEY")
        assert ask(client, sandbox_token).reason == "BadEnvironmentKeyIdInToken"
    with running.http2("apns") as client:
        assert ask(client, narrow_token, "com.example.narrow").status == 200
        assert ask(client, narrow_token).reason == "TopicDisallowed"


def test_apns_reasons_that_no_request_provokes_come_by_fault(running, make_payload):
    """With the tests above every reason of Apple's table is seen on the wire."""
    provoked = {reason for _, _, reason in REFUSALS.values()} | {reason for _, reason in BAD_PAYLOADS.values()}
    provoked |= {
        "DuplicateHeaders",
        "ExpiredProviderToken",
        "TooManyProviderTokenUpdates",
        "TooManyRequests",
        "UnrelatedKeyIdInToken",
        "BadEnvironmentKeyIdInToken",
        "IdleTimeout",  # test_http2_connection.py
    }
    for reason in sorted(set(STATUS_OF_REASON) - provoked):
        status = STATUS_OF_REASON[reason]
        running.fault("apns", "errors", for_requests=1, mix=[{"share": 1, "status": status, "reason": reason}])
        with running.http2("apns") as client:
            reply = client.ask(running.apns_headers(), make_payload())
        assert (reply.status, reply.json()) == (status, {"reason": reason})
    assert set(STATUS_OF_REASON) - provoked == {
        "BadCertificate",
        "BadCertificateEnvironment",
        "Forbidden",
        "InternalServerError",
        "ServiceUnavailable",
        "Shutdown",
    }


def test_apns_logs_requests_without_whole_credentials(running, make_payload):
    headers = running.apns_headers()
    with running.http2("apns") as client:
        client.ask(headers, make_payload())
    [entry] = running.control("GET", "/requests?simulator=apns&last=1")[1]["apns"]
    shown = dict(entry["headers"])
    assert dict(headers)["authorization"].startswith(shown["authorization"].removesuffix("..."))
    assert len(shown["authorization"]) < 30
    assert json.loads(entry["body"])["aps"]["alert"]["title"] == "t"
