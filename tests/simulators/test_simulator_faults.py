"""Each scripted fault on the wire, armed over the control port."""

from __future__ import annotations

import http.client
import json
import ssl
import time

import h2.exceptions
import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from bench.simulators.h2_malformed import FORMS

REFUSED_STREAM = 7
MAX = 2**31 - 1


def _authenticated(running, make_payload, simulator="apns", **options):
    client = running.http2(simulator, **options)
    assert client.ask(running.apns_headers(), make_payload()).status == 200
    client.ping()
    return client


def _send(running, client, count, make_payload):
    streams = [client.send(running.apns_headers(), make_payload(), flush=False) for _ in range(count)]
    client.flush()
    return streams


@pytest.mark.parametrize(
    ("fields", "least_s", "most_s"),
    [
        ({"ms": 80}, 0.08, 2),
        ({"distribution": "uniform", "ms": 50, "ms_max": 60}, 0.05, 2),
        ({"distribution": "lognormal", "ms": 5_000, "sigma": 1, "ms_max": 60}, 0.03, 2),
        ({"ms": 40, "jitter_ms": 5}, 0.04, 2),
    ],
)
def test_latency_delays_the_answer(running, make_payload, fields, least_s, most_s):
    with _authenticated(running, make_payload) as client:
        running.fault("apns", "latency", for_requests=1, **fields)
        begun = time.monotonic()
        assert client.ask(running.apns_headers(), make_payload()).status == 200
        assert least_s <= time.monotonic() - begun < most_s
        assert running.statistics("apns")["faults_applied"] == {"latency": 1}


def test_latency_lets_later_answers_overtake(running, make_payload):
    with _authenticated(running, make_payload) as client:
        running.fault("apns", "latency", ms=150, for_requests=1)
        slow, fast = _send(running, client, 2, make_payload)
        client.wait_ended(fast)
        assert not client.replies[slow].is_ended
        assert client.wait_ended(slow)[0].status == 200


def test_errors_come_in_their_shares(running, make_payload):
    mix = [
        {"share": 0.25, "status": 503, "reason": "ServiceUnavailable", "retry_after_s": 3},
        {"share": 0.25, "status": 410, "reason": "Unregistered"},
    ]
    running.fault("apns", "errors", mix=mix)
    seen = {}
    with running.http2("apns") as client:
        for _ in range(200):
            reply = client.ask(running.apns_headers(), make_payload())
            seen[reply.status] = seen.get(reply.status, 0) + 1
            if reply.status == 503:
                assert (reply.reason, reply.headers["retry-after"]) == ("ServiceUnavailable", "3")
            if reply.status == 410:
                assert reply.json()["timestamp"] > 0
    assert 25 < seen[503] < 80
    assert 25 < seen[410] < 80
    assert seen[200] == 200 - seen[503] - seen[410] == len(running.received("apns"))


@pytest.mark.parametrize("retry_after_s", [None, 9])
def test_throttle_answers_429(running, make_payload, retry_after_s):
    running.fault("apns", "throttle", for_requests=1, retry_after_s=retry_after_s)
    with running.http2("apns") as client:
        reply = client.ask(running.apns_headers(), make_payload())
        assert client.ask(running.apns_headers(), make_payload()).status == 200
    assert (reply.status, reply.reason) == (429, "TooManyRequests")
    assert reply.headers.get("retry-after") == (None if retry_after_s is None else "9")


def test_refused_streams_come_in_storms(running, make_payload):
    with _authenticated(running, make_payload) as client:
        running.fault("apns", "refused_stream", for_requests=5)
        replies = client.wait_ended(*_send(running, client, 8, make_payload))
    assert [reply.reset_code for reply in replies] == [REFUSED_STREAM] * 5 + [None] * 3
    assert len(running.received("apns")) == 1 + 3


def test_reset_stream_hides_that_the_row_was_taken(running, make_payload):
    with _authenticated(running, make_payload) as client:
        running.fault("apns", "reset_stream", code=8, for_requests=1)
        assert client.ask(running.apns_headers(), make_payload()).reset_code == 8
    assert len(running.received("apns")) == 2


def test_no_answer_takes_the_row_and_says_nothing(running, make_payload):
    with _authenticated(running, make_payload) as client:
        running.fault("apns", "no_answer", for_requests=1)
        silent, other = _send(running, client, 2, make_payload)
        client.wait_ended(other)
        client.ping()
        assert not client.replies[silent].is_ended
    assert len(running.received("apns")) == 3


def test_goaway_graceful_answers_what_is_open_and_closes(running, make_payload):
    with _authenticated(running, make_payload) as client:
        running.fault("apns", "latency", ms=50, for_requests=3)
        running.fault("apns", "goaway", form="graceful", grace_ms=100, for_requests=1)
        streams = _send(running, client, 3, make_payload)
        client.wait_until(lambda: len(client.goaways) == 1)
        late = client.send(running.apns_headers(), make_payload())  # still allowed between the two frames
        assert {reply.status for reply in client.wait_ended(*streams, late)} == {200}
        client.wait_closed()
    assert client.goaways == [(MAX, 0, b'{"reason":"Shutdown"}'), (late, 0, b'{"reason":"Shutdown"}')]
    assert len(running.received("apns")) == 5


def test_goaway_abrupt_loses_answers_of_rows_it_has_taken(running, make_payload):
    with _authenticated(running, make_payload) as client:
        running.fault("apns", "latency", ms=5_000, for_requests=2)
        waiting = _send(running, client, 2, make_payload)
        client.ping()
        running.fault("apns", "goaway", form="abrupt", reason="InternalServerError", for_requests=1)
        hit, above = _send(running, client, 2, make_payload)
        client.wait_closed()
    assert client.goaways == [(hit, 0, b'{"reason":"InternalServerError"}')]
    assert not any(client.replies[one].is_ended for one in (*waiting, hit, above))
    # taken: the first, the two that waited, the one that was hit; not the one above last_stream_id
    received = {row["message_id"] for row in running.received("apns")}
    assert len(received) == 4


def test_goaway_zero_has_looked_at_nothing(running, make_payload):
    with _authenticated(running, make_payload) as client:
        running.fault("apns", "goaway", form="zero", for_requests=1)
        _send(running, client, 3, make_payload)
        client.wait_closed()
    assert [last for last, _, _ in client.goaways] == [0]
    assert len(running.received("apns")) == 1


def test_goaway_double_answers_below_and_ignores_above(running, make_payload):
    with _authenticated(running, make_payload) as client:
        running.fault("apns", "latency", ms=50, for_requests=1)
        [below] = _send(running, client, 1, make_payload)
        client.ping()
        running.fault("apns", "goaway", form="double", for_requests=1)
        hit, above = _send(running, client, 2, make_payload)
        assert [reply.status for reply in client.wait_ended(below, hit)] == [200, 200]
        client.wait_closed()
    assert [last for last, _, _ in client.goaways] == [MAX, hit]
    assert not client.replies[above].is_ended
    assert len(running.received("apns")) == 3


def test_reset_socket_ends_with_a_reset(running, make_payload):
    for recorded in (False, True):
        with _authenticated(running, make_payload) as client:
            running.fault("apns", "reset_socket", for_requests=1, recorded=recorded)
            client.send(running.apns_headers(), make_payload())
            client.wait_closed()
            assert isinstance(client.close_error, ConnectionResetError)
    assert len(running.received("apns")) == 3
    assert running.statistics("apns")["closed"]["fault reset_socket"] == 2


def test_tls_abort_ends_without_close_notify(running, make_payload):
    with _authenticated(running, make_payload) as client:
        client.sock.suppress_ragged_eofs = False
        running.fault("apns", "tls_abort", for_requests=1)
        client.send(running.apns_headers(), make_payload())
        client.wait_closed()
        # An SSLEOFError since Python 3.11.3.
        assert isinstance(client.close_error, ssl.SSLError)
        assert client.close_error.reason == "UNEXPECTED_EOF_WHILE_READING"
    assert running.statistics("apns")["closed"]["fault tls_abort"] == 1


#: form -> what `h2`, as the client, says of it. Faults of HPACK are PROTOCOL_ERROR to it.
MALFORMED = {
    "frame_size": ErrorCodes.FRAME_SIZE_ERROR,
    "settings_length": ErrorCodes.FRAME_SIZE_ERROR,
    "settings_value": ErrorCodes.FLOW_CONTROL_ERROR,
    "window_overflow": ErrorCodes.FLOW_CONTROL_ERROR,
    "idle_stream": ErrorCodes.PROTOCOL_ERROR,
    "push_promise": ErrorCodes.PROTOCOL_ERROR,
    "interrupted_block": ErrorCodes.PROTOCOL_ERROR,
    "empty_continuations": ErrorCodes.PROTOCOL_ERROR,
    "hpack_index": ErrorCodes.PROTOCOL_ERROR,
    "hpack_size_update": ErrorCodes.PROTOCOL_ERROR,
    "hpack_bomb": ErrorCodes.ENHANCE_YOUR_CALM,
}


def test_malformed_has_a_case_for_each_form():
    assert (*MALFORMED, "http1") == FORMS


def _read_on(client):
    while data := client.sock.recv(65_536):
        client.h2.receive_data(data)


@pytest.mark.parametrize("form", MALFORMED)
def test_malformed_bytes_are_refused_by_another_client(running, make_payload, form):
    with _authenticated(running, make_payload) as client:
        running.fault("apns", "malformed", form=form, for_requests=1)
        client.send(running.apns_headers(), make_payload())
        with pytest.raises(h2.exceptions.ProtocolError) as refused:
            _read_on(client)
        assert refused.value.error_code == MALFORMED[form]
        client.flush()  # the GOAWAY of h2, with the same code
        seen = running.wait_until("apns", lambda now: now["client_goaways"])
    assert seen["client_goaways"] == {MALFORMED[form].name: 1}
    assert len(running.received("apns")) == 2  # it was recorded all the same


def test_malformed_http1_is_plain_text(running, make_payload):
    """h2 would wait for the 4 MB that `HTT` announces; so the bytes themselves are looked at."""
    with _authenticated(running, make_payload) as client:
        running.fault("apns", "malformed", form="http1", for_requests=1)
        client.send(running.apns_headers(), make_payload())
        assert client.sock.recv(65_536).startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize(("table_bytes", "seen"), [(0, "accept-encoding"), (4_096, "x-bomb")])
def test_malformed_bomb_uses_the_table_that_the_client_gives(running, make_payload, table_bytes, seen):
    with _authenticated(running, make_payload) as client:
        client.h2.update_settings({SettingCodes.HEADER_TABLE_SIZE: table_bytes})
        client.flush()
        client.ping()
        running.fault("apns", "malformed", form="hpack_bomb", for_requests=1)
        client.send(running.apns_headers(), make_payload())
        frame = client.sock.recv(65_536)
        while len(frame) < 9 or len(frame) < 9 + int.from_bytes(frame[:3], "big"):
            frame += client.sock.recv(65_536)
        client.h2.decoder.max_header_list_size = 1 << 30
        fields = client.h2.decoder.decode(frame[9:])
        assert {name for name, _ in fields} == {":status", seen}
        assert sum(len(name) + len(value) + 32 for name, value in fields) > 800_000  # of a frame of 16 KB


@pytest.mark.parametrize("n_bytes", [5, 20_000])
def test_header_flood_comes_beside_the_answer(running, make_payload, n_bytes):
    running.fault("apns", "header_flood", bytes=n_bytes, for_requests=1)
    with running.http2("apns") as client:
        reply = client.ask(running.apns_headers(), make_payload())
        assert reply.status == 200
        flood = {name: value for name, value in reply.headers.items() if name.startswith("x-flood-")}
        assert abs(sum(map(len, (*flood, *flood.values()))) - n_bytes) < 10
        assert client.ask(running.apns_headers(), make_payload()).headers.keys() == {"apns-id"}


def test_stream_limit_drops_on_all_connections_and_comes_back(running, make_payload):
    with _authenticated(running, make_payload) as client:
        fault_id = running.fault("apns", "stream_limit", limit=2)
        client.wait_until(lambda: client.limits[-1] == 2)
        running.fault("apns", "latency", ms=20, for_requests=5)
        replies = client.wait_ended(*_send(running, client, 5, make_payload))
        assert sorted(reply.status for reply in replies) == [0, 0, 0, 200, 200]
        running.control("DELETE", f"/fault?simulator=apns&id={fault_id}")
        client.wait_until(lambda: client.limits[-1] == 1_000)
        assert {reply.status for reply in client.wait_ended(*_send(running, client, 5, make_payload))} == {200}


def test_stream_limit_ends_by_itself_after_its_seconds(running, make_payload):
    with _authenticated(running, make_payload) as client:
        running.fault("apns", "stream_limit", limit=2, after_s=0.05, for_s=0.1)
        client.wait_until(lambda: client.limits[-2:] == [2, 1_000])


def test_stop_reading_answers_afterwards(running, make_payload):
    with _authenticated(running, make_payload) as client:
        running.fault("apns", "stop_reading", for_s=0.2)
        begun = time.monotonic()
        stream = client.send(running.apns_headers(), make_payload())
        assert client.wait_ended(stream)[0].status == 200
        assert time.monotonic() - begun > 0.1


def test_half_open_sends_no_fin_and_ends_with_a_reset(running, make_payload):
    with _authenticated(running, make_payload) as client:
        running.fault("apns", "half_open")
        client.sock.settimeout(0.2)
        client.send(running.apns_headers(), make_payload())
        with pytest.raises(TimeoutError):
            client.sock.recv(1)
        assert running.statistics("apns")["connections"]["half_open"] == 1
        late = running.http2("apns", is_settled=False)  # the handshake is still answered, nothing after it
        running.wait_until("apns", lambda now: now["connections"]["half_open"] == 2)
        running.control("DELETE", "/fault")
        client.sock.settimeout(10)
        client.wait_closed()
        assert isinstance(client.close_error, ConnectionResetError)
        late.close()
    assert len(running.received("apns")) == 1
    with _authenticated(running, make_payload):
        pass


def test_small_windows_are_never_enlarged(running, make_payload):
    running.fault("apns", "windows", initial=60, for_requests=1)
    body = make_payload("x" * 20)
    assert 60 < len(body) < 120
    with running.http2("apns") as client:
        client.ping()
        assert client.h2.remote_settings.initial_window_size == 60
        stream = client.send(running.apns_headers(), body[:60], end=False)
        client.ping()
        with pytest.raises(h2.exceptions.FlowControlError):
            client.h2.send_data(stream, body[60:], end_stream=True)
        client.ping()
        assert client.h2.local_flow_control_window(stream) == 0
    with _authenticated(running, make_payload):
        pass  # the next connection is normal


def test_small_windows_hold_for_the_connection_too(running, make_payload):
    running.fault("apns", "windows", for_requests=1)
    body = make_payload(body="x" * 4_000)
    with running.http2("apns") as client:
        n_sent = 0
        while client.h2.outbound_flow_control_window >= len(body):
            assert client.ask(running.apns_headers(), body).status == 200
            n_sent += 1
        client.ping()
        assert client.h2.outbound_flow_control_window < len(body)
    assert n_sent == 65_535 // len(body)


@pytest.mark.parametrize(("form", "text"), [("expired", "expired"), ("wrong_host", "not valid for")])
def test_certificate_faults_fail_the_handshake(running, make_payload, form, text):
    running.fault("apns", "certificate", form=form, for_requests=1)
    with pytest.raises(ssl.SSLCertVerificationError, match=text):
        running.http2("apns")
    with _authenticated(running, make_payload):
        pass
    connections = running.statistics("apns")["connections"]
    assert connections["handshakes_begun"] == 2


def test_drop_and_double_are_told_as_success(running, make_payload):
    running.fault("apns", "drop", for_requests=1)
    with running.http2("apns") as client:
        assert client.ask(running.apns_headers(), make_payload()).status == 200
        assert running.received("apns") == []
        running.fault("apns", "double", for_requests=1)
        assert client.ask(running.apns_headers(), make_payload()).status == 200
    assert [row["copies"] for row in running.received("apns")] == [2]
    assert running.statistics("apns")["outcomes"] == {"dropped": 1, "doubled": 1}


@pytest.mark.parametrize("kind", ["reset_socket", "tls_abort", "goaway", "refused_stream", "reset_stream", "malformed"])
def test_stream_faults_over_http_1_1_hang_up(running, make_message, kind):
    headers = {"authorization": f"Bearer {running.access_token()}", "content-type": "application/json"}
    where = running.ready["fcm"]
    fields = {"form": "http1"} if kind == "malformed" else {}
    running.fault("fcm", kind, for_requests=1, **fields)

    def post():
        connection = http.client.HTTPSConnection(
            where["host"], where["port"], timeout=10, context=running.tls_context(["http/1.1"])
        )
        try:
            connection.request("POST", "/v1/projects/sim-project/messages:send", make_message(), headers)
            return connection.getresponse().status
        finally:
            connection.close()

    with pytest.raises(OSError):  # RemoteDisconnected, SSLEOFError or ConnectionResetError
        post()
    assert post() == 200


def test_faults_of_the_config_are_armed_at_start(start, make_payload):
    faults = [{"kind": "throttle", "for_requests": 1, "retry_after_s": 1}, {"kind": "latency", "ms": 1}]
    running = start(fcm={"enabled": False}, apns={"faults": faults})
    with running.http2("apns") as client:
        assert client.ask(running.apns_headers(), make_payload()).status == 429
        assert client.ask(running.apns_headers(), make_payload()).status == 200
    [left] = running.control("GET", "/fault")[1]["apns"]
    assert left["fault"]["kind"] == "latency"
    assert json.dumps(left)
