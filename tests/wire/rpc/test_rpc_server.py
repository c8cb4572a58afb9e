"""ServerSession: greeting, limits, credit, streams, shutdown; totality of the table; the fuzz law."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.content import Variant
from gateway.errors import CloseReason, LocalProtocolError, Overloaded
from gateway.ledger import Channel, Reason, State
from gateway.wire.rpc import codec, proof
from gateway.wire.rpc.faults import BadRequest
from gateway.wire.rpc.framing import FrameReader, frame
from gateway.wire.rpc.limits import RpcLimits
from gateway.wire.rpc.messages import (
    Cancel,
    Challenge,
    ClockAdvance,
    Credit,
    Error,
    Hello,
    Message,
    Ping,
    Pong,
    Receipts,
    Status,
    StreamEnded,
    Submit,
    Submitted,
    SubscribeReceipts,
    TaskState,
    Welcome,
)
from gateway.wire.rpc.server import (
    Closed,
    Event,
    HelloAccepted,
    Requested,
    ServerSession,
    StreamCancelled,
    StreamCredited,
)
from gateway.wire.rpc.server_table import TRANSITIONS, Action, Input, Phase

SECRETS = {"shop": [b"new secret", b"old secret"], "": [b"admin key"]}
SERVER_NONCE, CLIENT_NONCE = bytes(range(32)), bytes(range(32, 64))
EMPTY = memoryview(b"")


def look_up(app_key: str) -> Sequence[bytes]:
    return SECRETS.get(app_key, [])


class Peer:
    """A session and what its peer reads from it."""

    def __init__(self, limits: RpcLimits | None = None, **arguments: Any) -> None:
        self.session = ServerSession(
            limits or RpcLimits(), lookup_secret=look_up, nonce=SERVER_NONCE, now=0.0, **arguments
        )
        self._reader = FrameReader(1 << 26)
        self.challenge = self.read()[0]

    def read(self) -> list[Message]:
        self._reader.feed(self.session.data_to_send())
        out: list[Message] = []
        while (payload := self._reader.next_payload()) is not None:
            message = codec.decode_from_server(payload)
            assert isinstance(message, Message)
            out.append(message)
        return out

    def send(self, *messages: Message, now: float = 1.0) -> list[Event]:
        return self.session.receive_data(b"".join(frame(codec.encode(m)) for m in messages), now)

    def greet(self, app_key: str = "shop", secret: bytes = b"new secret", **fields: Any) -> list[Event]:
        mac = proof.client_mac(secret, SERVER_NONCE, CLIENT_NONCE, app_key)
        return self.send(Hello(**({"version": 1, "app_key": app_key, "nonce": CLIENT_NONCE, "mac": mac} | fields)))


def ready(limits: RpcLimits | None = None) -> Peer:
    peer = Peer(limits)
    peer.greet()
    peer.read()
    return peer


def a_submit(number: int, n: int = 1) -> Submit:
    return Submit(id=number, contents=[Variant("t", "b")], n=n, device_ids=memoryview(bytes(16 * n)))


def only_error(peer: Peer) -> Error:
    (error,) = peer.read()
    assert isinstance(error, Error)
    return error


# --- greeting ------------------------------------------------------------------------------------------------------


def test_server_greets_first_and_welcomes_a_proven_app() -> None:
    peer = Peer(name="s-1")
    assert peer.challenge == Challenge(version=1, nonce=SERVER_NONCE, frame_bytes_max=64 << 10)
    assert peer.greet() == [HelloAccepted("shop", "app", 0)]
    (welcome,) = peer.read()
    assert isinstance(welcome, Welcome)
    assert welcome.mac == proof.server_mac(b"new secret", SERVER_NONCE, CLIENT_NONCE, "shop")
    assert (welcome.session, welcome.credit_rows, welcome.limits.submit_rows_max) == ("s-1", 262_144, 131_072)
    assert welcome.names.states[State.UNCERTAIN] == "uncertain"
    assert welcome.names.reasons[Reason.TTL_PASSED] == "ttl_passed"
    assert welcome.names.channels[Channel.APNS] == "apns"
    assert welcome.names.channels[0] == welcome.names.reasons[15] == ""


def test_server_takes_each_secret_while_one_is_rotated_and_answers_with_the_same() -> None:
    peer = Peer()
    peer.greet(secret=b"old secret")
    (welcome,) = peer.read()
    assert isinstance(welcome, Welcome)
    assert welcome.mac == proof.server_mac(b"old secret", SERVER_NONCE, CLIENT_NONCE, "shop")


@pytest.mark.parametrize(
    "fields",
    [
        {"secret": b"wrong"},
        {"app_key": "nobody"},
        {"mac": b""},
        {"role": "operator"},
        {"app_key": "", "secret": b"admin key"},
        {"nonce": bytes(32)},
    ],
)
def test_server_refuses_a_hello_that_proves_nothing(fields: dict[str, Any]) -> None:
    peer = Peer()
    (closed,) = peer.greet(**fields)
    assert isinstance(closed, Closed)
    assert closed.reason is peer.session.close_reason is CloseReason.BAD_CREDENTIALS
    assert only_error(peer).code == "bad_credentials"


def test_server_refuses_a_hello_recorded_on_another_connection() -> None:
    recorded = Hello(
        version=1,
        app_key="shop",
        nonce=CLIENT_NONCE,
        mac=proof.client_mac(b"new secret", bytes(32), CLIENT_NONCE, "shop"),
    )
    peer = Peer()
    peer.send(recorded)
    assert only_error(peer).code == "bad_credentials"


def test_server_trusts_an_operator_on_the_operators_socket_and_elsewhere_asks_for_the_admin_key() -> None:
    trusted = Peer(has_trusted_peer=True)
    assert trusted.greet("", role="operator", mac=b"") == [HelloAccepted("", "operator")]
    remote = Peer()
    assert remote.greet("", secret=b"admin key", role="operator") == [HelloAccepted("", "operator", 0)]
    stranger = Peer()
    stranger.greet("", role="operator", mac=b"")
    assert only_error(stranger).code == "bad_credentials"


def test_server_ends_a_second_hello() -> None:
    peer = ready()
    (closed,) = peer.greet()
    assert closed == Closed(CloseReason.PROTOCOL_ERROR, "already_authenticated", "hello came twice")
    assert only_error(peer).id == 0


def test_server_refuses_another_version_by_name() -> None:
    peer = Peer()
    (closed,) = peer.greet(version=2)
    assert isinstance(closed, Closed)
    assert closed.reason is CloseReason.UNSUPPORTED_VERSION
    assert "expected 1" in only_error(peer).text


@pytest.mark.parametrize("message", [Ping(id=1), Credit(rows=1), Cancel(id=1)])
def test_server_takes_nothing_before_hello(message: Message) -> None:
    peer = Peer()
    peer.send(message)
    assert only_error(peer).code == "not_authenticated"
    assert peer.session.close_reason is CloseReason.PROTOCOL_ERROR


def test_server_holds_a_stranger_to_small_frames_and_a_client_to_large_ones() -> None:
    stranger = Peer()
    (closed,) = stranger.session.receive_data((1 << 20).to_bytes(4, "big"), 1.0)
    assert closed == Closed(CloseReason.FRAME_TOO_LARGE, "frame_too_large", "frame is 1048576 bytes, limit 65536")
    client = ready()
    assert client.session.receive_data((1 << 20).to_bytes(4, "big"), 1.0) == []
    client = ready()
    (closed,) = client.session.receive_data((1 << 25).to_bytes(4, "big"), 1.0)
    assert isinstance(closed, Closed)
    assert closed.reason is CloseReason.FRAME_TOO_LARGE


# --- deadlines -----------------------------------------------------------------------------------------------------


def test_server_lets_a_silent_peer_go_after_the_hello_timeout() -> None:
    peer = Peer()
    assert peer.session.next_deadline() == 5.0
    assert peer.session.on_deadline(4.9) == []
    (closed,) = peer.session.on_deadline(5.0)
    assert isinstance(closed, Closed)
    assert closed.reason is CloseReason.HANDSHAKE_TIMEOUT
    assert peer.session.next_deadline() == math.inf


def test_server_gives_each_frame_its_time_and_no_more() -> None:
    peer = ready()
    assert peer.session.next_deadline() == math.inf
    data = frame(codec.encode(Ping(id=1)))
    peer.session.receive_data(data[:3], 10.0)
    assert peer.session.next_deadline() == 40.0
    peer.session.receive_data(data[3:5], 20.0)
    assert peer.session.next_deadline() == 40.0
    peer.session.receive_data(data[5:] + data[:2], 30.0)
    assert peer.session.next_deadline() == 60.0
    assert peer.session.on_deadline(59.0) == []
    (closed,) = peer.session.on_deadline(60.0)
    assert isinstance(closed, Closed)
    assert closed.reason is CloseReason.HALF_FRAME_TIMEOUT


# --- requests ------------------------------------------------------------------------------------------------------


def test_server_delivers_requests_and_takes_their_answers_in_any_order() -> None:
    peer = ready()
    events = peer.send(TaskState(id=7, task_id=bytes(16)), TaskState(id=8, task_id=bytes(16)))
    assert [event.message.id for event in events if isinstance(event, Requested)] == [7, 8]
    assert peer.session.open_requests == 2
    assert peer.session.send(Error(id=8, code="not_found", text="no such task"))
    assert peer.session.send(Error(id=7, code="not_found", text="no such task"))
    assert [message.id for message in peer.read() if isinstance(message, Error)] == [8, 7]
    assert peer.session.open_requests == 0


def test_server_answers_ping_by_itself() -> None:
    peer = ready()
    assert peer.send(Ping(id=5)) == []
    assert peer.read() == [Pong(id=5)]


def test_server_keeps_apps_and_operators_to_their_requests() -> None:
    app = ready()
    assert app.send(Status(id=1), ClockAdvance(id=2, seconds=1)) == []
    assert [message.code for message in app.read() if isinstance(message, Error)] == ["forbidden", "forbidden"]
    operator = Peer(has_trusted_peer=True)
    operator.greet("", role="operator", mac=b"")
    operator.read()
    assert operator.send(a_submit(1), SubscribeReceipts(id=2)) == []
    assert [message.code for message in operator.read() if isinstance(message, Error)] == ["forbidden", "forbidden"]
    assert len(operator.send(Status(id=3))) == 1


def test_server_answers_a_faulty_request_and_goes_on() -> None:
    peer = ready()
    peer.session.receive_data(frame(msgspec.msgpack.encode({"kind": "ping", "id": 3, "extra": 1})), 1.0)
    peer.session.receive_data(frame(msgspec.msgpack.encode({"kind": "warp", "id": 4})), 1.0)
    assert [(m.id, m.code) for m in peer.read() if isinstance(m, Error)] == [(3, "bad_request"), (4, "unknown_kind")]
    assert peer.session.close_reason is None


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"\xc1", "bad_frame"),
        (msgspec.msgpack.encode({"kind": "warp"}), "unknown_kind"),
        (msgspec.msgpack.encode({"kind": "ping"}), "bad_request"),
        (codec.encode(Credit(rows=5)), "bad_request"),
    ],
)
def test_server_ends_a_connection_whose_fault_belongs_to_no_request(payload: bytes, code: str) -> None:
    peer = ready()
    (closed,) = peer.session.receive_data(frame(payload) + frame(codec.encode(Ping(id=1))), 1.0)
    assert isinstance(closed, Closed)
    assert (closed.reason, closed.code) == (CloseReason.PROTOCOL_ERROR, code)
    assert only_error(peer).id == 0


def test_server_ends_a_client_that_uses_a_number_twice() -> None:
    for again in (codec.encode(TaskState(id=7, task_id=bytes(16))), msgspec.msgpack.encode({"kind": "x", "id": 7})):
        peer = ready()
        peer.send(TaskState(id=7, task_id=bytes(16)))
        (closed,) = peer.session.receive_data(frame(again), 1.0)
        assert isinstance(closed, Closed)
        assert "request 7 is still in flight" in closed.text


def test_server_bounds_the_requests_in_flight() -> None:
    peer = ready(RpcLimits(requests_in_flight_max=2))
    events = peer.send(*[TaskState(id=number, task_id=bytes(16)) for number in (1, 2, 3)])
    assert len(events) == 2
    error = only_error(peer)
    assert (error.id, error.code, error.field, error.limit) == (3, "overloaded", "requests_in_flight_max", 2)


def test_server_answer_to_no_request_is_our_bug() -> None:
    peer = ready()
    with pytest.raises(LocalProtocolError, match="no request 9"):
        peer.session.send(Pong(id=9))


def test_server_drops_an_answer_that_nobody_can_read_any_more() -> None:
    peer = ready()
    peer.send(TaskState(id=1, task_id=bytes(16)))
    assert peer.session.peer_closed() == [Closed(CloseReason.PEER_CLOSED, None, "peer closed")]
    assert peer.session.send(Error(id=1, code="not_found", text="")) is False
    assert peer.session.receive_data(b"more", 1.0) == []


def test_server_refusals_become_errors_that_say_what_to_mend() -> None:
    peer = ready()
    peer.send(TaskState(id=1, task_id=bytes(16)), TaskState(id=2, task_id=bytes(16)))
    peer.session.send_refusal(1, Overloaded("parked_rows_max", 7, 6, retry_after_s=0.25))
    peer.session.send_refusal(2, BadRequest("n", "n is 3, limit 2", limit=2, value=3))
    one, two = peer.read()
    assert one == Error(
        id=1,
        code="overloaded",
        text="parked_rows_max is 7, limit 6; retry after 0.25 s",
        field="parked_rows_max",
        limit=6,
        value=7,
        retry_after_ms=250,
    )
    assert two == Error(id=2, code="bad_request", text="n is 3, limit 2", field="n", limit=2, value=3)


# --- credit --------------------------------------------------------------------------------------------------------


def test_server_refuses_a_submit_beyond_credit_and_takes_it_after_a_grant() -> None:
    peer = ready(RpcLimits(submit_rows_max=10, credit_rows=10))
    assert len(peer.send(a_submit(1, 8))) == 1
    assert peer.send(a_submit(2, 3)) == []
    error = only_error(peer)
    assert (error.code, error.field, error.limit, error.value) == ("overloaded", "credit_rows", 2, 3)
    assert error.retry_after_ms == 200
    peer.session.send(Submitted(id=1, task_id=bytes(16), accepted=8))
    peer.read()
    assert peer.send(a_submit(3, 3)) == []
    peer.read()
    peer.session.grant(8, 100)
    assert peer.read() == [Credit(rows=8, bytes=100)]
    assert len(peer.send(a_submit(4, 10))) == 1


def test_server_gives_the_credit_of_a_failed_submit_back() -> None:
    peer = ready(RpcLimits(submit_rows_max=10, credit_rows=10))
    for number in range(1, 5):
        assert len(peer.send(a_submit(number, 10))) == 1
        peer.session.send(Error(id=number, code="internal", text=""))


def test_server_counts_the_bytes_of_submits() -> None:
    peer = ready(RpcLimits(frame_bytes_max=64 << 10, credit_bytes=64 << 10))
    assert len(peer.send(a_submit(1, 3000))) == 1
    assert peer.send(a_submit(2, 3000)) == []
    assert only_error(peer).field == "credit_bytes"


def test_server_says_at_once_that_a_submit_is_larger_than_any_may_be() -> None:
    peer = ready(RpcLimits(submit_rows_max=10, credit_rows=10))
    assert peer.send(a_submit(1, 11)) == []
    assert only_error(peer).code == "bad_request"


# --- streams -------------------------------------------------------------------------------------------------------


def receipts(number: int, n: int) -> Receipts:
    return Receipts(
        id=number,
        cursor=b"c",
        n=n,
        message_ids=EMPTY,
        device_ids=EMPTY,
        state=EMPTY,
        reason=EMPTY,
        receipt=EMPTY,
        channel=EMPTY,
        at_unix_ms=EMPTY,
    )


def test_server_stream_goes_as_far_as_its_credit_and_ends_when_cancelled() -> None:
    peer = ready()
    assert len(peer.send(SubscribeReceipts(id=4, credit_rows=10))) == 1
    assert peer.session.stream_credit(4) == 10
    peer.session.send(receipts(4, 7))
    assert peer.session.stream_credit(4) == 3
    with pytest.raises(LocalProtocolError, match="credit 3"):
        peer.session.send(receipts(4, 4))
    assert peer.send(Credit(id=4, rows=5)) == [StreamCredited(4, 5)]
    assert peer.session.stream_credit(4) == 8
    peer.read()
    assert peer.send(Cancel(id=4), Cancel(id=4), Credit(id=4, rows=1)) == [StreamCancelled(4)]
    assert peer.read() == [StreamEnded(id=4)]
    assert peer.session.open_requests == 0


def test_server_bounds_the_streams() -> None:
    peer = ready(RpcLimits(streams_max=1))
    assert len(peer.send(SubscribeReceipts(id=1), SubscribeReceipts(id=2))) == 1
    assert only_error(peer).field == "streams_max"


# --- shutdown ------------------------------------------------------------------------------------------------------


def test_server_shutdown_answers_what_is_in_flight_and_turns_the_rest_away() -> None:
    peer = ready()
    peer.send(TaskState(id=1, task_id=bytes(16)))
    assert peer.session.begin_shutdown() == []
    assert only_error(peer).code == "shutting_down"
    assert peer.send(a_submit(2), Ping(id=3)) == []
    error, pong = peer.read()
    assert (error.code, pong) == ("shutting_down", Pong(id=3))  # type: ignore[attr-defined]
    assert peer.session.send(Error(id=1, code="not_found", text=""))
    (closed,) = peer.session.end(CloseReason.SHUTDOWN)
    assert isinstance(closed, Closed)
    assert peer.session.close_reason is CloseReason.SHUTDOWN


def test_server_that_leaves_says_so_once_more_and_takes_requests_as_before() -> None:
    peer = ready()
    assert peer.session.begin_leaving() == []
    assert only_error(peer).code == "shutting_down"
    assert len(peer.send(a_submit(2))) == 1
    assert peer.session.open_requests == 1
    peer.session.begin_shutdown()
    assert only_error(peer).code == "shutting_down"
    assert peer.send(a_submit(3)) == []
    assert peer.session.begin_leaving() == []


def test_server_that_leaves_lets_a_stranger_say_hello() -> None:
    peer = Peer()
    assert peer.session.begin_leaving() == []
    assert peer.session.close_reason is None


def test_server_shutdown_lets_a_stranger_go_at_once() -> None:
    peer = Peer()
    (closed,) = peer.session.begin_shutdown()
    assert isinstance(closed, Closed)
    assert closed.reason is CloseReason.SHUTDOWN


# --- laws ----------------------------------------------------------------------------------------------------------

#: What a check of a hello finds out can only happen while the greeting is checked.
FOUND_OUT = (Input.PROVEN, Input.REFUSED, Input.OTHER_VERSION)
IMPOSSIBLE = {(phase, found) for phase in (Phase.READY, Phase.DRAINING, Phase.CLOSED) for found in FOUND_OUT} | {
    # A violation is found while a request is admitted, and before hello none is.
    (Phase.GREETING, Input.VIOLATION)
}


def test_server_table_has_a_step_for_every_phase_and_input() -> None:
    everything = {(phase, input_) for phase in Phase for input_ in Input}
    assert everything - TRANSITIONS.keys() == IMPOSSIBLE
    assert not TRANSITIONS.keys() & IMPOSSIBLE


def test_server_table_ends_with_a_reason_and_nowhere_else() -> None:
    for (phase, input_), step in TRANSITIONS.items():
        assert (step.action is Action.END) == (step.reason is not None), (phase, input_)
        assert (step.phase is Phase.CLOSED) == (step.action is Action.END or phase is Phase.CLOSED), (phase, input_)


PIECES = st.one_of(
    st.sampled_from(
        [
            frame(codec.encode(message))
            for message in (
                Hello(
                    version=1,
                    app_key="shop",
                    nonce=CLIENT_NONCE,
                    mac=proof.client_mac(b"new secret", SERVER_NONCE, CLIENT_NONCE, "shop"),
                ),
                Ping(id=1),
                a_submit(2),
                TaskState(id=3, task_id=bytes(16)),
                SubscribeReceipts(id=4, credit_rows=1),
                Cancel(id=4),
                Credit(id=4, rows=2),
                Credit(rows=1),
                Status(id=5),
            )
        ]
    ),
    st.binary(max_size=12),
    st.binary(max_size=12).map(frame),
)


@given(pieces=st.lists(PIECES, max_size=8), cut=st.integers(1, 40))
def test_server_meets_any_bytes_with_events_and_at_most_one_close_reason(pieces: list[bytes], cut: int) -> None:
    stream = b"".join(pieces)
    runs = []
    for size in (len(stream) or 1, cut, 1):
        peer = Peer(RpcLimits(frame_timeout_s=1e9))
        events: list[Event] = []
        for at in range(0, len(stream), size):
            events += peer.session.receive_data(stream[at : at + size], 1.0)
        assert sum(isinstance(event, Closed) for event in events) == (peer.session.close_reason is not None)
        assert not events or not any(isinstance(event, Closed) for event in events[:-1])
        runs.append((repr_of(events), [codec.encode(message) for message in peer.read()]))
    assert runs[0] == runs[1] == runs[2]


def repr_of(events: list[Event]) -> list[object]:
    """Events without the addresses of memoryviews."""
    return [codec.encode(event.message) if isinstance(event, Requested) else event for event in events]


def test_server_session_of_a_silent_connection_is_tiny() -> None:
    limits = RpcLimits()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        sessions = []
        for _ in range(1000):
            session = ServerSession(limits, lookup_secret=look_up, nonce=SERVER_NONCE, now=0.0)
            session.data_to_send()
            sessions.append(session)
        size = (tracemalloc.get_traced_memory()[0] - before) / len(sessions)
    finally:
        tracemalloc.stop()
    assert size < 700


def test_limits_that_contradict_each_other_are_refused() -> None:
    for fields in (
        {"credit_rows": 5},
        {"credit_bytes": 5},
        {"frame_bytes_max": 5},
        {"submit_rows_max": 0},
        {"hello_timeout_s": 0.0},
        {"refused_rows_max": -1},
    ):
        with pytest.raises(ValueError, match=next(iter(fields))):
            RpcLimits(**fields)  # type: ignore[arg-type]
