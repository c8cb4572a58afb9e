"""Connection behaviour of the simulators: stream limits, refusals, windows, idle streams, protocol errors, shutdown."""

from __future__ import annotations

import socket
import ssl
import struct

import pytest
from h2.settings import SettingCodes

REFUSED_STREAM = 7
BAD = "zz" * 32


def _open(running, client, count, make_payload, **changes):
    """`count` good requests in one write."""
    streams = [client.send(running.apns_headers(**changes), make_payload(), flush=False) for _ in range(count)]
    client.flush()
    return streams


def test_apns_announces_its_settings_and_one_stream_before_authentication(running, make_payload):
    with running.http2("apns") as client:
        settings = client.h2.remote_settings
        assert client.limits == [1]
        assert settings.initial_window_size == 65_535
        assert settings.max_frame_size == 16_384
        assert settings.header_table_size == 4_096
        assert settings[SettingCodes.MAX_HEADER_LIST_SIZE] == 8_000
        first, *others = client.wait_ended(*_open(running, client, 5, make_payload))
        assert first.status == 200
        assert [reply.reset_code for reply in others] == [REFUSED_STREAM] * 4
        client.ping()
        assert client.limits == [1, 1_000]
        assert [reply.status for reply in client.wait_ended(*_open(running, client, 5, make_payload))] == [200] * 5
    assert len(running.received("apns")) == 6


def test_apns_drops_to_one_stream_after_a_rejection_and_restores_it(running, make_payload):
    with running.http2("apns") as client:
        assert client.ask(running.apns_headers(), make_payload()).status == 200
        client.ping()
        bad = client.send(running.apns_headers(BAD), make_payload(), flush=False)
        streams = _open(running, client, 4, make_payload)
        rejected, oldest, *others = client.wait_ended(bad, *streams)
        assert rejected.reason == "BadDeviceToken"
        assert oldest.status == 200  # within the limit of one
        assert [reply.reset_code for reply in others] == [REFUSED_STREAM] * 3
        client.ping()
        assert client.limits == [1, 1_000, 1, 1_000]
    assert len(running.received("apns")) == 2


def test_apns_stays_at_one_stream_until_a_success(running, make_payload):
    with running.http2("apns") as client:
        assert client.ask(running.apns_headers(), make_payload()).status == 200
        assert client.ask(running.apns_headers(BAD), make_payload()).status == 400
        assert client.ask(running.apns_headers(BAD), make_payload()).status == 400
        client.ping()
        assert client.limits == [1, 1_000, 1]
        first, second = client.wait_ended(*_open(running, client, 2, make_payload))
        assert (first.status, second.reset_code) == (200, REFUSED_STREAM)
        client.ping()
        assert client.limits == [1, 1_000, 1, 1_000]
    assert running.statistics("apns")["connections"]["streams_refused"] == 1


def test_apns_without_strict_streams_refuses_nothing(start, make_payload):
    http2 = {"strict_streams": False, "streams_before_auth": 1_000}
    running = start(fcm={"enabled": False}, apns={"http2": http2})
    with running.http2("apns") as client:
        bad = client.send(running.apns_headers(BAD), make_payload(), flush=False)
        streams = _open(running, client, 20, make_payload)
        rejected, *others = client.wait_ended(bad, *streams)
        assert rejected.status == 400
        assert {reply.status for reply in others} == {200}
        assert client.limits == [1_000]


def test_apns_refused_rows_were_never_received(running, make_payload):
    """A REFUSED_STREAM promises that nothing was done, also for requests that were waiting for their answer."""
    with running.http2("apns") as client:
        assert client.ask(running.apns_headers(), make_payload()).status == 200
        running.fault("apns", "latency", ms=150, for_requests=10)
        slow = _open(running, client, 10, make_payload)
        bad = client.send(running.apns_headers(BAD), make_payload())
        rejected, *replies = client.wait_ended(bad, *slow)
    assert rejected.status == 400
    n_accepted = sum(reply.status == 200 for reply in replies)
    assert n_accepted == 1
    assert sum(reply.reset_code == REFUSED_STREAM for reply in replies) == 9
    assert len(running.received("apns")) == 1 + n_accepted


def test_fcm_sends_goaway_when_the_limit_it_told_is_exceeded(start, make_message):
    running = start(apns={"enabled": False}, fcm={"http2": {"streams_max": 3}})
    access_token = running.access_token()
    running.fault("fcm", "latency", ms=100)
    with running.http2("fcm") as client:
        client.ping()  # our acknowledgement of the limit has been seen
        streams = [client.send(running.fcm_headers(access_token), make_message(), flush=False) for _ in range(5)]
        client.flush()
        replies = client.wait_ended(*streams[:3])
        client.wait_closed()
    assert [reply.status for reply in replies] == [200] * 3
    assert client.goaways == [(streams[2], 11, b"exceeded_max_concurrent_streams")]
    assert running.statistics("fcm")["connections"]["stream_limit_violations"] == 1
    assert len(running.received("fcm")) == 3


def test_success_may_end_with_an_empty_data_frame(start, make_payload):
    running = start(fcm={"enabled": False}, apns={"http2": {"success_form": "mixed"}})
    with running.http2("apns") as client:
        forms = [client.ask(running.apns_headers(), make_payload()).has_empty_data for _ in range(4)]
    assert forms == [False, True, False, True]


def test_answers_wait_for_the_clients_windows(running):
    with running.http2("apns") as client:
        client.is_crediting = False
        client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 5})
        client.flush()
        client.ping()
        stream = client.send(running.apns_headers(BAD), b'{"aps":{"alert":"x"}}')
        client.wait_until(lambda: len(client.replies[stream].body) == 5)
        client.ping()
        assert client.replies[stream].body == b'{"rea'
        assert not client.replies[stream].is_ended
        client.h2.increment_flow_control_window(1_000, stream)
        client.flush()
        assert client.wait_ended(stream)[0].reason == "BadDeviceToken"


def test_a_large_upload_needs_and_gets_window_updates(running, make_payload):
    body = make_payload(body="x" * 3_900)
    with running.http2("apns") as client:
        assert client.ask(running.apns_headers(), body).status == 200
        for _ in range(40):  # 160 KB, more than twice the connection window
            while client.h2.outbound_flow_control_window < len(body):
                client.ping()
            assert client.ask(running.apns_headers(), body).status == 200
    assert len(running.received("apns")) == 41


def test_a_request_cut_at_every_byte_is_the_same_request(running, make_payload):
    with running.http2("apns") as client:
        stream = client.send(running.apns_headers(), make_payload(), flush=False)
        for byte in client.h2.data_to_send():
            client.sock.sendall(bytes([byte]))
        assert client.wait_ended(stream)[0].status == 200


def test_a_stream_reset_by_the_client_is_forgotten(running, make_payload):
    running.fault("apns", "latency", ms=20, for_requests=1)
    with running.http2("apns") as client:
        stream = client.send(running.apns_headers(), make_payload())
        client.h2.reset_stream(stream, 8)
        client.flush()
        client.ping()
        assert client.ask(running.apns_headers(), make_payload()).status == 200
    assert len(running.received("apns")) == 1


def test_a_request_that_never_ends_is_answered_as_idle(start):
    running = start(apns={"http2": {"idle_stream_s": 0.05}}, fcm={"http2": {"idle_stream_s": 0.05}})
    with running.http2("apns") as client:
        stream = client.send(running.apns_headers(), b'{"aps":', end=False)
        assert client.wait_ended(stream)[0].reason == "IdleTimeout"
    with running.http2("fcm") as client:
        stream = client.send(running.fcm_headers("x"), b"{", end=False)
        assert client.wait_ended(stream)[0].status == 504


def test_an_idle_connection_is_closed_with_goaway(start):
    running = start(fcm={"enabled": False}, apns={"http2": {"idle_close_s": 0.05}})
    with running.http2("apns") as client:
        client.wait_closed()
        assert client.goaways == [(0, 0, b"")]
        assert client.close_error is None  # with close_notify
    assert running.wait_until("apns", lambda now: now["closed"])["closed"] == {"idle": 1}


def test_too_many_errors_disconnect_when_configured(start, make_payload):
    running = start(fcm={"enabled": False}, apns={"http2": {"errors_until_disconnect": 3}})
    with running.http2("apns") as client:
        assert client.ask(running.apns_headers("dead" * 16), make_payload()).status == 200
        for _ in range(3):
            assert client.ask(running.apns_headers(BAD), make_payload()).status == 400
        client.wait_closed()
        assert len(client.goaways) == 1


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
GARBAGE = {
    "http/1.1": (b"GET / HTTP/1.1\r\n\r\n" * 3, None),
    "a ping of no length": (PREFACE + SETTINGS + b"\x00\x00\x00\x06\x00\x00\x00\x00\x00", 6),
    "a frame of 20,480 bytes": (PREFACE + SETTINGS + b"\x00\x50\x00\x00\x00\x00\x00\x00\x01" + bytes(20_480), 6),
    "data on an idle stream": (PREFACE + SETTINGS + b"\x00\x00\x01\x00\x00\x00\x00\x00\x01x", 1),
    "an unknown header block": (
        PREFACE + SETTINGS + b"\x00\x00\x02\x01\x05\x00\x00\x00\x01\xff\xff",
        1,
    ),  # the code is the h2 library's choice
}


@pytest.mark.parametrize("case", GARBAGE)
def test_bytes_that_are_no_http2_end_the_connection(running, case):
    """With a GOAWAY of the right code where HTTP/2 had begun at all."""
    garbage, code = GARBAGE[case]
    where = running.ready["apns"]
    with (
        socket.create_connection((where["host"], where["port"]), timeout=10) as raw,
        running.tls_context(["h2"]).wrap_socket(raw, server_hostname=where["host"]) as sock,
    ):
        sock.sendall(garbage)
        data = b""
        while piece := sock.recv(65_536):
            data += piece
    assert (b"\x00\x00\x08\x07" in data) == (code is not None)
    if code is not None:
        assert data[data.index(b"\x00\x00\x08\x07") + 13 :][:4] == struct.pack(">I", code)
    [reason] = running.wait_until("apns", lambda now: now["closed"])["closed"]
    assert reason.startswith("protocol_error")


def test_a_client_without_h2_is_closed(running):
    where = running.ready["apns"]
    with (
        socket.create_connection((where["host"], where["port"]), timeout=10) as raw,
        running.tls_context().wrap_socket(raw, server_hostname=where["host"]) as sock,
    ):
        assert sock.recv(10) == b""
    assert running.statistics("apns")["closed"] == {"no_alpn": 1}


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_tls_versions_resume_sessions(running, make_payload, version):
    context = running.tls_context(["h2"])
    context.minimum_version = context.maximum_version = version
    with running.http2("apns", context=context) as client:
        assert client.sock.version() == {ssl.TLSVersion.TLSv1_2: "TLSv1.2"}.get(version, "TLSv1.3")
        assert client.ask(running.apns_headers(), make_payload()).status == 200
        session = client.sock.session
    with running.http2("apns", context=context, session=session) as client:
        assert client.sock.session_reused
        assert client.ask(running.apns_headers(), make_payload()).status == 200
    connections = running.statistics("apns")["connections"]
    assert (connections["handshakes_completed"], connections["handshakes_resumed"]) == (2, 1)


def test_tls_1_1_is_refused(running):
    context = running.tls_context(["h2"])
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = ssl.TLSVersion.TLSv1_1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(OSError):
        running.http2("apns", context=context)


def test_connections_beyond_the_limit_are_closed(start, make_payload):
    running = start(fcm={"enabled": False}, connections_max=2)
    with running.http2("apns") as one, running.http2("apns") as two:
        with running.http2("apns", is_settled=False) as three:
            three.wait_closed()
        for client in (one, two):
            assert client.ask(running.apns_headers(), make_payload()).status == 200
    assert running.statistics("apns")["closed"]["connections_max"] == 1


def test_shutdown_sends_goaway_and_lets_open_streams_finish(start, make_payload):
    running = start(fcm={"enabled": False}, drain_s=5)
    running.fault("apns", "latency", ms=200, for_requests=1)
    with running.http2("apns") as client:
        stream = client.send(running.apns_headers(), make_payload())
        client.ping()
        running.stop()
        assert client.wait_ended(stream)[0].reason == "Shutdown"
        client.wait_closed()
        assert client.goaways == [(stream, 0, b'{"reason":"Shutdown"}')]


def test_what_came_before_a_clients_goodbye_is_taken_though_nothing_can_be_answered(running, make_payload):
    with running.http2("apns") as client:
        assert client.ask(running.apns_headers(), make_payload()).status == 200
        client.send(running.apns_headers(), make_payload(), flush=False)
        client.h2.close_connection()
        client.flush()
        closed = running.wait_until("apns", lambda now: now["closed"])["closed"]
    assert closed == {"client_goaway": 1}
    assert len(running.received("apns")) == 2


def test_a_client_that_reads_no_answers_stops_being_read(running, make_payload):
    """Answers pile up to the transport's mark, then requests are not read: memory stays bounded."""
    with running.http2("apns", receive_buffer_bytes=4_096) as client:
        assert client.ask(running.apns_headers(), make_payload()).status == 200
        client.sock.settimeout(1)
        ping = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00abcdefgh"

        def flood():
            for _ in range(20_000):
                client.sock.sendall(ping * 100)

        with pytest.raises(OSError):  # the send buffers fill up, because nobody empties them
            flood()
    assert running.statistics("apns")["connections"]["open_h2"] <= 1


def test_a_reset_by_the_peer_is_a_named_end(running):
    client = running.http2("apns")
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    closed = running.wait_until("apns", lambda now: now["closed"])["closed"]
    assert set(closed) <= {"peer_reset", "peer_closed"}
