"""Header blocks and bodies of many requests -> the bytes of their HEADERS and DATA frames.

Three ways to the same bytes, the fastest that fits:

* fixed: every row has one length; one 2-D uint8 array, filled by columns;
* joined: lengths differ; frame headers are columns, rows are joined from pieces;
* row by row: blocks that need CONTINUATION, bodies that need several frames or are empty in some rows only.

Streams are first_id, first_id + 2, ... and every request is whole: END_STREAM is on its last frame.
"""

from __future__ import annotations

import numpy as np

from gateway import columns
from gateway.columns import I64, U8, Piece, Pieces
from gateway.wire.h2.frames import (
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER_BYTES,
    FrameType,
    frame_header,
    split_block,
    split_data,
)
from gateway.wire.h2.template import row_bytes


def burst_bytes(block: Pieces, body: Pieces, first_id: int, n: int, frame_bytes_max: int) -> bytes:
    """All frames of n requests. block, body: pieces of n rows. frame_bytes_max: the peer's MAX_FRAME_SIZE."""
    if n == 1:
        return request_bytes(row_bytes(block, 0), row_bytes(body, 0), first_id, frame_bytes_max)
    block_width = columns.pieces_width(block)
    body_width = columns.pieces_width(body)
    if block_width is not None and body_width is not None and block_width <= frame_bytes_max:
        return _fixed(block, body, first_id, n, frame_bytes_max)
    block_lengths = columns.pieces_lengths(block, n)
    body_lengths = columns.pieces_lengths(body, n)
    longest = int(body_lengths.max())
    is_body_in_one_frame = longest == 0 or (int(body_lengths.min()) > 0 and longest <= frame_bytes_max)
    if is_body_in_one_frame and int(block_lengths.max()) <= frame_bytes_max:
        return _joined(block, body, first_id, block_lengths, body_lengths)
    return b"".join(
        request_bytes(row_block, row_body, first_id + 2 * row, frame_bytes_max)
        for row, (row_block, row_body) in enumerate(
            zip(columns.join(block, 0, n), columns.join(body, 0, n), strict=True)
        )
    )


def request_bytes(block: bytes, body: bytes, stream_id: int, frame_bytes_max: int) -> bytes:
    """All frames of one request."""
    if not body:
        return split_block(stream_id, END_STREAM, block, frame_bytes_max)
    return split_block(stream_id, 0, block, frame_bytes_max) + split_data(stream_id, END_STREAM, body, frame_bytes_max)


def _stream_ids(first_id: int, n: int) -> U8:
    """(n, 4) uint8: ids first_id, first_id + 2, ... in network order."""
    return np.arange(first_id, first_id + 2 * n, 2).astype(">u4").view(np.uint8).reshape(n, 4)


def _fixed(block: Pieces, body: Pieces, first_id: int, n: int, frame_bytes_max: int) -> bytes:
    """One row of constants is repeated, then the columns and stream ids are laid over it.

    | header 9 | block | header 9 | body ... | header 9 | body ... |
          ids                ids                   ids
    """
    body_width = columns.pieces_width(body) or 0
    block_width = columns.pieces_width(block) or 0
    row = bytearray()
    id_columns = [5]
    overlays: list[tuple[int, U8]] = []
    row += frame_header(block_width, FrameType.HEADERS, END_HEADERS | (0 if body_width else END_STREAM), 0)
    _lay(row, overlays, block)
    body_overlays: list[tuple[int, U8]] = []
    body_row = bytearray()
    _lay(body_row, body_overlays, body)
    for at in range(0, body_width, frame_bytes_max):
        end = min(at + frame_bytes_max, body_width)
        id_columns.append(len(row) + 5)
        row += frame_header(end - at, FrameType.DATA, END_STREAM if end == body_width else 0, 0)
        for column, values in body_overlays:
            # The part of this column that falls into this frame; nearly always all or nothing.
            first, last = max(column, at), min(column + values.shape[1], end)
            if first < last:
                overlays.append((len(row) + first - at, values[:, first - column : last - column]))
        row += body_row[at:end]
    out = np.empty((n, len(row)), np.uint8)
    out[:] = np.frombuffer(bytes(row), np.uint8)
    for column, values in overlays:
        out[:, column : column + values.shape[1]] = values
    ids = _stream_ids(first_id, n)
    for column in id_columns:
        out[:, column : column + 4] = ids
    return out.tobytes()


def _lay(row: bytearray, overlays: list[tuple[int, U8]], pieces: Pieces) -> None:
    """Appends constants to the row and zeros where columns will be laid."""
    for piece in pieces:
        if isinstance(piece, bytes):
            row += piece
        elif isinstance(piece, np.ndarray):
            overlays.append((len(row), piece))
            row += bytes(piece.shape[1])


def _joined(block: Pieces, body: Pieces, first_id: int, block_lengths: I64, body_lengths: I64) -> bytes:
    n = len(block_lengths)
    ids = _stream_ids(first_id, n)
    if int(body_lengths.max()) == 0:
        pieces: tuple[Piece, ...] = (_headers(block_lengths, FrameType.HEADERS, END_HEADERS | END_STREAM, ids), *block)
    else:
        pieces = (
            _headers(block_lengths, FrameType.HEADERS, END_HEADERS, ids),
            *block,
            _headers(body_lengths, FrameType.DATA, END_STREAM, ids),
            *body,
        )
    return b"".join(columns.join(pieces, 0, n))


def _headers(lengths: I64, frame_type: int, flags: int, ids: U8) -> U8:
    """(n, 9) uint8: a frame header per row."""
    out = np.empty((len(lengths), FRAME_HEADER_BYTES), np.uint8)
    out[:, 0] = lengths >> 16
    out[:, 1] = lengths >> 8 & 0xFF
    out[:, 2] = lengths & 0xFF
    out[:, 3] = frame_type
    out[:, 4] = flags
    out[:, 5:9] = ids
    return out
