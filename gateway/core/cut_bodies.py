"""The bodies of rows over the payload's limit, cut by columns where that is sure: the usual case of an over-long text.

What makes a text too long is mostly its last value. Then the cut falls into that, and where it falls is seen where the
value lies, among those of all rows: nothing of the text is copied before it is joined into its request. Other bodies
are joined first. What is left over here, `core/fit.py` looks at as a whole.
"""

from __future__ import annotations

import numpy as np

from gateway.columns import I64, Bool, Piece, Pieces, Rows, TextColumn, json_escape, piece_width, row_bytes
from gateway.core.compiled import Compiled, CompiledBulk
from gateway.core.cut_columns import KNOWN_BYTES_MIN, plain_ends, shorten_rows
from gateway.core.truncate import ISOLATES_BEGIN
from gateway.vendor import Slot

#: With less room than this for the body the title may have to give way too: `fit` decides.
_BODY_BYTES_MIN = 64


def counted_parts(template: Compiled, bulk: CompiledBulk | None) -> tuple[bytes | Slot, ...]:
    """What of a request, or of a message in a list, the vendor's limit counts."""
    return template.body if bulk is None else bulk.lists[0].parts


class Bodies:
    """pieces: the bodies as they stand in JSON. sizes: (n,) bytes of each row as the vendor counts them. mark: what
    ends a text that was cut."""

    def __init__(
        self, pieces: Pieces, sizes: I64, payload_bytes_max: int, parts: tuple[bytes | Slot, ...], mark: str
    ) -> None:
        self.pieces = pieces
        self._sizes = sizes
        self._payload_bytes_max = payload_bytes_max
        self._count = sum(isinstance(part, Slot) and part.base == "body" for part in parts)
        self._mark = mark
        #: Whether anything here applies.
        self._may_cut = bool(self._count) and json_escape(mark.encode()) == mark.encode()

    def cut_last(self, over: Rows) -> tuple[Pieces, Bool]:
        """The pieces with the last value cut in those of these rows (k,) where that is all, and which they are."""
        done = np.zeros(len(over), np.bool_)
        last = self.pieces[-1] if self._may_cut and self.pieces else None
        spans = last.spans() if isinstance(last, TextColumn) else None
        if (
            not isinstance(last, TextColumn)
            or spans is None
            or not all(_is_plain(piece, over) for piece in self.pieces)
        ):
            return self.pieces, done
        tail = self._mark.encode()
        starts, stops = (column[over].astype(np.int64) for column in spans[1:])
        heads = np.zeros(len(over), np.int64)
        for piece in self.pieces[:-1]:
            heads += piece.lengths()[over] if isinstance(piece, TextColumn) else piece_width(piece) or 0
        lengths = heads + stops - starts
        rooms = self._rooms(over, lengths)
        at = starts + rooms - heads - len(tail)
        usual = np.flatnonzero((rooms >= _BODY_BYTES_MIN) & (rooms < lengths) & (at - starts >= KNOWN_BYTES_MIN))
        ends, is_sure = plain_ends(spans.blob, stops[usual], at[usual])
        chosen = usual[is_sure]
        if not len(chosen):
            return self.pieces, done
        done[chosen] = True
        shorter = last.shortened(over[chosen], ends[is_sure] - starts[chosen], tail)
        return (*self.pieces[:-1], shorter), done

    def shorter(self, over: Rows) -> dict[int, bytes]:
        """Row -> its body cut, of those of these rows where the body alone has to be cut, and JSON escapes nothing in
        it."""
        if not self._may_cut:
            return {}
        texts = [row_bytes(self.pieces, index) for index in over.tolist()]
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        rooms = self._rooms(over, lengths)
        is_plain = np.fromiter([b"\\" not in text for text in texts], np.bool_, len(texts))
        usual = np.flatnonzero((rooms >= _BODY_BYTES_MIN) & (rooms < lengths) & is_plain).tolist()
        shorter = shorten_rows([texts[at] for at in usual], rooms[usual], self._mark)
        return {int(over[at]): text for at, text in zip(usual, shorter, strict=True) if text}

    def _rooms(self, over: Rows, lengths: I64) -> I64:
        """Bytes that each of these rows has for its body of that length."""
        rooms: I64 = (self._payload_bytes_max - (self._sizes[over] - self._count * lengths)) // self._count
        return rooms


def _is_plain(piece: Piece, rows: Rows) -> bool:
    """Whether JSON escapes nothing of the piece in these rows, and none isolates a direction of text."""
    if isinstance(piece, TextColumn):
        return piece.spans() is not None and piece.is_json_plain and not piece.may_hold(ISOLATES_BEGIN)
    text = piece if isinstance(piece, bytes) else piece[rows].tobytes()
    return b"\\" not in text and ISOLATES_BEGIN not in text
