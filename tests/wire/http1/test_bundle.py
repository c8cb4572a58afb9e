"""The bundle: how many sockets, which row over which, and what becomes of rows when sockets end."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gateway.errors import CloseReason, LocalProtocolError
from gateway.vendor import Requests
from gateway.wire.h2.events import AnswerDetail, Answers, Refused, RefusedWhy, Terminated, TimedOut, Writable

Play = Callable[..., Any]


def test_nothing_is_taken_before_a_socket_stands_and_then_a_whole_bundle(play: Play) -> None:
    made = play(is_connected=False, sockets_max=3, queue_max=2)
    assert (made.opening, made.bundle.capacity(), made.send(5)) == ([1], 0, 0)
    made.connect()
    assert made.events == [Writable()]
    assert (made.bundle.capacity(), made.send(9), made.bundle.capacity()) == (5, 5, 0)


def test_sockets_are_opened_as_rows_need_them_a_few_at_a_time(play: Play) -> None:
    made = play(sockets_max=8, queue_max=8, connecting_max=2)
    assert made.opening == []
    made.send(6)
    assert (len(made.wire), len(made.opening)) == (1, 2)
    made.connect(1)
    assert (len(made.wire), len(made.opening)) == (2, 2)
    made.connect()
    assert (len(made.wire), len(made.opening)) == (6, 0)
    made.send(10)
    made.connect()
    statistics = made.bundle.statistics()
    assert (statistics.sockets, statistics.in_flight, statistics.queued, statistics.open_streams) == (8, 8, 8, 16)


def test_a_socket_under_way_is_not_asked_for_twice(play: Play) -> None:
    made = play(sockets_max=8, queue_max=8, connecting_max=8)
    made.send(2)
    assert len(made.opening) == 1
    made.send(1)
    assert len(made.opening) == 2


def test_each_socket_has_one_request_in_flight_and_takes_the_next_when_answered(play: Play, request_tag: Any) -> None:
    made = play(sockets_max=2, queue_max=5)
    made.send(5)
    made.connect()
    first, second = made.wire
    assert [request_tag(data) for data in made.wire.values()] == [0, 1]
    made.answer(second, 500)
    assert {number: request_tag(data) for number, data in made.wire.items()} == {first: 0, second: 2}
    made.answer(first)
    made.answer(first, 200, b"{}")
    assert made.ended == {
        1: (500, AnswerDetail({b"content-length": b"0"}, b"")),
        0: (200, None),
        3: (200, AnswerDetail({}, b"{}")),
    }


def test_answers_between_two_looks_are_one_event(play: Play, answer_bytes: Any) -> None:
    made = play(sockets_max=3)
    made.send(3)
    made.connect()
    for number in list(made.wire):
        made.bundle.receive_data(number, answer_bytes(200), made.now)
    (event,) = made.bundle.take_events()
    assert isinstance(event, Answers)
    assert sorted(event.tags.tolist()) == [0, 1, 2]


def test_idle_sockets_are_used_newest_first_and_those_beyond_need_are_closed_in_time(play: Play) -> None:
    made = play(sockets_max=3, socket_idle_s=50.0)
    made.send(3)
    made.connect()
    last = list(made.wire)[-1]
    for number in list(made.wire):
        made.answer(number)
    for _ in range(10):
        made.now += 10
        made.send(1)
        made.answer(last)
        made.wait(made.now)
    assert made.bundle.statistics().sockets == 1
    assert [reason for _, reason, _ in made.closed] == [CloseReason.IDLE] * 2
    made.wait(made.now + 60)
    assert made.bundle.statistics().sockets == 0
    # The bundle lives on without sockets, and opens one for the next row.
    assert made.send(1) == 1
    made.connect()
    assert len(made.wire) == 1


def test_a_server_that_keeps_connections_for_less_is_believed(play: Play) -> None:
    made = play(socket_idle_s=50.0)
    made.send(1)
    made.answer(1, 200, b"", b"keep-alive: timeout=10")
    made.wait(8.9)
    assert made.closed == []
    made.wait(9.1)
    assert [reason for _, reason, _ in made.closed] == [CloseReason.IDLE]


def test_a_socket_that_does_not_persist_is_replaced_as_rows_need_it(play: Play) -> None:
    made = play(sockets_max=1, queue_max=3)
    made.send(3)
    for tag in range(3):
        (number,) = made.wire
        made.answer(number, 200, b"", b"connection: close")
        assert made.ended[tag] == (200, None)
        made.connect()
    assert [reason for _, reason, _ in made.closed] == [CloseReason.PEER_CLOSED] * 3
    assert not made.bundle.is_terminated


def test_a_request_that_went_out_on_a_closing_connection_is_uncertain_on_a_used_one_as_on_a_new_one(play: Play) -> None:
    """RFC 9112 section 9.3.1: a POST is not sent again by itself, since nothing proves that it was not applied."""
    made = play(sockets_max=2)
    made.send(2)
    made.connect()
    made.answer(1)
    made.send(1)
    made.hang_up(1)  # used before, and idle until just now
    made.hang_up(2)  # never used
    assert made.ended == {0: (200, None), 2: "reset", 1: "reset"}


def test_a_row_that_no_socket_has_begun_to_send_goes_over_another(play: Play) -> None:
    made = play(sockets_max=2, queue_max=0)
    made.send(1)
    made.answer(1)
    # Assigned, but its bytes are still with the bundle when the socket ends.
    path = (np.array([list(b"/t/00000001")], np.uint8),)
    requests = Requests(1, b"h", path, (), (b"{}",))
    assert made.bundle.send_requests(requests, 0, np.array([1], np.int64), now=0.0, deadline=9.0) == 1
    made.bundle.receive_end(1, 0.0, is_clean=True)
    made.settle()
    made.connect()
    assert 1 not in made.ended
    (number,) = made.wire
    made.answer(number, 201)
    assert made.ended[1][0] == 201


def test_a_row_that_no_socket_has_begun_to_send_takes_one_that_is_idle(play: Play) -> None:
    made = play(sockets_max=2)
    made.send(2)
    made.connect()
    made.answer(1)
    made.answer(2)
    requests = Requests(1, b"h", (b"/t/00000002",), (), (b"{}",))
    made.bundle.send_requests(requests, 0, np.array([2], np.int64), now=0.0, deadline=9.0)
    made.bundle.receive_end(2, 0.0, is_clean=True)
    made.settle()
    assert list(made.wire) == [1]


def test_the_last_socket_that_comes_to_nothing_ends_the_bundle_and_gives_the_queue_back(play: Play) -> None:
    made = play(sockets_max=2, queue_max=4)
    made.send(4)
    made.hang_up(1)  # with row 0 under way, and never an answer; another is being opened
    assert made.ended == {0: "reset"}
    made.fail(CloseReason.CONNECT_TIMEOUT)
    end = made.events[-1]
    assert isinstance(end, Terminated)
    assert (end.reason, end.refused.tolist(), end.uncertain.tolist()) == (CloseReason.CONNECT_TIMEOUT, [1, 2, 3], [])
    assert (made.bundle.capacity(), made.bundle.next_deadline(), made.opening) == (0, math.inf, [])


def test_a_bundle_that_never_connects_ends_with_the_reason(play: Play) -> None:
    made = play(is_connected=False)
    made.fail(CloseReason.CERTIFICATE_INVALID)
    assert [event.reason for event in made.events] == [CloseReason.CERTIFICATE_INVALID]


def test_a_failed_socket_delays_the_next_while_others_live(play: Play) -> None:
    made = play(sockets_max=3, queue_max=9, connecting_max=1, connect_retry_s=1.0)
    made.send(6)
    made.fail()
    assert made.opening == []
    made.wait(0.9)
    assert made.opening == []
    made.wait(1.1)
    assert len(made.opening) == 1
    made.connect()
    assert made.bundle.statistics().sockets == 3


def test_a_request_without_an_answer_times_out_and_takes_its_socket_along(play: Play) -> None:
    made = play(sockets_max=2, queue_max=2)
    made.send(1)
    made.answer(1)
    made.send(1, deadline=5.0)
    made.wait(4.9)
    assert 1 not in made.ended
    made.wait(5.1)
    assert made.ended[1] == "timed out"
    assert isinstance(made.events[-1], TimedOut)
    assert [(number, reason) for number, reason, _ in made.closed] == [(1, CloseReason.LIVENESS_TIMEOUT)]
    made.feed(1, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")  # too late, and nobody's
    assert made.ended[1] == "timed out"


def test_a_row_whose_time_runs_out_in_the_queue_was_surely_not_sent(play: Play) -> None:
    made = play(sockets_max=1, queue_max=2)
    made.send(1)
    made.send(2, deadline=5.0)
    made.wait(6.0)
    assert made.ended == {1: "refused", 2: "refused"}
    assert [event.why for event in made.events if isinstance(event, Refused)] == [RefusedWhy.NOT_WRITTEN]
    made.answer(1)
    assert made.ended[0] == (200, None)


def test_an_answer_whose_body_takes_too_long_keeps_its_status(play: Play) -> None:
    made = play()
    made.send(1, deadline=5.0)
    made.feed(1, b"HTTP/1.1 503 No\r\ncontent-length: 9\r\nretry-after: 7\r\n\r\nabc")
    made.wait(6.0)
    status, detail = made.ended[0]
    assert (status, detail.headers[b"retry-after"], detail.is_complete) == (503, b"7", False)


@pytest.mark.parametrize(
    ("data", "ended"),
    [(b"SSH-2.0-x\r\n\r\n", "malformed"), (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx\r\n", 200)],
)
def test_what_is_no_answer_closes_the_socket_with_the_reason(play: Play, data: bytes, ended: object) -> None:
    made = play(sockets_max=2, queue_max=0)
    made.send(2)
    made.connect()
    made.feed(1, data)
    assert (made.ended[0] if ended == "malformed" else made.ended[0][0]) == ended
    ((number, reason, text),) = made.closed
    assert (number, reason) == (1, CloseReason.PROTOCOL_ERROR)
    assert text


def test_a_server_that_speaks_unasked_loses_its_socket(play: Play) -> None:
    made = play()
    made.send(1)
    made.answer(1)
    made.feed(1, b"HTTP/1.1 408 Timeout\r\n\r\n")
    assert [reason for _, reason, _ in made.closed] == [CloseReason.PROTOCOL_ERROR]
    assert made.ended == {0: (200, None)}


def test_an_answer_before_the_request_has_left_counts_and_the_socket_waits_for_the_rest(
    play: Play, answer_bytes: Any
) -> None:
    made = play(sockets_max=1, queue_max=3)
    path = (np.array([list(b"/t/%08d" % tag) for tag in range(2)], np.uint8),)
    requests = Requests(2, b"h", path, (), (b"{}",))
    made.bundle.send_requests(requests, 0, np.arange(2), now=0.0, deadline=9.0)
    assert made.bundle.take_writable() == [1]
    assert made.bundle.data_to_send(1)
    made.feed(1, answer_bytes(413))  # the kernel has not taken all of the request
    assert made.ended[0][0] == 413
    assert made.bundle.take_writable() == []
    made.bundle.written(1, 0.0)
    assert made.bundle.take_writable() == [1]


def test_a_socket_whose_request_never_leaves_is_closed_in_time(play: Play, answer_bytes: Any) -> None:
    made = play(sockets_max=1, queue_max=3)
    requests = Requests(1, b"h", (b"/t/00000000",), (), (b"{}",))
    made.bundle.send_requests(requests, 0, np.arange(1), now=0.0, deadline=9.0)
    made.bundle.take_writable()
    made.bundle.data_to_send(1)
    made.feed(1, answer_bytes(413))
    made.wait(10.0)
    assert [reason for _, reason, _ in made.closed] == [CloseReason.LIVENESS_TIMEOUT]
    assert made.bundle.open_count() == 0


def test_drain_gives_the_queue_back_lets_answers_come_and_ends(play: Play) -> None:
    made = play(sockets_max=2, queue_max=3)
    made.send(5)
    made.connect()
    made.answer(2)
    made.send(1)
    made.bundle.drain(CloseReason.CREDENTIAL_REPLACED)
    made.settle()
    assert {tag for tag, outcome in made.ended.items() if outcome == "refused"} == {3, 4, 5}
    assert made.bundle.capacity() == 0
    made.answer(1)
    made.answer(2)
    end = made.events[-1]
    assert isinstance(end, Terminated)
    assert (end.reason, end.refused.tolist(), end.uncertain.tolist()) == (CloseReason.CREDENTIAL_REPLACED, [], [])
    assert sorted(made.ended) == list(range(6))


def test_drain_of_an_idle_or_connecting_bundle_ends_at_once(play: Play) -> None:
    for is_connected in (True, False):
        made = play(is_connected=is_connected)
        made.bundle.drain(CloseReason.IDLE)
        made.settle()
        assert [event.reason for event in made.events if isinstance(event, Terminated)] == [CloseReason.IDLE]
        assert [reason for _, reason, _ in made.closed] == [CloseReason.IDLE]


def test_close_tells_what_was_sent_from_what_was_not(play: Play) -> None:
    made = play(sockets_max=3, queue_max=2)
    made.send(5)
    made.connect()
    made.feed(3, b"HTTP/1.1 400 No\r\ncontent-length: 5\r\n\r\n")
    made.bundle.close(CloseReason.SHUTDOWN)
    made.settle()
    assert (made.ended[0], made.ended[1], made.ended[3], made.ended[4]) == (
        "uncertain", "uncertain", "refused", "refused",
    )  # fmt: skip
    assert made.ended[2][0] == 400
    assert len(made.closed) == 3


def test_a_deadline_that_is_not_ahead_is_our_fault(play: Play) -> None:
    with pytest.raises(LocalProtocolError):
        play().send(1, deadline=0.0)
