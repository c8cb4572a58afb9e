"""Header blocks of a burst: one sequence of pieces for all rows, in which only the columns differ.

A block that is the same for a thousand rows must not change the dynamic table, or the second row would need another
one. So the entries a burst wants are inserted by *warming rows*, requests that go alone, and the rest of the burst
only names them. What differs per row is a literal without indexing and never Huffman-coded, so that it can be filled
in as a column; its name is indexed.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np

from gateway import columns
from gateway.columns import I64, U8, Piece, Pieces, TextColumn
from gateway.vendor import Requests
from gateway.wire.hpack.encoder import Encoder, Indexing, string_literal
from gateway.wire.hpack.integer import encode_integer
from gateway.wire.hpack.tables import entry_bytes

#: What does not fit into the dynamic table is sent so that no hop on the way stores it (RFC 7541 section 7.1.3).
_SECRET_HEADERS = frozenset({b"authorization", b"proxy-authorization", b"cookie"})
#: :method, :scheme, :authority, :path, in this order.
_PSEUDO_COUNT = 4
#: Lengths below this take one byte in front of a string (7-bit prefix).
_ONE_BYTE_LENGTH = 127
#: Lengths below this take at most two bytes.
_TWO_BYTE_LENGTH = 127 + 128


class HeaderField(NamedTuple):
    """One field of a burst. value: the constant, or None where pieces differ per row."""

    name: bytes
    pieces: Pieces
    value: bytes | None
    is_indexed: bool


def slice_pieces(pieces: Pieces, start: int, stop: int) -> Pieces:
    """The pieces of rows start..stop, as views whose rows begin at 0."""
    return tuple([_slice_piece(piece, start, stop) for piece in pieces])


def _slice_piece(piece: Piece, start: int, stop: int) -> Piece:
    if isinstance(piece, bytes):
        return piece
    if isinstance(piece, TextColumn):
        return piece.part(start, stop)
    return piece[start:stop]


def burst_fields(requests: Requests, encoder: Encoder, unindexed: frozenset[bytes]) -> list[HeaderField]:
    """The fields of each request, pseudo headers first (RFC 9113 section 8.3).

    Constants are indexed in their order as long as all of them fit into the peer's table together; else a burst would
    evict its own entries for ever.
    """
    fields = []
    room = encoder.table_bytes_max
    named: list[tuple[bytes, Pieces]] = [
        (b":method", (b"POST",)),
        (b":scheme", (b"https",)),
        (b":authority", (requests.authority,)),
        (b":path", requests.path),
        *requests.headers,
    ]
    for name, pieces in named:
        value = _constant(pieces)
        is_indexed = value is not None and name not in unindexed
        if value is None:
            # One entry for the name; nearly every name of ours is in the static table.
            room -= 0 if encoder.name_index(name) else entry_bytes(name, columns.row_bytes(pieces, 0))
        elif is_indexed:
            room -= entry_bytes(name, value)
            is_indexed = room >= 0
        fields.append(HeaderField(name, pieces, value, is_indexed))
    return fields


def _constant(pieces: Pieces) -> bytes | None:
    constants = [piece for piece in pieces if isinstance(piece, bytes)]
    return b"".join(constants) if len(constants) == len(pieces) else None


def is_warm(encoder: Encoder, fields: list[HeaderField]) -> bool:
    """Whether a block of these fields would leave the dynamic table as it is."""
    if encoder.has_pending_update():
        return False
    for field in fields:
        if field.value is None:
            if not encoder.name_index(field.name) and encoder.fits(field.name, b""):
                return False
        elif field.is_indexed and not encoder.field_index(field.name, field.value):
            return False
    return True


def warming_block(encoder: Encoder, fields: list[HeaderField], row: int) -> bytes:
    """The block of one row, which inserts what the burst will name."""
    parts = [encoder.begin_block()]
    for field in fields:
        value = columns.row_bytes(field.pieces, row) if field.value is None else field.value
        # A column is inserted once, for its name.
        is_indexed = not encoder.name_index(field.name) if field.value is None else field.is_indexed
        parts.append(encoder.field(field.name, value, _indexing(field.name, is_indexed=is_indexed)))
    return b"".join(parts)


def _indexing(name: bytes, *, is_indexed: bool) -> Indexing:
    if is_indexed:
        return Indexing.INDEXED
    return Indexing.NEVER_INDEXED if name in _SECRET_HEADERS else Indexing.NOT_INDEXED


class ColumnAt(NamedTuple):
    """Where a plan takes a column from: the pieces of a field (0 is the path, then the headers in order), and one of
    them, or the lengths of all of them together."""

    field: int
    piece: int
    is_length: bool = False


#: The block of every row of a burst: constants and the places of columns.
BlockPlan: TypeAlias = tuple[bytes | ColumnAt, ...]
#: Requests of one shape have one plan as long as the dynamic table stays as it is.
Shape: TypeAlias = tuple[object, ...]


def shape_of(requests: Requests) -> Shape:
    """All constants, names and widths of the header block."""
    out: list[object] = [requests.authority, pieces_shape(requests.path)]
    for name, pieces in requests.headers:
        out += (name, pieces if len(pieces) == 1 and isinstance(pieces[0], bytes) else pieces_shape(pieces))
    return tuple(out)


def pieces_shape(pieces: Pieces) -> tuple[bytes | int, ...]:
    return tuple(
        [
            piece if isinstance(piece, bytes) else -1 if isinstance(piece, TextColumn) else piece.shape[1]
            for piece in pieces
        ]
    )


def plan_block(encoder: Encoder, fields: list[HeaderField]) -> BlockPlan:
    """A block of these fields without any insertion; good for the encoder's present generation."""
    out: list[bytes | ColumnAt] = []
    constant = b""
    for index, field in enumerate(fields):
        if field.value is not None:
            table_index = encoder.field_index(field.name, field.value)
            if table_index:
                constant += encoder.indexed(table_index)
            else:
                indexing = _indexing(field.name, is_indexed=False)
                constant += encoder.literal_head(field.name, indexing) + string_literal(field.value)
            continue
        # :path is the last of the pseudo headers.
        column_field = index - (_PSEUDO_COUNT - 1)
        constant += encoder.literal_head(field.name, _indexing(field.name, is_indexed=False))
        width = columns.pieces_width(field.pieces)
        if width is None:
            out += [constant, ColumnAt(column_field, 0, is_length=True)]
            constant = b""
        else:
            constant += encode_integer(width, 7)
        for piece_index, piece in enumerate(field.pieces):
            if isinstance(piece, bytes):
                constant += piece
            else:
                if constant:
                    out.append(constant)
                    constant = b""
                out.append(ColumnAt(column_field, piece_index))
    if constant:
        out.append(constant)
    return tuple(out)


def column_pieces(requests: Requests, column: ColumnAt) -> Pieces:
    return requests.path if column.field == 0 else requests.headers[column.field - 1][1]


def block_pieces(plan: BlockPlan, requests: Requests, start: int, stop: int) -> Pieces:
    """The blocks of rows start..stop, as pieces whose rows begin at 0."""
    out: list[Piece] = []
    for part in plan:
        if isinstance(part, bytes):
            out.append(part)
            continue
        pieces = column_pieces(requests, part)
        if part.is_length:
            out.append(length_prefixes(columns.pieces_lengths(slice_pieces(pieces, start, stop), stop - start)))
        else:
            out.append(_slice_piece(pieces[part.piece], start, stop))
    return tuple(out)


def plan_row(plan: BlockPlan, requests: Requests, row: int) -> bytes:
    """The block of one row."""
    out: list[bytes] = []
    for part in plan:
        if isinstance(part, bytes):
            out.append(part)
            continue
        pieces = column_pieces(requests, part)
        if part.is_length:
            out.append(encode_integer(len(columns.row_bytes(pieces, row)), 7))
        else:
            out.append(columns.row_bytes(pieces[part.piece : part.piece + 1], row))
    return b"".join(out)


def length_prefixes(lengths: I64) -> U8 | TextColumn:
    """(n,) lengths -> the 7-bit-prefix integer of each, as a fixed column while all have the same size."""
    shortest, longest = (int(lengths.min()), int(lengths.max())) if len(lengths) else (0, 0)
    if longest < _ONE_BYTE_LENGTH:
        return lengths.astype(np.uint8).reshape(-1, 1)
    if shortest >= _ONE_BYTE_LENGTH and longest < _TWO_BYTE_LENGTH:
        out = np.empty((len(lengths), 2), np.uint8)
        out[:, 0] = _ONE_BYTE_LENGTH
        out[:, 1] = lengths - _ONE_BYTE_LENGTH
        return out
    return TextColumn.from_rows([encode_integer(length, 7) for length in lengths.tolist()])
