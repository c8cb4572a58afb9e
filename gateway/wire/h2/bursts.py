"""Header blocks and bodies of many requests -> the bytes of their HEADERS and DATA frames.

Three ways to the same bytes, the fastest that fits:

* fixed (`FixedBurst`): every row has one length; one 2-D uint8 array, filled by columns. What does not depend on the
  rows is worked out once for requests of one shape;
* joined: lengths differ; frame headers are columns, rows are joined from pieces;
* row by row: blocks that need CONTINUATION, bodies that need several frames or are empty in some rows only.

Streams are first_id, first_id + 2, ... and every request is whole: END_STREAM is on its last frame.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gateway import columns
from gateway.columns import I64, U8, Pieces, TextColumn
from gateway.vendor import Requests
from gateway.wire.h2.frames import (
    END_HEADERS,
    END_STREAM,
    FrameType,
    frame_header,
    split_block,
    split_data,
)
from gateway.wire.h2.template import BlockPlan, column_pieces

#: Field of an overlay that comes from the body; the others are those of `template.ColumnAt`.
_BODY = -1


class _Overlay(NamedTuple):
    """Columns at..end of the row are columns first.. of a piece of a field."""

    at: int
    end: int
    field: int
    piece: int
    first: int


class FixedBurst:
    """The frames of requests of one shape whose rows all have one length: a row of constants, and what is laid over it.

    | header 9 | block | header 9 | body ... | header 9 | body ... |
          ids                ids                   ids

    body_width: bytes of each body.
    """

    __slots__ = ("_id_columns", "_overlays", "_row", "body_width")

    def __init__(self, plan: BlockPlan, requests: Requests, frame_bytes_max: int) -> None:
        """Of `requests` only the shape counts. frame_bytes_max: the peer's MAX_FRAME_SIZE; a block fits into one."""
        block, overlays = _lay_block(plan, requests)
        body, body_overlays = _lay_pieces(requests.body, _BODY)
        self.body_width = width = len(body)
        row = bytearray(frame_header(len(block), FrameType.HEADERS, END_HEADERS | (0 if width else END_STREAM), 0))
        self._overlays = [each._replace(at=each.at + len(row), end=each.end + len(row)) for each in overlays]
        self._id_columns = [5]
        row += block
        for at in range(0, width, frame_bytes_max):
            end = min(at + frame_bytes_max, width)
            self._id_columns.append(len(row) + 5)
            row += frame_header(end - at, FrameType.DATA, END_STREAM if end == width else 0, 0)
            shift = len(row) - at
            for each in body_overlays:
                # The part of this column that falls into this frame; nearly always all or nothing.
                first, last = max(each.at, at), min(each.end, end)
                if first < last:
                    part = _Overlay(first + shift, last + shift, _BODY, each.piece, each.first + first - each.at)
                    self._overlays.append(part)
            row += body[at:end]
        self._row = bytes(row)

    @staticmethod
    def fits(plan: BlockPlan, requests: Requests, frame_bytes_max: int) -> bool:
        """Whether all rows of such requests have one length, and the block needs one frame."""
        if columns.pieces_width(requests.body) is None:
            return False
        width = 0
        for part in plan:
            if isinstance(part, bytes):
                width += len(part)
                continue
            piece_width = None if part.is_length else columns.piece_width(column_pieces(requests, part)[part.piece])
            if piece_width is None:
                return False
            width += piece_width
        return width <= frame_bytes_max

    def rows(self, requests: Requests, start: int, n: int, first_id: int) -> bytearray:
        """All frames of rows start.. of requests of the shape."""
        # A bytearray repeats itself by memcpy and needs no copy afterwards: a tenth of what filling an array costs.
        out = bytearray(self._row) * n
        rows = np.frombuffer(out, np.uint8).reshape(n, len(self._row))
        for at, end, field, piece, first in self._overlays:
            pieces = requests.body if field == _BODY else requests.headers[field - 1][1] if field else requests.path
            column = pieces[piece]
            assert isinstance(column, np.ndarray)
            rows[:, at:end] = column[start : start + n, first : first + end - at]
        ids = np.arange(first_id, first_id + 2 * n, 2).astype(">u4")
        for at in self._id_columns:
            # As a column of numbers with a stride: a third of what it costs as four columns of bytes.
            np.ndarray((n,), ">u4", out, at, (len(self._row),))[:] = ids
        return out


def _lay_block(plan: BlockPlan, requests: Requests) -> tuple[bytearray, list[_Overlay]]:
    """The constants of a block, zeros where columns are, and the columns."""
    row = bytearray()
    overlays: list[_Overlay] = []
    for part in plan:
        if isinstance(part, bytes):
            row += part
            continue
        width = columns.piece_width(column_pieces(requests, part)[part.piece]) or 0
        overlays.append(_Overlay(len(row), len(row) + width, part.field, part.piece, 0))
        row += bytes(width)
    return row, overlays


def _lay_pieces(pieces: Pieces, field: int) -> tuple[bytearray, list[_Overlay]]:
    row = bytearray()
    overlays: list[_Overlay] = []
    for index, piece in enumerate(pieces):
        if isinstance(piece, bytes):
            row += piece
        elif not isinstance(piece, TextColumn):
            width = int(piece.shape[1])
            overlays.append(_Overlay(len(row), len(row) + width, field, index, 0))
            row += bytes(width)
    return row, overlays


def burst_bytes(block: Pieces, body: Pieces, first_id: int, body_lengths: I64, frame_bytes_max: int) -> bytes:
    """All frames of n requests of different length.

    block, body: pieces of n rows. body_lengths: (n,) int64. frame_bytes_max: the peer's MAX_FRAME_SIZE.
    """
    n = len(body_lengths)
    block_lengths = columns.pieces_lengths(block, n)
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


def _joined(block: Pieces, body: Pieces, first_id: int, block_lengths: I64, body_lengths: I64) -> bytes:
    n = len(block_lengths)
    ids = _stream_ids(first_id, n)
    if int(body_lengths.max()) == 0:
        pieces = (*_header(block_lengths, FrameType.HEADERS, END_HEADERS | END_STREAM, ids), *block)
    else:
        pieces = (
            *_header(block_lengths, FrameType.HEADERS, END_HEADERS, ids),
            *block,
            *_header(body_lengths, FrameType.DATA, END_STREAM, ids),
            *body,
        )
    return columns.join_all(pieces, 0, n)


def _header(lengths: I64, frame_type: int, flags: int, ids: U8) -> Pieces:
    """The frame header of each row: three bytes of length, then what all rows share, then the stream id."""
    in_order = np.ascontiguousarray(lengths, ">u4").view(np.uint8).reshape(len(lengths), 4)
    return (in_order[:, 1:], bytes((frame_type, flags)), ids)
