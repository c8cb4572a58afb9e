"""Rows of a burst -> the bytes of each request (RFC 9112 sections 3 and 6).

The template of a burst is one sequence of pieces: request line, Host, the burst's headers, Content-Length, body. What
is the same for all rows is joined once; columns are laid between (`columns.join`). In HTTP/1.1 a CR or LF in the wrong
place makes two requests of one, so each constant and each column is looked at before anything is joined.
"""

from __future__ import annotations

import re

import numpy as np

from gateway import columns
from gateway.columns import Piece, Pieces, TextColumn
from gateway.errors import LocalProtocolError
from gateway.vendor import Requests

#: RFC 9110 section 5.6.2.
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
#: What must not stand in a target (RFC 9112 section 3.2: no whitespace; a fragment is never sent) and in a value (RFC
#: 9110 section 5.5: no controls but HTAB).
_NOT_IN_TARGET = bytes([*range(0x21), ord("#"), *range(0x7F, 0x100)])
_NOT_IN_VALUE = bytes([*range(0x09), *range(0x0A, 0x20), 0x7F])
_PLAIN_MIN, _PLAIN_MAX = 0x20, 0x7E
#: Which message ends where, and which connection lives on, is ours to say.
_OURS = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"te", b"trailer", b"upgrade"}
    | {b"expect", b"proxy-connection"}
)


def encode_requests(requests: Requests, start: int, stop: int) -> list[bytes]:
    """The requests of rows start..stop, one bytes each.

    Raises LocalProtocolError for a name, target or value that HTTP/1.1 cannot carry.
    """
    _check(b":authority", (requests.authority,), _NOT_IN_TARGET, start, stop)
    _check(b":path", requests.path, _NOT_IN_TARGET, start, stop)
    pieces: list[Piece] = [b"POST ", *requests.path, b" HTTP/1.1\r\nhost: " + requests.authority]
    for name, value in requests.headers:
        if name in _OURS or _TOKEN.fullmatch(name) is None:
            raise LocalProtocolError(f"header {name!r} is not for a vendor file to set")
        _check(name, value, _NOT_IN_VALUE, start, stop)
        pieces += [b"\r\n" + name + b": ", *value]
    pieces += [b"\r\ncontent-length: ", _lengths(requests.body, start, stop, requests.n), b"\r\n\r\n", *requests.body]
    return columns.join(_joined(pieces), start, stop)


def _check(name: bytes, pieces: Pieces, forbidden: bytes, start: int, stop: int) -> None:
    for piece in pieces:
        data: bytes
        if isinstance(piece, bytes):
            data = piece
        elif isinstance(piece, TextColumn):
            data = b"".join(columns.piece_rows(piece, start, stop))
        else:
            part = piece[start:stop]
            # Ids and digests: two looks show that they are within what a value may hold.
            if forbidden is _NOT_IN_VALUE and part.size and part.min() >= _PLAIN_MIN and part.max() <= _PLAIN_MAX:
                continue
            data = part.tobytes()
        if len(data.translate(None, forbidden)) != len(data):
            # Not quoted: it may be a token or a key.
            raise LocalProtocolError(f"{name.decode('latin-1')} holds a character that HTTP/1.1 cannot carry there")


def _lengths(body: Pieces, start: int, stop: int, n: int) -> Piece:
    """Content-Length of each row of the burst; one constant where all bodies have one length."""
    width = columns.pieces_width(body)
    if width is None:
        lengths = columns.pieces_lengths(body, n)
        first = int(lengths[start])
        if not bool((lengths[start:stop] == first).all()):
            wanted = np.zeros(n, np.int64)
            wanted[start:stop] = lengths[start:stop]
            digits = len(b"%d" % int(lengths[start:stop].max()))
            if int(lengths[start:stop].min()) >= 10 ** (digits - 1):
                return columns.decimal(wanted, digits)
            return TextColumn.from_rows([b"%d" % length for length in wanted.tolist()])
        width = first
    return b"%d" % width


def _joined(pieces: list[Piece]) -> Pieces:
    """Neighbouring constants as one."""
    out: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, bytes) and out and isinstance(out[-1], bytes):
            out[-1] += piece
        else:
            out.append(piece)
    return tuple(out)
