"""The control port and the command line of the simulators."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from bench.simulators.received import BINARY_ROW, Message

WAIT_S = 20


def test_healthz_names_the_simulators(running):
    assert running.control("GET", "/healthz") == (200, {"ok": True, "simulators": ["apns", "fcm"]})


WRONG = {
    "unknown path": ("GET", "/fly", None, 404),
    "wrong method": ("POST", "/fault", None, 405),
    "unknown simulator": ("GET", "/statistics?simulator=huawei", None, 404),
    "no json": ("PUT", "/fault", "{", 400),
    "a list": ("PUT", "/fault", [], 400),
    "unknown kind": ("PUT", "/fault", {"kind": "fire"}, 400),
    "unknown key": ("PUT", "/fault", {"kind": "drop", "colour": 1}, 400),
    "no kind": ("PUT", "/fault", {"simulator": "apns"}, 400),
    "share of two": ("PUT", "/fault", {"kind": "drop", "share": 2}, 400),
    "id without simulator": ("DELETE", "/fault?id=1", None, 400),
    "id that is no number": ("DELETE", "/fault?simulator=apns&id=x", None, 400),
    "clock back": ("PUT", "/clock", {"advance_s": -1}, 400),
    "clock by a word": ("PUT", "/clock", {"advance_s": "1"}, 400),
    "negative last": ("GET", "/requests?last=-1", None, 400),
    "format unknown": ("GET", "/received?format=xml", None, 400),
    "binary of all": ("GET", "/received?format=binary", None, 400),
    "fate of another vendor": ("PUT", "/tokens", {"simulator": "apns", "fate": "UNREGISTERED", "tokens": ["a"]}, 400),
    "fate for all": ("PUT", "/tokens", {"fate": "Unregistered", "tokens": ["a"]}, 400),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_calls_are_answered_with_a_reason(running, case):
    method, path, body, status = WRONG[case]
    answered, data = running.control_raw(method, path, body)
    assert answered == status
    assert json.loads(data)["error"]
    assert running.control("GET", "/fault")[1] == {"apns": [], "fcm": []}


def test_faults_are_listed_and_deleted_one_by_one_or_all(running):
    status, answer = running.control("PUT", "/fault", {"kind": "drop", "for_s": 100})
    assert (status, set(answer["ids"])) == (200, {"apns", "fcm"})
    second = running.fault("apns", "double", for_requests=5)
    listed = running.control("GET", "/fault")[1]
    assert [line["fault"]["kind"] for line in listed["apns"]] == ["drop", "double"]
    assert 90 < listed["fcm"][0]["seconds_left"] <= 100
    assert listed["apns"][1]["requests_left"] == 5
    assert running.control("DELETE", f"/fault?simulator=apns&id={second}")[1] == {"deleted": 1}
    assert running.control("DELETE", "/fault?simulator=fcm")[1] == {"deleted": 1}
    assert running.control("DELETE", "/fault")[1] == {"deleted": 1}


def test_tokens_can_die_while_it_runs_and_live_again_after_a_reset(running, make_payload):
    token = "12" * 32
    body = {"simulator": "apns", "fate": "Unregistered", "tokens": [token]}
    with running.http2("apns") as client:
        assert client.ask(running.apns_headers(token), make_payload()).status == 200
        assert running.control("PUT", "/tokens", body) == (200, {"added": 1})
        assert client.ask(running.apns_headers(token), make_payload()).reason == "Unregistered"
        running.control("POST", "/reset")
        assert client.ask(running.apns_headers(token), make_payload()).status == 200


def test_reset_forgets_rows_counts_and_logs(running, make_payload):
    with running.http2("apns") as client:
        client.ask(running.apns_headers(), make_payload())
    assert running.control("POST", "/reset?simulator=apns")[1] == {"reset": ["apns"]}
    assert running.received("apns") == []
    assert running.statistics("apns")["outcomes"] == {}
    assert running.control("GET", "/requests")[1]["apns"] == []


def test_requests_keep_the_last_with_bodies_that_are_no_text(running):
    with running.http2("apns") as client:
        for number in range(3):
            client.ask(running.apns_headers(), b"\xff%d" % number)
    entries = running.control("GET", "/requests?simulator=apns&last=2")[1]["apns"]
    assert [entry["body_base64"] for entry in entries] == ["/zE=", "/zI="]
    assert all(entry["why"] == "the body is not JSON" for entry in entries)


def test_received_streams_a_hundred_thousand_rows_in_both_formats(start):
    running = start()
    store = running.simulators.by_name["apns"].exchange.received
    count = 100_000
    for index in range(count):
        store.add(Message(index.to_bytes(16, "big"), "token", "t", str(index)), index)
    begun = time.monotonic()
    rows = running.received("apns")
    assert [row["arrived_unix_ms"] for row in rows] == list(range(count))
    assert rows[-1]["simulator"] == "apns"
    status, data = running.control_raw("GET", "/received?simulator=apns&format=binary")
    assert status == 200
    assert len(data) == count * BINARY_ROW.size
    message_id, digest, target, copies, arrived = BINARY_ROW.unpack(data[-BINARY_ROW.size :])
    assert (message_id.hex(), digest.hex(), target.hex()) == tuple(
        rows[-1][key] for key in ("message_id", "sha256", "target")
    )
    assert (copies, arrived) == (1, count - 1)
    assert time.monotonic() - begun < 30


def test_control_connections_are_kept_and_garbage_is_answered(running):
    where = running.ready["control"]
    connection = http.client.HTTPConnection(where["host"], where["port"], timeout=WAIT_S)
    for _ in range(3):
        connection.request("GET", "/healthz")
        assert connection.getresponse().read()
    connection.close()
    with socket.create_connection((where["host"], where["port"]), timeout=WAIT_S) as sock:
        sock.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 400")


# ---- the process


def _begin(*arguments: str, stdin=subprocess.PIPE) -> tuple[subprocess.Popen, dict]:
    command = [sys.executable, "-m", "bench.simulators", "--json", *arguments]
    process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE)
    return process, json.loads(process.stdout.readline())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_process_ends_on_a_signal(tmp_path, number):
    process, ready = _begin("--dir", str(tmp_path))
    with process:
        assert ready["pid"] == process.pid
        assert Path(ready["ca_file"]).is_relative_to(tmp_path)
        for simulator in ("apns", "fcm"):
            socket.create_connection((ready[simulator]["host"], ready[simulator]["port"]), timeout=WAIT_S).close()
        process.send_signal(number)
        assert process.wait(WAIT_S) == 0


def test_process_ends_with_its_parent_and_cleans_up():
    process, ready = _begin("--exit-with-parent")
    with process:
        process.stdin.close()
        assert process.wait(WAIT_S) == 0
    assert not Path(ready["ca_file"]).exists()


def test_process_reads_its_config_and_starts_twice_on_one_directory(tmp_path):
    config = tmp_path / "simulators.toml"
    config.write_text('[apns]\nenabled = false\n[fcm]\nproject_id = "my-project"\n')
    seen = []
    for _ in range(2):
        process, ready = _begin("--dir", str(tmp_path / "state"), "--config", str(config), "--exit-with-parent")
        with process:
            assert "apns" not in ready
            account = json.loads(Path(ready["fcm"]["service_account_file"]).read_text())
            assert (account["project_id"], account["token_uri"]) == ("my-project", ready["fcm"]["token_uri"])
            seen.append((account["private_key"], Path(ready["ca_file"]).read_bytes()))
            process.stdin.close()
            assert process.wait(WAIT_S) == 0
    assert seen[0] == seen[1]


@pytest.mark.parametrize("text", ["[apns]\nprot = 1\n", '[[apns.fates]]\nfate = "Dead"\n', "[apns]\nport = 1\n"])
def test_process_refuses_a_wrong_config_with_exit_code_2(tmp_path, text):
    taken = socket.create_server(("127.0.0.1", 0))
    config = tmp_path / "simulators.toml"
    config.write_text(text.replace("port = 1\n", f"port = {taken.getsockname()[1]}\n"))
    command = [sys.executable, "-m", "bench.simulators", "--dir", str(tmp_path), "--config", str(config)]
    with taken:
        done = subprocess.run(command, capture_output=True, timeout=WAIT_S, check=False)
    assert done.returncode == 2
    assert done.stderr
    assert b"Traceback" not in done.stderr


def test_process_says_which_config_is_not_there(tmp_path):
    missing = tmp_path / "simulators.toml"
    command = [sys.executable, "-m", "bench.simulators", "--config", str(missing)]
    done = subprocess.run(command, capture_output=True, timeout=WAIT_S, check=False)
    assert (done.returncode, done.stderr.decode()) == (2, f"simulators: {missing}: No such file or directory\n")


def test_message_ids_are_recorded_as_the_client_chose_them(running, make_payload, make_message):
    """The two ends of the demo's proof: the same id, the same digest, whatever the vendor."""
    message_id = uuid.uuid4()
    access_token = running.access_token()
    with running.http2("apns") as client:
        client.ask(running.apns_headers(apns_id=str(message_id)), make_payload("a", "b"))
    with running.http2("fcm") as client:
        body = make_message(notification={"title": "a", "body": "b"}, data={"message_id": str(message_id)})
        client.ask(running.fcm_headers(access_token), body)
    [apns], [fcm] = running.received("apns"), running.received("fcm")
    assert apns["message_id"] == fcm["message_id"] == message_id.hex
    assert apns["sha256"] == fcm["sha256"]
