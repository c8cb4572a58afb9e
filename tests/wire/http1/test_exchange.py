"""One connection: answers of every framing, however they are cut, and what remains when they are cut off."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import LocalProtocolError, RemoteProtocolError
from gateway.wire.h2.events import AnswerDetail
from gateway.wire.http1.exchange import Exchange, Outcome, Phase
from gateway.wire.http1.heads import HeadReader, Reported
from gateway.wire.http1.settings import Http1Config


def opened(**config: object) -> Exchange:
    exchange = Exchange(Http1Config(**config), HeadReader(Reported(frozenset(), frozenset())))
    exchange.assign(7, b"request", 10.0)
    assert exchange.data_to_send() == b"request"
    return exchange


def take(exchange: Exchange, chunks: list[bytes], *, is_clean: bool = True) -> tuple[object, ...]:
    """Everything that can be known of an answer that came in these chunks and then ended."""
    outcomes: list[Outcome | None] = []
    fault = ""
    try:
        for chunk in chunks:
            outcomes.append(exchange.receive_data(chunk))
        outcomes.append(exchange.receive_end(is_clean=is_clean))
    except RemoteProtocolError:
        fault = "fault"
    phase, persists = exchange.phase, exchange.is_persistent
    outcomes.append(exchange.end())
    return [outcome for outcome in outcomes if outcome is not None], fault, phase, persists


def cuts(data: bytes, places: list[int]) -> list[list[bytes]]:
    edges = sorted({0, len(data), *(place for place in places if place < len(data))})
    return [
        [data] if data else [],
        [data[n : n + 1] for n in range(len(data))],
        [data[a:b] for a, b in itertools.pairwise(edges)],
    ]


INTERIM = b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.1 100 Go\r\n\r\n"
CHUNKED = b"HTTP/1.1 400 No\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "status", "body", "persists"),
    [
        (b"HTTP/1.1 400 No\r\ncontent-length: 3\r\n\r\nabc", 400, b"abc", True),
        (b"HTTP/1.1 400 No\r\ncontent-length: 0\r\n\r\n", 400, b"", True),
        (b"HTTP/1.1 204 \r\n\r\n", 204, b"", True),
        (b"HTTP/1.1 400 No\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc", 400, b"abc", False),
        (CHUNKED + b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n", 400, b"abc0123456789", True),
        (CHUNKED + b"000\r\nchecksum: 5\r\nx: y\r\n\r\n", 400, b"", True),
        (INTERIM + b"HTTP/1.1 403 No\r\ncontent-length: 1\r\n\r\nx", 403, b"x", True),
        (b"HTTP/1.0 400 No\r\n\r\nall there is", 400, b"all there is", False),
    ],
)  # fmt: skip
def test_answers_of_every_framing_are_read_however_they_are_cut(
    data: bytes, status: int, body: bytes, persists: bool
) -> None:
    for chunks in cuts(data, [5, 20, 40, 60]):
        (outcome,), fault, _, is_persistent = take(opened(), chunks)
        assert (outcome.tag, outcome.status, outcome.detail.body, outcome.detail.is_complete) == (7, status, body, True)
        assert (fault, is_persistent) == ("", persists)


def test_a_bare_200_has_no_detail_and_a_200_with_a_body_has_one() -> None:
    assert opened().receive_data(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n") == Outcome(7, 200, None)
    told = opened().receive_data(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
    assert told == Outcome(7, 200, AnswerDetail({}, b"{}"))


@pytest.mark.parametrize(
    "data",
    [
        CHUNKED + b"x\r\n",
        CHUNKED + b"-1\r\n",
        CHUNKED + b"0x3\r\nabc\r\n",
        CHUNKED + b"3\nabc\r\n",
        CHUNKED + b"3\r\nabcd\r\n",
        CHUNKED + b"1" * 16 + b"\r\n",
        CHUNKED + b"3;" + b"e" * 300,
        CHUNKED + b"0\r\nno trailer\r\n\r\n",
    ],
)
def test_a_body_that_is_no_body_is_a_fault_and_the_status_is_kept(data: bytes) -> None:
    for chunks in cuts(data, [50]):
        (outcome,), fault, phase, _ = take(opened(), chunks)
        assert (outcome.status, outcome.detail.is_complete) == (400, False)
        assert (fault, phase) == ("fault", Phase.HEADED)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200\n\n" * 4 + b"\r\n\r\n",
        b"x" * 300,
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 300 + b"\r\n\r\n",
        b"HTTP/1.1 100 Go\r\n\r\n" * 4,
        b"HTTP/1.1 101 Up\r\n\r\n",
    ],
)
def test_a_head_that_is_none_or_too_much_is_a_fault_without_an_answer(data: bytes) -> None:
    for chunks in cuts(data, [50]):
        assert take(opened(header_bytes_max=200, interim_max=3), chunks) == ([], "fault", Phase.SENT, True)


def test_limits_of_the_body_hold_in_every_framing() -> None:
    limits = {"body_bytes_max": 4, "body_bytes_read_max": 10}
    framed: list[Callable[[bytes], bytes]] = [
        lambda body: b"HTTP/1.1 400 No\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body),
        lambda body: CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
        lambda body: b"HTTP/1.0 400 No\r\n\r\n" + body,
    ]
    for write in framed:
        for chunks in cuts(write(b"0123456789"), [42]):
            (outcome,), fault, _, _ = take(opened(**limits), chunks)
            assert (outcome.detail, fault) == (AnswerDetail({**outcome.detail.headers}, b"0123", 6), "")
        for chunks in cuts(write(b"0123456789a"), [42]):
            (outcome,), fault, _, _ = take(opened(**limits), chunks)
            assert (outcome.detail.body, outcome.detail.is_complete, fault) == (b"0123", False, "fault")


def test_trailers_have_the_limit_of_heads() -> None:
    for size, expected in ((100, ""), (101, "fault")):
        data = CHUNKED + b"0\r\nx: " + b"a" * (size - 3) + b"\r\n\r\n"
        for chunks in cuts(data, [60]):
            assert take(opened(header_bytes_max=100), chunks)[1] == expected


@pytest.mark.parametrize(("is_clean", "is_complete"), [(True, True), (False, False)])
def test_a_body_that_the_end_delimits_is_whole_only_after_a_clean_end(is_clean: bool, is_complete: bool) -> None:
    (outcome,), _, _, persists = take(opened(), [b"HTTP/1.1 200 OK\r\n\r\nabc"], is_clean=is_clean)
    assert outcome.detail == AnswerDetail({}, b"abc", 0, is_complete)
    assert not persists


@pytest.mark.parametrize(
    "data", [b"HTTP/1.1 500 No\r\ncontent-length: 9\r\n\r\nabc", b"HTTP/1.1 500 No\r\ncontent-length: 9\r\n\r\n"]
)
def test_an_answer_cut_off_in_its_body_has_a_status(data: bytes) -> None:
    (outcome,), fault, _, _ = take(opened(), [data])
    assert (outcome.status, outcome.detail.is_complete, fault) == (500, False, "")


@pytest.mark.parametrize("data", [b"", b"HTT", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Go\r\n\r\n"])
def test_an_answer_cut_off_in_its_head_is_none(data: bytes) -> None:
    assert take(opened(), [data] if data else []) == ([], "", Phase.SENT, True)


def test_bytes_that_no_request_asked_for_are_never_an_answer() -> None:
    exchange = opened()
    assert exchange.receive_data(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    with pytest.raises(RemoteProtocolError):
        exchange.receive_data(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    exchange.assign(8, b"next", 10.0)
    with pytest.raises(RemoteProtocolError):
        exchange.receive_data(b"H")  # not one byte of the next request has left


def test_more_bytes_than_the_answer_has_end_the_connection_after_it() -> None:
    exchange = opened()
    told = exchange.receive_data(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert told is not None
    assert not exchange.is_persistent
    with pytest.raises(LocalProtocolError):
        exchange.assign(8, b"next", 10.0)


def test_interim_answers_are_counted_for_each_request() -> None:
    exchange = opened(interim_max=2)
    for tag in range(3):
        assert exchange.receive_data(INTERIM + b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        exchange.assign(tag, b"next", 10.0)
        exchange.data_to_send()


# laws

STATUS = st.sampled_from([b"200 OK", b"204", b"400 Bad", b"503 No", b"100 Go", b"101 Up", b"200"])
FIELDS = st.sampled_from(
    [
        b"content-length: 3\r\n", b"content-length: 0\r\n", b"transfer-encoding: chunked\r\n", b"connection: close\r\n",
        b"keep-alive: timeout=5\r\n", b"x: y\r\n  z\r\n", b"x y\r\n",
    ]
)  # fmt: skip
BODIES = st.lists(
    st.sampled_from([b"abc", b"3\r\nabc\r\n", b"0\r\n\r\n", b"0\r\nt: 1\r\n\r\n", b"1;e\r\nx\r\n", b"z", b"\r\n", b""]),
    max_size=4,
).map(b"".join)


@st.composite
def answers(draw) -> bytes:
    head = b"HTTP/1.%d %b\r\n" % (draw(st.integers(0, 1)), draw(STATUS))
    return head + b"".join(draw(st.lists(FIELDS, max_size=2))) + b"\r\n" + draw(BODIES)


DIALOGUES = st.one_of(
    st.lists(answers(), min_size=1, max_size=3).map(b"".join),
    st.binary(max_size=60),
    answers().map(lambda data: data[:-1]),
)


@given(data=DIALOGUES, places=st.lists(st.integers(0, 200), max_size=6), is_clean=st.booleans())
def test_what_becomes_of_a_request_does_not_depend_on_the_chunks(
    data: bytes, places: list[int], is_clean: bool
) -> None:
    """Bytes behind the answer end the connection, with it or when they come; that alone is told differently."""
    results = []
    for chunks in cuts(data, places):
        exchange = opened(header_bytes_max=100, body_bytes_max=5, body_bytes_read_max=8, interim_max=2)
        outcomes, fault, _, persists = take(exchange, chunks, is_clean=is_clean)
        results.append((outcomes, fault != "" or not persists))
        assert len(outcomes) <= 1
        assert exchange.phase is Phase.CLOSED
    assert results[1] == results[0]
    assert results[2] == results[0]


@given(data=DIALOGUES, places=st.lists(st.integers(0, 200), max_size=6))
def test_an_answer_we_call_complete_is_one_for_the_referee_too(data: bytes, places: list[int]) -> None:
    outcomes, _, _, _ = take(opened(), cuts(data, places)[2])
    if not outcomes or not outcomes[0].detail or not outcomes[0].detail.is_complete:
        return
    referee = h11.Connection(h11.CLIENT)
    referee.send(h11.Request(method="POST", target="/", headers=[("host", "h"), ("content-length", "0")]))
    referee.send(h11.EndOfMessage())
    referee.receive_data(data)
    referee.receive_data(b"")
    status, body = 0, b""
    while not isinstance(event := referee.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        else:
            assert isinstance(event, h11.InformationalResponse)
    assert (outcomes[0].status, outcomes[0].detail.body) == (status, body)
