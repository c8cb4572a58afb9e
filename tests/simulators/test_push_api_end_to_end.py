"""Vendors with an HTTP API over real sockets: both versions of HTTP, faults on rows, receipts, the command line."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import uuid

import pytest

from bench.simulators.config import simulator_names
from bench.simulators.tls import make_tls_files

WAIT_S = 20
HONOR = "/api/v1/104400001/sendMessage"


def _hms(running, client, tokens, *, tag="task-1", **changes):
    where = running.ready["huawei"]
    form = {"grant_type": "client_credentials"} | {key: where[key] for key in ("client_id", "client_secret")}
    token = client.post("/oauth2/v3/token", data=form).json()["access_token"]
    shown = {"title": "标题", "body": "Text", "click_action": {"type": 3}}
    message = {"token": tokens, "android": {"bi_tag": tag, "category": "IM", "notification": shown} | changes}
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json;charset=UTF-8"}
    path = f"/v1/{where['client_id']}/messages:send"
    return client.post(path, content=json.dumps({"message": message}), headers=headers)


def _huawei(**changes):
    return {"apns": {"enabled": False}, "fcm": {"enabled": False}, "huawei": {"enabled": True} | changes}


@pytest.mark.parametrize("is_http2", [True, False])
def test_a_multicast_is_recorded_row_by_row_over_both_versions_of_http(start, is_http2):
    running = start(**_huawei(fates=[{"fate": "illegal_token", "prefixes": ["dead"]}]), received={"keep_texts": True})
    tokens = [f"{index:0120d}" for index in range(998)] + ["dead1", "dead2"]
    with running.httpx("huawei", is_http2=is_http2) as client:
        response = _hms(running, client, tokens)
    assert response.http_version == ("HTTP/2" if is_http2 else "HTTP/1.1")
    assert response.json()["code"] == "80100000"
    rows = running.received("huawei")
    assert (len(rows), {row["reference"] for row in rows}) == (998, {"task-1"})
    assert {(row["title"], row["body"]) for row in rows} == {("标题", "Text")}
    statistics = running.statistics("huawei")
    assert statistics["rows"] == {"accepted": 998, "refused illegal_token": 2}
    assert statistics["outcomes"] == {"oauth": 1, "accepted": 1}
    assert statistics["connections"]["opened_h2" if is_http2 else "opened_http1"] == 1


def test_receipts_arrive_signed_and_in_batches(start, callback_sink):
    receipts = {"callback_url": callback_sink.url, "rows_per_request": 100}
    keys = {"callback_user": "me", "callback_secret": "c2VjcmV0", "fates": [{"fate": "uninstalled", "tokens": ["t7"]}]}
    running = start(**_huawei(receipts=receipts, **keys))
    with running.httpx("huawei") as client:
        request_id = _hms(running, client, [f"t{index}" for index in range(250)]).json()["requestId"]
    posts = callback_sink.wait(3)
    assert {path for path, _, _ in posts} == {"/cb"}
    assert all("x-huawei-callback-id" in headers for _, headers, _ in posts)
    bodies = [json.loads(body)["statuses"] for _, _, body in posts]
    assert sorted(map(len, bodies)) == [50, 100, 100]
    statuses = {one["token"]: one["status"] for body in bodies for one in body}
    assert statuses == {f"t{index}": 2 if index == 7 else 0 for index in range(250)}
    assert {one["requestId"] for body in bodies for one in body} == {request_id}
    told = running.wait_until("huawei", lambda found: found["receipts"].get("reports_sent") == 250)["receipts"]
    assert (told["offered"], told["due"], told["answer 200"]) == (250, 0, 3)


def test_receipts_that_are_not_taken_are_sent_again_and_then_lost(start, callback_sink):
    callback_sink.status = 503
    running = start(
        **_huawei(receipts={"callback_url": callback_sink.url}), courier={"attempts_max": 3, "retry_wait_s": 0.01}
    )
    with running.httpx("huawei") as client:
        _hms(running, client, ["t1", "t2"])
    told = running.wait_until("huawei", lambda found: found["receipts"].get("reports_lost"))["receipts"]
    assert (told["reports_lost"], told["retries"], told["answer 503"]) == (2, 2, 3)
    assert len(callback_sink.requests) == 3


def test_receipts_without_room_are_counted_and_lost(start, callback_sink):
    receipts = {"callback_url": callback_sink.url, "delay_ms": 60_000.0}
    running = start(**_huawei(receipts=receipts), courier={"queue_max": 3})
    with running.httpx("huawei") as client:
        _hms(running, client, [f"t{index}" for index in range(5)])
    told = running.statistics("huawei")["receipts"]
    assert (told["due"], told["overflow"]) == (3, 2)
    assert running.control("POST", "/reset")[0] == 200
    assert running.statistics("huawei")["receipts"] == {"due": 0}


def test_receipts_can_come_twice_and_forged(start, callback_sink):
    receipts = {"callback_url": callback_sink.url, "doubled_share": 1.0, "forged_share": 1.0}
    running = start(**_huawei(receipts=receipts))
    with running.httpx("huawei") as client:
        _hms(running, client, ["t1"])
    tags = [json.loads(body)["statuses"][0]["biTag"] for _, _, body in callback_sink.wait(4)]
    assert sorted(tags) == ["forged-task-1"] * 2 + ["task-1"] * 2


def test_some_rows_of_a_request_can_be_lost_and_doubled(start, callback_sink):
    running = start(**_huawei(receipts={"callback_url": callback_sink.url, "rows_per_request": 1_000}))
    tokens = [f"t{index}" for index in range(1_000)]
    running.fault("huawei", "drop", row_share=0.1, for_requests=1)
    with running.httpx("huawei") as client:
        assert _hms(running, client, tokens).json()["code"] == "80000000"
        n_lost = running.statistics("huawei")["rows"]["dropped"]
        rows = running.received("huawei")
        assert 50 < n_lost < 150
        assert len(rows) == 1_000 - n_lost
        [(_, _, body)] = callback_sink.wait(1)
        assert len(json.loads(body)["statuses"]) == len(rows)
        running.control("POST", "/reset")
        running.fault("huawei", "double", row_share=0.1)
        _hms(running, client, tokens)
    copies = [row["copies"] for row in running.received("huawei")]
    assert (len(copies), set(copies)) == (1_000, {1, 2})
    assert sum(copies) - 1_000 == running.statistics("huawei")["rows"]["doubled"]


def test_errors_by_fault_have_the_vendors_body(start):
    running = start(**_huawei())
    mix = [{"share": 1.0, "status": 200, "reason": "81000001"}]
    running.fault("huawei", "errors", mix=mix, for_requests=1)
    running.fault("huawei", "throttle", retry_after_s=3, for_requests=1)
    running.fault(
        "huawei", "errors", mix=[mix[0] | {"status": 500, "reason": "1101"}], applies_to="oauth", for_requests=1
    )
    with running.httpx("huawei") as client:
        assert client.post("/oauth2/v3/token").json()["error"] == 1101
        first, second, third = (_hms(running, client, ["t"]) for _ in range(3))
    assert (first.status_code, first.json()["code"]) == (200, "81000001")
    assert (second.status_code, second.headers["retry-after"], second.content) == (503, "3", b"")
    assert third.json()["code"] == "80000000"
    assert running.statistics("huawei")["outcomes"] == {"oauth": 3, "error_by_fault": 3, "accepted": 1}


def test_honor_speaks_http_1_only_and_records_the_message_id_of_a_single_row(start):
    running = start(apns={"enabled": False}, fcm={"enabled": False}, honor={"enabled": True})
    where = running.ready["honor"]
    message_id = uuid.uuid4()
    with running.httpx("honor") as client:
        form = {"grant_type": "client_credentials"} | {key: where[key] for key in ("client_id", "client_secret")}
        token = client.post("/auth/token", data=form).json()["access_token"]
        shown = {"title": "t", "body": "b", "clickAction": {"type": 3}, "importance": "NORMAL"}
        body = {"token": ["x"], "android": {"biTag": message_id.hex, "notification": shown}}
        headers = {"authorization": f"Bearer {token}", "timestamp": str(int(running.now() * 1000))}
        response = client.post(HONOR, json=body, headers=headers)
    assert (response.http_version, response.json()["code"]) == ("HTTP/1.1", 200)
    [row] = running.received("honor")
    assert row["message_id"] == message_id.hex
    assert "reference" not in row


OPPO_ID = "CN_" + "0" * 31


def _xiaomi(running, client, url):
    form = {"registration_id": "dEmO+regid1=,dEmO+regid2=", "restricted_package_name": "com.example.app"}
    form |= {"title": "t", "description": "b", "extra.channel_id": "private", "extra.callback": url}
    key = f"key={running.ready['xiaomi']['app_secret']}"
    answer = client.post("/v3/message/regid", data=form | {"extra.callback.param": "p"}, headers={"authorization": key})
    return answer.json()["code"] == 0


def _oppo(running, client, url):
    known = running.ready["oppo"]
    stamp = str(int(running.now() * 1000))
    sign = hashlib.sha256(f"{known['app_key']}{stamp}{known['master_secret']}".encode()).hexdigest()
    form = {"app_key": known["app_key"], "timestamp": stamp, "sign": sign}
    token = {"auth_token": client.post("/server/v1/auth", data=form).json()["data"]["auth_token"]}
    shown = {"title": "t", "content": "b", "call_back_url": url, "call_back_parameter": "p"}
    base = "/server/v1/message/notification/"
    saved = client.post(base + "save_message_content", data=token | shown).json()["data"]["message_id"]
    targets = {"message_id": saved, "target_type": "2", "target_value": f"{OPPO_ID}1;{OPPO_ID}2"}
    return client.post(base + "broadcast", data=token | targets).json()["code"] == 0


def _vivo(running, client, url):
    known = running.ready["vivo"]
    stamp = int(running.now() * 1000)
    text = f"{known['app_id']}{known['app_key']}{stamp}{known['app_secret']}"
    body = {"appId": known["app_id"], "appKey": known["app_key"], "timestamp": stamp}
    body["sign"] = hashlib.md5(text.encode()).hexdigest()
    token = client.post("/message/auth", json=body).json()["authToken"]
    sent = []
    for number in (1, 2):
        shown = {"notifyType": 1, "title": "t", "content": "b", "skipType": 1, "requestId": f"r{number}"}
        extra = {"callback": url, "callback.param": "p"}
        body = {"appId": known["app_id"], "regId": f"{number:023d}", "extra": extra} | shown
        sent.append(client.post("/message/send", json=body, headers={"authToken": token}).json()["result"])
    return sent == [0, 0]


def _meizu(running, client, url):
    known = running.ready["meizu"]
    message = {"noticeBarInfo": {"title": "t", "content": "b"}, "extra": {"callback": url, "callback.param": "p"}}
    form = {"appId": known["app_id"], "messageJson": json.dumps(message), "pushIds": f"{'R' * 40}1,{'R' * 40}2"}
    joined = "".join(f"{key}={form[key]}" for key in sorted(form)) + known["app_secret"]
    form["sign"] = hashlib.md5(joined.encode()).hexdigest()
    return client.post("/garcia/api/server/push/varnished/pushByPushId", data=form).json()["code"] == "200"


@pytest.mark.parametrize("is_http2", [True, False])
@pytest.mark.parametrize("vendor", ["xiaomi", "oppo", "vivo", "meizu"])
def test_a_client_of_the_vendor_is_served_and_hears_of_its_rows(start, callback_sink, vendor, is_http2):
    running = start(apns={"enabled": False}, fcm={"enabled": False}, **{vendor: {"enabled": True}})
    send = {"xiaomi": _xiaomi, "oppo": _oppo, "vivo": _vivo, "meizu": _meizu}[vendor]
    with running.httpx(vendor, is_http2=is_http2) as client:
        assert send(running, client, callback_sink.url)
    rows = running.received(vendor)
    assert [row["sha256"] for row in rows] == [hashlib.sha256(b"t\x00b").hexdigest()] * 2
    assert len({row["target"] for row in rows}) == 2
    assert {row["reference"] for row in rows} == {"p"}
    told = running.wait_until(vendor, lambda found: found["receipts"].get("reports_sent") == 2)["receipts"]
    assert told["due"] == 0
    assert callback_sink.requests
    assert running.statistics(vendor)["rows"] == {"accepted": 2}


def test_further_regions_have_simulators_of_their_own(start):
    section = {"enabled": True, "regions": ["cn", "ru", "in"]}
    running = start(apns={"enabled": False}, fcm={"enabled": False}, xiaomi=section)
    assert set(running.ready) >= {"xiaomi", "xiaomi_ru", "xiaomi_in"}
    assert running.ready["xiaomi_ru"]["region"] == "ru"
    body = {"simulator": "xiaomi_ru", "fate": "bad_regid", "tokens": ["dEmO+regid1="]}
    assert running.control("PUT", "/tokens", body)[0] == 200
    with running.httpx("xiaomi_ru") as client:
        assert _xiaomi(running, client, "http://127.0.0.1:1")
    assert len(running.received("xiaomi_ru")) == 1
    assert running.received("xiaomi") == []


def test_the_first_of_two_steps_can_fail_alone(start, callback_sink):
    running = start(apns={"enabled": False}, fcm={"enabled": False}, oppo={"enabled": True})
    mix = [{"share": 1.0, "status": 200, "reason": "-1"}]
    running.fault("oppo", "errors", mix=mix, applies_to="save", for_requests=1)
    with running.httpx("oppo") as client:
        with pytest.raises(KeyError):
            _oppo(running, client, callback_sink.url)
        assert _oppo(running, client, callback_sink.url)
    assert running.statistics("oppo")["outcomes"] == {"oauth": 2, "error_by_fault": 1, "save": 1, "accepted": 1}


def _ready(*arguments, module=("bench.simulators",)):
    command = [sys.executable, "-m", *module, "--json", "--exit-with-parent", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        ready = process.stdout.readline()
        process.stdin.close()
        error = process.stderr.read()
        assert process.wait(WAIT_S) == (0 if ready else 2)
    return json.loads(ready) if ready else error.decode()


def test_command_line_starts_any_or_all():
    names = set(simulator_names())
    assert names >= {"apns", "fcm", "huawei", "harmony", "honor", "xiaomi", "oppo", "vivo", "meizu"}
    assert set(_ready("--only", "huawei,honor")) & names == {"huawei", "honor"}
    assert set(_ready()) & names == {"apns", "fcm"}
    assert set(_ready("--all")) >= names
    assert "huwei" in _ready("--only", "huwei")
    assert set(_ready("--only", "vivo", module=["gateway", "simulate"])) & names == {"vivo"}


def test_credentials_are_not_shown_at_the_control_port(start):
    running = start(**_huawei())
    with running.httpx("huawei") as client:
        _hms(running, client, ["t1"])
    shown = running.control("GET", "/requests")[1]["huawei"]
    assert shown[0]["body"] == "not shown: a credential"
    assert dict(shown[1]["headers"])["authorization"].endswith("...")


def test_receipts_survive_a_callback_that_is_not_there(start):
    running = start(
        **_huawei(receipts={"callback_url": "http://127.0.0.1:1/cb"}), courier={"attempts_max": 2, "retry_wait_s": 0.0}
    )
    with running.httpx("huawei") as client:
        _hms(running, client, ["t1"])
    told = running.wait_until("huawei", lambda found: found["receipts"].get("reports_lost"))["receipts"]
    assert (told["reports_lost"], told["answer ConnectionRefusedError"]) == (1, 2)


def test_receipts_go_over_tls_too_and_trust_only_the_ca_named(start, tmp_path):
    """The far end is a simulator itself: it refuses the path, but over a connection that it was asked for."""
    files = make_tls_files(tmp_path)
    far = start(apns={"enabled": False}, fcm={"enabled": False}, webhook={"enabled": True})
    url = far.ready["webhook"]["url"]
    for ca_file, answer in ((str(files.ca), "answer 401"), ("", "answer 401")):
        near = start(**_huawei(receipts={"callback_url": url}), courier={"ca_file": ca_file, "attempts_max": 1})
        with near.httpx("huawei") as client:
            _hms(near, client, ["t1"])
        near.wait_until("huawei", lambda found, answer=answer: found["receipts"].get(answer))
    other = tmp_path / "other"
    near = start(
        **_huawei(receipts={"callback_url": url}),
        courier={"ca_file": str(make_tls_files(other).ca), "attempts_max": 1},
    )
    with near.httpx("huawei") as client:
        _hms(near, client, ["t1"])
    near.wait_until("huawei", lambda found: found["receipts"].get("answer SSLCertVerificationError"))
