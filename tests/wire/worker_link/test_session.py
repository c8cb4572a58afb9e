"""LinkSession: hello first, outcomes before rows, rows by credit; any bytes give events or RemoteProtocolError."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import LocalProtocolError, RemoteProtocolError
from gateway.wire.rpc.framing import frame
from gateway.wire.worker_link import Answer, Ask, Closed, Credit, Hello, LinkSession, Opened, Outcomes, Slice
from gateway.wire.worker_link.messages import VERSION, array, column, encode, packed, unpacked

NOTHING = memoryview(b"")


def hello(worker: int, **fields: Any) -> Hello:
    given_fields = {"credit_rows": 100, "credit_bytes": 10_000, "workers": 2, "incarnation": 1, "version": VERSION}
    return Hello(worker=worker, **(given_fields | fields))


def make_slice(n: int, size: int = 10) -> Slice:
    return Slice(n, 0.5, column(np.arange(n), "<u2"), memoryview(bytes(size)))


def make_outcomes(n: int) -> Outcomes:
    return Outcomes(
        address=(1, 2, 3),
        n=n,
        rows=column(np.arange(n), "<u2"),
        bursts=[],
        codes=column(np.zeros((8, n)), "u1"),
        words=column(np.zeros((4, n)), "<u4"),
    )


def pair(**fields: Any) -> tuple[LinkSession, LinkSession]:
    """Two sessions that know each other; fields: of the second one's hello."""
    one, two = LinkSession(hello(0)), LinkSession(hello(1, **fields))
    for a, b in ((one, two), (two, one)):
        (opened,) = b.receive_data(a.data_to_send())
        assert isinstance(opened, Opened)
    return one, two


def test_sessions_learn_who_the_other_is_and_what_it_has_room_for() -> None:
    one, _ = pair(incarnation=7, credit_rows=5, credit_bytes=50)
    assert one.peer is not None
    assert (one.peer.worker, one.peer.incarnation) == (1, 7)
    assert one.has_room(5)
    assert not one.has_room(6)


def test_nothing_but_hello_leaves_before_the_peer_has_said_hello() -> None:
    one = LinkSession(hello(0))
    one.send(Ask(1, "rpc", {}, NOTHING))
    first = one.data_to_send()
    assert one.data_to_send() == b""
    two = LinkSession(hello(1))
    assert len(two.receive_data(first)) == 1
    one.receive_data(two.data_to_send())
    (ask,) = two.receive_data(one.data_to_send())
    assert isinstance(ask, Ask)


def test_outcomes_and_control_overtake_rows() -> None:
    one, two = pair()
    one.send_slice(make_slice(3))
    one.send(make_outcomes(2))
    one.give(4, 40)
    kinds = [type(event) for event in two.receive_data(one.data_to_send())]
    assert kinds == [Outcomes, Credit, Slice]
    assert one.unsent_bytes == 0


def test_rows_go_by_credit_and_one_slice_may_overdraw_its_bytes() -> None:
    one, two = pair(credit_rows=5, credit_bytes=50)
    assert one.send_slice(make_slice(2, size=80)) == 80
    assert not one.has_room(1)
    with pytest.raises(LocalProtocolError, match="credit 3 rows and -30 bytes"):
        one.send_slice(make_slice(1))
    two.receive_data(one.data_to_send())
    two.give(2, 80)
    one.receive_data(two.data_to_send())
    assert (one.room_rows, one.room_bytes) == (5, 50)


@pytest.mark.parametrize("fault", ["rows", "bytes"])
def test_peer_that_sends_more_than_its_credit_is_refused(fault: str) -> None:
    one, two = pair(credit_rows=5, credit_bytes=50)
    # One that takes its credit for greater than it is.
    one.room_rows, one.room_bytes = 1000, 100_000
    one.send_slice(make_slice(6 if fault == "rows" else 1, size=60))
    one.send_slice(make_slice(1, size=60))
    with pytest.raises(RemoteProtocolError, match="credit"):
        two.receive_data(one.data_to_send())


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (hello(1, version=VERSION + 1), "version"),
        (hello(1, workers=3), "3 workers"),
        (hello(0), "worker 0 is this one"),
    ],
)
def test_peer_of_another_build_or_number_is_refused(other: Hello, text: str) -> None:
    with pytest.raises(RemoteProtocolError, match=text):
        LinkSession(hello(0)).receive_data(frame(encode(other)))


def test_message_before_hello_and_second_hello_are_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="before hello"):
        LinkSession(hello(0)).receive_data(frame(encode(Credit(1, 1))))
    one, _ = pair()
    with pytest.raises(RemoteProtocolError, match="second hello"):
        one.receive_data(frame(encode(hello(1))))


def test_end_of_the_peer_is_told_once_and_says_whether_a_frame_was_cut() -> None:
    one, two = pair()
    assert one.receive_data(b"") == [Closed(True)]
    assert one.receive_data(b"") == []
    two.receive_data(frame(encode(Credit(1, 1)))[:3])
    assert two.receive_data(b"") == [Closed(False)]


@given(st.lists(st.integers(0, 3), max_size=8), st.data())
def test_events_are_the_same_however_the_bytes_are_cut(kinds: list[int], data: Any) -> None:
    one, two = pair()
    for kind in kinds:
        match kind:
            case 0:
                one.send_slice(make_slice(1))
            case 1:
                one.send(make_outcomes(3))
            case 2:
                one.send(Ask(kind, "rpc", {"app": "shop"}, memoryview(b"body")))
            case _:
                one.send(Answer(kind, memoryview(b"body")))
    stream = one.data_to_send(1 << 30)
    whole = [encode(event) for event in two.receive_data(stream)] if stream else []
    other = LinkSession(hello(1))
    other.receive_data(frame(encode(hello(0))))
    events = []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        events += [encode(event) for event in other.receive_data(stream[:cut])]
        stream = stream[cut:]
    assert events == whole


@given(st.binary(max_size=60))
def test_any_bytes_give_events_or_the_peers_fault(data: bytes) -> None:
    one, _ = pair()
    try:
        one.receive_data(frame(data))
    except RemoteProtocolError:
        return


@given(st.lists(st.integers(0, 255), max_size=50))
def test_packed_column_is_unpacked_to_what_it_was(values: list[int]) -> None:
    column_ = np.array(values, np.uint8)
    data = packed(column_)
    assert len(data) == (1 if len(set(values)) == 1 else len(values))
    assert unpacked("x", data, len(values)).tolist() == values


def test_columns_of_the_wrong_size_are_refused() -> None:
    with pytest.raises(ValueError, match="column x is 3 bytes, expected 4"):
        array("x", memoryview(b"abc"), "<u2", 2)
    with pytest.raises(ValueError, match="column x is 2 bytes, expected 3"):
        unpacked("x", memoryview(b"ab"), 3)
