"""Requests of a burst: each row is what a plain writer would have written, and what an independent server reads."""

from __future__ import annotations

import h11
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.columns import Pieces, TextColumn
from gateway.errors import LocalProtocolError
from gateway.vendor import Requests
from gateway.wire.http1.requests import encode_requests

ROWS = 4
TEXT = st.text("abcXYZ019._~-", max_size=6).map(str.encode)


def twin(requests: Requests, row: int) -> bytes:
    """One row, written plainly."""

    def text(pieces: Pieces) -> bytes:
        out = b""
        for piece in pieces:
            if isinstance(piece, bytes):
                out += piece
            else:
                out += piece.row(row) if isinstance(piece, TextColumn) else piece[row].tobytes()
        return out

    body = text(requests.body)
    lines = [b"POST " + text(requests.path) + b" HTTP/1.1", b"host: " + requests.authority]
    lines += [name + b": " + text(value) for name, value in requests.headers]
    lines += [b"content-length: %d" % len(body), b"", body]
    return b"\r\n".join(lines)


def pieces(text: st.SearchStrategy[bytes]) -> st.SearchStrategy[Pieces]:
    def fixed(rows: list[bytes]) -> object:
        width = min(map(len, rows))
        return np.array([list(row[:width]) for row in rows], np.uint8).reshape(ROWS, width)

    rows = st.lists(text, min_size=ROWS, max_size=ROWS)
    return st.lists(st.one_of(text, rows.map(TextColumn.from_rows), rows.map(fixed)), max_size=4).map(tuple)


@st.composite
def bursts(draw) -> Requests:
    headers = tuple((name, draw(pieces(TEXT))) for name in draw(st.sets(st.sampled_from([b"a", b"b-c", b"x"]))))
    return Requests(ROWS, b"push.example:8443", (b"/p/", *draw(pieces(TEXT))), headers, draw(pieces(st.binary())))


@given(requests=bursts(), start=st.integers(0, ROWS - 1), count=st.integers(1, ROWS))
def test_each_row_is_what_a_plain_writer_would_write(requests: Requests, start: int, count: int) -> None:
    stop = min(start + count, ROWS)
    assert encode_requests(requests, start, stop) == [twin(requests, row) for row in range(start, stop)]


@given(requests=bursts())
def test_an_independent_server_reads_the_rows_one_after_another(requests: Requests) -> None:
    """All rows on one connection, so that a wrong end of one would spoil the next."""
    server = h11.Connection(h11.SERVER)
    server.receive_data(b"".join(encode_requests(requests, 0, ROWS)))
    for row in range(ROWS):
        head, body = server.next_event(), b""
        assert isinstance(head, h11.Request)
        while isinstance(event := server.next_event(), h11.Data):
            body += bytes(event.data)
        assert isinstance(event, h11.EndOfMessage)
        lines = twin(requests, row).partition(b"\r\n\r\n")
        assert (head.method, head.target) == (b"POST", lines[0].split(b" ")[1])
        assert body == lines[2]
        server.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
        server.send(h11.EndOfMessage())
        server.start_next_cycle()


@pytest.mark.parametrize(
    "changes",
    [
        {"path": (b"/p x",)},
        {"path": (b"/p", TextColumn.from_rows([b"a", b"b\r\nhost: evil"]))},
        {"path": (np.array([[0x41], [0x0A]], np.uint8),)},
        {"authority": b"push.example\r\nx: y"},
        {"headers": ((b"x", (b"a\r\nb: c",)),)},
        {"headers": ((b"x", (TextColumn.from_rows([b"fine", b"not\x00"]),)),)},
        {"headers": ((b"x y", (b"a",)),)},
        {"headers": ((b"content-length", (b"5",)),)},
        {"headers": ((b"transfer-encoding", (b"chunked",)),)},
    ],
)
def test_what_would_make_another_request_of_it_is_refused_as_our_fault(changes: dict[str, object]) -> None:
    requests = Requests(2, b"push.example", (b"/p",), (), (b"{}",))
    assert len(encode_requests(requests, 0, 2)) == 2
    with pytest.raises(LocalProtocolError):
        encode_requests(requests._replace(**changes), 0, 2)


def test_rows_that_are_not_sent_are_not_judged() -> None:
    path = (b"/", TextColumn.from_rows([b"a b", b"c"]))
    assert encode_requests(Requests(2, b"h", path, (), ()), 1, 2) == [
        b"POST /c HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n"
    ]
