"""ClientSession against ServerSession: bytes go from one to the other; both keep the same account."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.content import Variant
from gateway.errors import CloseReason, LocalProtocolError
from gateway.wire.rpc import client, codec, server
from gateway.wire.rpc.client import Answered, ClientSession, CreditCame, Ready
from gateway.wire.rpc.framing import frame
from gateway.wire.rpc.limits import RpcLimits
from gateway.wire.rpc.messages import (
    Cancel,
    Challenge,
    Credit,
    Error,
    Message,
    Ping,
    Pong,
    Receipts,
    StreamEnded,
    Submit,
    Submitted,
    SubscribeReceipts,
    TaskState,
    Welcome,
)

EMPTY = memoryview(b"")


class Pair:
    """A client and a server that read each other's bytes."""

    def __init__(self, limits: RpcLimits | None = None, secret: bytes | None = b"s", **arguments: Any) -> None:
        self.server = server.ServerSession(
            limits or RpcLimits(),
            lookup_secret=lambda app_key: [b"s"] if app_key == "shop" else [],
            nonce=b"N" * 32,
            now=0.0,
            has_trusted_peer=secret is None,
        )
        app_key = "shop" if secret is not None else ""
        self.client = ClientSession(app_key, secret, nonce=b"C" * 32, now=0.0, **arguments)

    def turn(self) -> tuple[list[client.Event], list[server.Event]]:
        """Everything that is written is read, until nobody has anything to say."""
        seen: tuple[list[client.Event], list[server.Event]] = ([], [])
        while True:
            down, up = self.server.data_to_send(), self.client.data_to_send()
            if not down and not up:
                return seen
            seen[0].extend(self.client.receive_data(down))
            seen[1].extend(self.server.receive_data(up, 1.0))


def a_submit(number: int, n: int = 1) -> Submit:
    return Submit(id=number, contents=[Variant("t", "b")], n=n, device_ids=memoryview(bytes(16 * n)))


def test_client_and_server_prove_themselves_to_each_other() -> None:
    pair = Pair()
    client_events, server_events = pair.turn()
    assert [type(event) for event in client_events] == [Ready]
    assert server_events == [server.HelloAccepted("shop", "app", 0)]
    assert pair.client.next_deadline() == math.inf


def test_client_without_secret_is_an_operator_on_the_operators_socket() -> None:
    pair = Pair(secret=None, role="operator")
    assert pair.turn()[1] == [server.HelloAccepted("", "operator")]


def test_client_leaves_a_server_that_does_not_know_the_secret() -> None:
    mine = ClientSession("shop", b"s", nonce=b"C" * 32, now=0.0)
    mine.receive_data(frame(codec.encode(Challenge(version=1, nonce=b"N" * 32, frame_bytes_max=65536))))
    pair = Pair()
    pair.turn()
    assert pair.client.welcome is not None
    false = Welcome(
        mac=bytes(32),
        session="",
        credit_rows=1,
        credit_bytes=1,
        limits=pair.client.welcome.limits,
        names=pair.client.welcome.names,
    )
    (closed,) = mine.receive_data(frame(codec.encode(false)))
    assert isinstance(closed, client.Closed)
    assert closed.reason is CloseReason.BAD_CREDENTIALS


def test_client_learns_why_it_was_refused() -> None:
    pair = Pair(secret=b"wrong")
    (closed,) = pair.turn()[0]
    assert isinstance(closed, client.Closed)
    assert closed.reason is CloseReason.BAD_CREDENTIALS
    assert closed.error is not None
    assert closed.error.code == "bad_credentials"


def test_client_refuses_a_challenge_of_another_version() -> None:
    mine = ClientSession("shop", b"s", nonce=b"C" * 32, now=0.0)
    (closed,) = mine.receive_data(frame(codec.encode(Challenge(version=2, nonce=b"N" * 32, frame_bytes_max=65536))))
    assert isinstance(closed, client.Closed)
    assert closed.reason is CloseReason.UNSUPPORTED_VERSION


def test_client_waits_for_welcome_only_so_long() -> None:
    mine = ClientSession("shop", b"s", nonce=b"C" * 32, now=3.0, hello_timeout_s=2.0)
    assert mine.on_deadline(4.9) == []
    (closed,) = mine.on_deadline(mine.next_deadline())
    assert isinstance(closed, client.Closed)
    assert closed.reason is CloseReason.HANDSHAKE_TIMEOUT


def test_client_and_server_keep_one_account_of_credit() -> None:
    pair = Pair(RpcLimits(submit_rows_max=10, credit_rows=10))
    pair.turn()
    first = a_submit(pair.client.next_id(), 8)
    pair.client.send(first)
    second = a_submit(pair.client.next_id(), 3)
    assert not pair.client.has_room(second, codec.encode(second))
    with pytest.raises(LocalProtocolError, match="no credit: 2 rows"):
        pair.client.send(second)
    pair.turn()
    pair.server.send(Error(id=first.id, code="overloaded", text=""))
    (answered,) = pair.turn()[0]
    assert isinstance(answered, Answered)
    assert pair.client.has_room(second, codec.encode(second))
    pair.client.send(second)
    (_, events) = pair.turn()
    assert len(events) == 1
    pair.server.send(Submitted(id=second.id, task_id=bytes(16), accepted=3))
    pair.server.grant(3, 50)
    events_here = pair.turn()[0]
    assert [type(event) for event in events_here] == [Answered, CreditCame]
    assert pair.client.credit_rows == 10


def test_client_bounds_its_requests_in_flight_as_the_server_said() -> None:
    pair = Pair(RpcLimits(requests_in_flight_max=1))
    pair.turn()
    pair.client.send(TaskState(id=1, task_id=bytes(16)))
    with pytest.raises(LocalProtocolError):
        pair.client.send(TaskState(id=2, task_id=bytes(16)))


def test_client_stream_pages_come_until_cancelled() -> None:
    pair = Pair()
    pair.turn()
    pair.client.send(SubscribeReceipts(id=1, credit_rows=2))
    pair.turn()
    page = Receipts(
        id=1,
        cursor=b"x",
        n=2,
        message_ids=EMPTY,
        device_ids=EMPTY,
        state=EMPTY,
        reason=EMPTY,
        receipt=EMPTY,
        channel=EMPTY,
        at_unix_ms=EMPTY,
    )
    pair.server.send(page)
    (answered,) = pair.turn()[0]
    assert isinstance(answered, Answered)
    pair.client.grant(1, 2)
    pair.turn()
    pair.server.send(page)
    pair.client.send(Cancel(id=1))
    assert [event for event in pair.turn()[0] if isinstance(event, Answered)] == [Answered(StreamEnded(id=1))]
    assert pair.client.open_requests == 0


def test_client_stays_through_the_announcement_of_a_shutdown() -> None:
    pair = Pair()
    pair.turn()
    pair.client.send(TaskState(id=1, task_id=bytes(16)))
    pair.turn()
    pair.server.begin_shutdown()
    pair.server.send(Error(id=1, code="not_found", text=""))
    (answered,) = pair.turn()[0]
    assert isinstance(answered, Answered)


def test_client_knows_that_its_server_leaves_and_may_still_ask() -> None:
    pair = Pair()
    pair.turn()
    assert not pair.client.is_leaving
    pair.server.begin_leaving()
    assert pair.turn()[0] == []
    assert pair.client.is_leaving
    pair.client.send(TaskState(id=1, task_id=bytes(16)))
    pair.turn()
    pair.server.send(Error(id=1, code="not_found", text=""))
    (answered,) = pair.turn()[0]
    assert isinstance(answered, Answered)


def test_client_tells_which_requests_get_no_answer() -> None:
    pair = Pair()
    pair.turn()
    pair.client.send(TaskState(id=5, task_id=bytes(16)))
    (closed,) = pair.client.peer_closed()
    assert isinstance(closed, client.Closed)
    assert closed.unanswered == {5}
    assert pair.client.peer_closed() == []


@pytest.mark.parametrize(
    "message",
    [
        Pong(id=1),
        Pong(id=99),
        Challenge(version=1, nonce=bytes(32), frame_bytes_max=1),
        StreamEnded(id=1),
    ],
)
def test_client_ends_a_server_that_answers_what_was_not_asked(message: Message) -> None:
    pair = Pair()
    pair.turn()
    pair.client.send(TaskState(id=1, task_id=bytes(16)))
    (closed,) = pair.client.receive_data(frame(codec.encode(message)))
    assert isinstance(closed, client.Closed)
    assert closed.reason is CloseReason.PROTOCOL_ERROR


def test_client_numbers_go_round_and_skip_what_is_in_flight() -> None:
    pair = Pair()
    pair.turn()
    pair.client.send(TaskState(id=1, task_id=bytes(16)))
    pair.client._last_id = 0xFFFFFFFF
    assert pair.client.next_id() == 2


def test_client_table_has_a_step_for_every_phase_and_input() -> None:
    assert client.TRANSITIONS.keys() == {(phase, input_) for phase in client.Phase for input_ in client.Input}
    for (phase, _), step in client.TRANSITIONS.items():
        assert (step.reason is not None) == (step.action is client.Action.END)
        assert phase is not client.Phase.CLOSED or step.phase is client.Phase.CLOSED


@given(
    pieces=st.lists(
        st.one_of(
            st.binary(max_size=10),
            st.binary(max_size=10).map(frame),
            st.sampled_from(
                [frame(codec.encode(m)) for m in (Pong(id=1), Credit(rows=1), Error(id=0, code="internal", text=""))]
            ),
        ),
        max_size=5,
    ),
    is_ready=st.booleans(),
)
def test_client_meets_any_bytes_with_events_and_at_most_one_close_reason(pieces: list[bytes], is_ready: bool) -> None:
    pair = Pair()
    if is_ready:
        pair.turn()
        pair.client.send(Ping(id=1))
    events = [event for piece in pieces for event in pair.client.receive_data(piece)]
    assert sum(isinstance(event, client.Closed) for event in events) == (pair.client.close_reason is not None)
