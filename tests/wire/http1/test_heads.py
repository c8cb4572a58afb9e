"""Response heads: what each says, what is refused, and agreement with h11."""

from __future__ import annotations

import math

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import RemoteProtocolError
from gateway.wire.http1.heads import Framing, HeadReader, Reported, parse_head

REPORTED = Reported(frozenset(), frozenset())


def head(*lines: bytes, status_line: bytes = b"HTTP/1.1 200 OK"):
    return parse_head(b"\r\n".join([status_line, *lines]), REPORTED)


@pytest.mark.parametrize(
    ("lines", "framing", "length"),
    [
        ((b"Content-Length: 12",), Framing.LENGTH, 12),
        ((b"content-length:0",), Framing.NONE, 0),
        ((b"content-length: 5, 5",), Framing.LENGTH, 5),
        ((b"content-length: 5", b"Content-Length: 5"), Framing.LENGTH, 5),
        ((b"Transfer-Encoding: Chunked",), Framing.CHUNKED, 0),
        ((b"transfer-encoding: chunked", b"content-length: 5"), Framing.CHUNKED, 0),
        ((), Framing.UNTIL_CLOSE, 0),
    ],
)
def test_the_end_of_the_body_is_where_rfc_9112_section_6_3_puts_it(
    lines: tuple[bytes, ...], framing: Framing, length: int
) -> None:
    found = head(*lines)
    assert (found.framing, found.length) == (framing, length)


@pytest.mark.parametrize("status", [b"204", b"304"])
def test_answers_without_content_have_no_body_whatever_they_say(status: bytes) -> None:
    assert head(b"content-length: 5", status_line=b"HTTP/1.1 " + status).framing is Framing.NONE


@pytest.mark.parametrize(
    ("status_line", "lines", "keeps_alive"),
    [
        (b"HTTP/1.1 200 OK", (), True),
        (b"HTTP/1.1 200 OK", (b"connection: close",), False),
        (b"HTTP/1.1 200 OK", (b"Connection: Keep-Alive, Close",), False),
        (b"HTTP/1.0 200 OK", (), False),
        (b"HTTP/1.0 200 OK", (b"connection: keep-alive",), True),
        (b"HTTP/1.1 200 OK", (b"transfer-encoding: chunked",), False),  # beside the content-length below
    ],
)
def test_a_connection_persists_as_rfc_9112_section_9_3_says(
    status_line: bytes, lines: tuple[bytes, ...], keeps_alive: bool
) -> None:
    assert head(*lines, b"content-length: 1", status_line=status_line).keeps_alive is keeps_alive


def test_the_end_of_the_connection_ends_a_body_without_length_and_so_the_connection() -> None:
    assert head().keeps_alive is False


@pytest.mark.parametrize(
    ("value", "idle_s"), [(b"timeout=5, max=100", 5.0), (b"max=2, Timeout=60", 60.0), (b"", math.inf), (b"x", math.inf)]
)
def test_the_server_may_say_how_long_it_keeps_the_connection(value: bytes, idle_s: float) -> None:
    assert head(b"keep-alive: " + value, b"content-length: 0").idle_s == idle_s


def test_fields_are_joined_unfolded_and_trimmed() -> None:
    found = head(b"A: 1 ", b"a:\t2", b"b: c\r\n  d", status_line=b"HTTP/1.1 429 Too Many \xe9")
    assert found.status == 429
    assert found.headers == {b"a": b"1, 2", b"b": b"c d"}


def test_headers_of_a_200_are_kept_only_when_asked_for_and_others_unless_ignored() -> None:
    reported = Reported(frozenset({b"x-id"}), frozenset({b"date"}))
    lines = b"\r\nx-id: 1\r\ndate: d\r\nretry-after: 5"
    assert parse_head(b"HTTP/1.1 200 OK" + lines, reported).headers == {b"x-id": b"1"}
    assert parse_head(b"HTTP/1.1 503 No" + lines, reported).headers == {b"x-id": b"1", b"retry-after": b"5"}


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"HTTP/2 200",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 099 OK",
        b"HTTP/1.1  200 OK",
        b"http/1.1 200 OK",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c",
        b"HTTP/1.1 200 OK\nx: y",
        b"HTTP/1.1 200 OK\r\n x: y",
        b"HTTP/1.1 200 OK\r\nx : y",
        b"HTTP/1.1 200 OK\r\n: y",
        b"HTTP/1.1 200 OK\r\nx",
        b"HTTP/1.1 200 OK\r\nx: a\rb",
        b"HTTP/1.1 200 OK\r\nx: a\nb: c",
        b"HTTP/1.1 200 OK\r\nx: a\x00",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5, 6",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5",
        b"HTTP/1.1 200 OK\r\ncontent-length: +5",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5x",
        b"HTTP/1.1 200 OK\r\ncontent-length:",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, chunked",
        b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked",
    ],
)
def test_what_readers_could_take_differently_is_refused(block: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_head(block, REPORTED)


@given(st.one_of(st.binary(max_size=80), st.binary(max_size=60).map(lambda tail: b"HTTP/1.1 200 OK\r\n" + tail)))
def test_any_bytes_are_a_head_or_a_fault_of_the_peer(block: bytes) -> None:
    try:
        parse_head(block, REPORTED)
    except RemoteProtocolError:
        return


NAMES = st.sampled_from([b"content-length", b"transfer-encoding", b"connection", b"date", b"X-Trace", b"x y", b""])
VALUES = st.one_of(
    st.sampled_from([b"0", b"5", b"5, 5", b"chunked", b"close", b"keep-alive", b"gzip", b"a\x00", b"\xe4", b" 7 "]),
    st.text("ab ,;=\t", max_size=8).map(str.encode),
)
LINES = st.lists(st.tuples(NAMES, VALUES), max_size=5, unique_by=lambda line: line[0])
STATUS_LINES = st.sampled_from(
    [b"HTTP/1.1 200 OK", b"HTTP/1.1 204 ", b"HTTP/1.0 200 OK", b"HTTP/1.1 404", b"HTTP/1.1 100 Go on", b"HTTP/1.1 2 x"]
)


@given(status_line=STATUS_LINES, lines=LINES)
def test_what_we_take_h11_takes_and_reads_alike(status_line: bytes, lines: list[tuple[bytes, bytes]]) -> None:
    """We may be stricter than the referee, never more lenient, and never of another opinion."""
    block = b"\r\n".join([status_line, *[name + b": " + value for name, value in lines]])
    try:
        ours = parse_head(block, REPORTED)
    except RemoteProtocolError:
        return
    referee = h11.Connection(h11.CLIENT)
    referee.send(h11.Request(method="POST", target="/", headers=[("host", "h"), ("content-length", "0")]))
    referee.send(h11.EndOfMessage())
    referee.receive_data(block + b"\r\n\r\n")
    event = referee.next_event()
    assert event.status_code == ours.status
    if isinstance(event, h11.InformationalResponse):
        assert ours.is_interim
        return
    assert dict(event.headers).keys() == {name.lower() for name, _ in lines}
    after = referee.next_event()
    if ours.framing is Framing.NONE:
        assert isinstance(after, h11.EndOfMessage)
    else:
        assert after is h11.NEED_DATA
    if ours.framing is Framing.LENGTH:
        referee.receive_data(b"b" * ours.length)
        assert isinstance(referee.next_event(), h11.Data)
        assert isinstance(referee.next_event(), h11.EndOfMessage)
    if ours.keeps_alive and ours.framing is not Framing.CHUNKED:
        assert referee.their_state is h11.DONE, "we would go on where the referee closes"


def test_a_head_seen_before_is_not_parsed_again_and_the_memory_of_heads_is_bounded() -> None:
    reader = HeadReader(REPORTED)
    first = reader.head(b"HTTP/1.1 200 OK\r\ncontent-length: 3")
    assert reader.head(b"HTTP/1.1 200 OK\r\ncontent-length: 3") is first
    assert reader.parsed_count == 1
    for number in range(600):
        reader.head(b"HTTP/1.1 200 OK\r\nx: %d" % number)
    assert len(reader._memo) <= 256
    reader.head(b"HTTP/1.1 200 OK\r\nx: " + b"a" * 5000)
    assert max(map(len, reader._memo)) < 3000
