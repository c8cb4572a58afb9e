"""Columns of bytes: how text and ids of many rows travel without an object per row.

Two shapes hold everything that differs per row:

* fixed width: a C-contiguous `(n, width)` uint8 array (ids, hex, digits, equal-length tokens);
* ragged: a `TextColumn`, one UTF-8 blob with a uint32 column of n+1 offsets.

`Pieces` describe a byte string per row as a sequence of constants and columns; a request path, a header value,
a body and an MQTT payload are all pieces. If every piece has one width, `fill` writes all rows as one 2-D array;
otherwise `join` makes one `bytes` per row in a short loop over slices.

Rules for authors: nothing here knows a protocol; no function keeps a reference to its arguments; every vectorised
routine has a plain twin in `tests/test_columns.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np

# Else the first `unique` of a process imports it: 8 ms of a step of the loop.
import numpy.ma
import numpy.typing as npt

U8: TypeAlias = npt.NDArray[np.uint8]
U16: TypeAlias = npt.NDArray[np.uint16]
U32: TypeAlias = npt.NDArray[np.uint32]
U64: TypeAlias = npt.NDArray[np.uint64]
I32: TypeAlias = npt.NDArray[np.int32]
I64: TypeAlias = npt.NDArray[np.int64]
F64: TypeAlias = npt.NDArray[np.float64]
Bool: TypeAlias = npt.NDArray[np.bool_]
#: Positions of rows in a batch; any integer dtype that numpy takes as an index.
Rows: TypeAlias = npt.NDArray[np.integer]


class TextColumn:
    """n byte strings as one blob: row i is `blob[offsets[i]:offsets[i + 1]]`. Immutable by convention.

    blob: bytes, owned. offsets: (n + 1,) uint32, not decreasing, last = len(blob).

    A column made from rows keeps them and joins the blob when somebody asks for it: rendered bodies are made row by row
    and written row by row, and nobody ever does. Rows that were picked out of a column are slices of its blob that are
    not cut before they are joined with what stands around them. One that was moved has its text elsewhere, and its blob
    is made anew each time somebody asks.
    """

    __slots__ = ("_blob", "_is_json_plain", "_pairs", "_picked", "_place", "_rows", "_width", "offsets")

    def __init__(self, blob: bytes, offsets: U32) -> None:
        self._blob: bytes | None = blob
        self._rows: Sequence[bytes] | None = None
        self._picked: _Picked | None = None
        self._place: memoryview | None = None
        self._is_json_plain: bool | None = None
        #: What `may_hold` answered.
        self._pairs: dict[bytes, bool] = _NO_PAIRS
        #: What `width` answered; _NOT_ASKED before.
        self._width: int | None = _NOT_ASKED
        self.offsets = offsets

    @property
    def blob(self) -> bytes:
        blob = self._blob
        if blob is None:
            if self._place is not None:
                return self._place.tobytes()
            blob = self._blob = b"".join(self.rows())
            self._rows = self._picked = None
        return blob

    def move(self, place: memoryview, offsets: U32) -> None:
        """The text is used from there, which holds it already, as do the offsets; nothing of it stays here."""
        self._place, self.offsets = place, offsets
        self._blob = self._rows = self._picked = None

    @classmethod
    def from_rows(cls, rows: Sequence[bytes], lengths: npt.NDArray[np.integer] | None = None) -> TextColumn:
        """lengths: (n,) bytes of each row, where the caller knows them."""
        offsets = np.zeros(len(rows) + 1, np.uint32)
        if rows:
            if lengths is None:
                lengths = np.fromiter(map(len, rows), np.uint32, len(rows))
            np.cumsum(lengths, out=offsets[1:])
        column = cls(b"", offsets)
        column._blob, column._rows = None, rows
        return column

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> TextColumn:
        return cls.from_rows([text.encode() for text in texts])

    @classmethod
    def concatenate(cls, columns: Sequence[TextColumn]) -> TextColumn:
        total = sum(len(column) for column in columns)
        offsets = np.zeros(total + 1, np.uint32)
        at, base = 1, 0
        for column in columns:
            n = len(column)
            np.add(column.offsets[1:], np.uint32(base), out=offsets[at : at + n])
            at += n
            base += len(column.blob)
        return cls(b"".join(column.blob for column in columns), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, index: int) -> bytes:
        if self._rows is not None:
            return self._rows[index]
        if self._picked is not None:
            return self._picked.rows(index, index + 1)[0]
        if self._place is not None:
            return self._place[self.offsets[index] : self.offsets[index + 1]].tobytes()
        return self.blob[self.offsets[index] : self.offsets[index + 1]]

    def rows(self) -> list[bytes]:
        """Every row as its own bytes: the short loop over texts that the hot path allows."""
        return self.rows_of(0, len(self))

    def rows_of(self, start: int, stop: int) -> list[bytes]:
        """The same for rows start..stop."""
        if self._rows is not None:
            return list(self._rows[start:stop])
        if self._picked is not None:
            return self._picked.rows(start, stop)
        blob = self.blob
        ends = self.offsets[start : stop + 1].tolist()
        return [blob[a:b] for a, b in itertools.pairwise(ends)]

    def lengths(self) -> I64:
        ends = self.offsets.astype(np.int64)
        return ends[1:] - ends[:-1]

    def take(self, rows: Rows) -> TextColumn:
        """The column of the rows at the given positions, in their order; positions may repeat."""
        n = len(rows)
        if n and 0 <= int(rows[-1]) - int(rows[0]) + 1 - n <= n // _ROWS_PER_RUN_MIN:
            breaks = np.flatnonzero(np.diff(rows) != 1) + 1
            if len(breaks) <= n // _ROWS_PER_RUN_MIN:
                firsts = np.concatenate([rows[:1], rows[breaks]]).astype(np.int64)
                lasts = np.concatenate([rows[breaks - 1], rows[-1:]]).astype(np.int64)
                # Else positions of a narrow type wrapped round within a run.
                if int((lasts - firsts).sum()) == n - len(firsts):
                    taken = self._take_runs(rows, firsts, lasts)
                    taken._is_json_plain = self._is_json_plain or None
                    return taken
        if n >= _FIXED_ROWS_MIN and self._rows is None and self._picked is None and (width := self.width()):
            # Numbers, codes, dates: an array call instead of a slice per row.
            fixed = self.fixed()
            assert fixed is not None
            offsets = np.arange(0, (n + 1) * width, width, dtype=np.uint32)
            taken = TextColumn(fixed.take(rows, axis=0).tobytes(), offsets)
            taken._width = width
            taken._is_json_plain = self._is_json_plain or None
            return taken
        picked = self._pick(rows)
        if n * _KEPT_SHARE >= len(self):
            taken = TextColumn._of_picked(picked)
        else:
            # Few rows must not keep the text of many.
            taken = TextColumn.from_rows(picked.rows(0, n), picked.ends - picked.starts)
        taken._is_json_plain = self._is_json_plain or None
        return taken

    def _pick(self, rows: Rows) -> _Picked:
        """The rows at these positions, where they lie; a column that was picked itself is joined before."""
        if self._place is None:
            _ = self.blob
        return _Picked(self, self.offsets[rows], self.offsets[1:][rows], {})

    @classmethod
    def _of_picked(cls, picked: _Picked) -> TextColumn:
        lengths = picked.ends - picked.starts
        for row, tail in picked.tails.items():
            lengths[row] += len(tail)
        offsets = np.zeros(len(lengths) + 1, np.uint32)
        np.cumsum(lengths, out=offsets[1:])
        column = cls(b"", offsets)
        column._blob, column._picked = None, picked
        return column

    def spans(self) -> Spans | None:
        """Where the rows are, if each is a slice of a blob that is at hand."""
        picked = self._picked
        if picked is not None:
            blob = None if picked.tails else picked.source._blob
            return None if blob is None else Spans(blob, picked.starts, picked.ends)
        return None if self._blob is None else Spans(self._blob, self.offsets[:-1], self.offsets[1:])

    def shortened(self, rows: Rows, lengths: npt.NDArray[np.integer], tail: bytes) -> TextColumn:
        """The column, with so many bytes left of these rows (k,), each once, and `tail` behind those. Of a column that
        has `spans`."""
        spans = self.spans()
        assert spans is not None
        ends = spans.ends.copy()
        ends[rows] = spans.starts[rows] + lengths
        source = self if self._picked is None else self._picked.source
        return TextColumn._of_picked(_Picked(source, spans.starts, ends, dict.fromkeys(rows.tolist(), tail)))

    def _take_runs(self, rows: Rows, firsts: I64, lasts: I64) -> TextColumn:
        """`take` where positions have few gaps, as when few of many rows are refused: a copy per run of neighbours."""
        blob = self.blob if self._place is None else self._place
        starts, ends = self.offsets[firsts].tolist(), self.offsets[lasts + 1].tolist()
        if len(starts) == 1:
            first, stop = int(firsts[0]), int(lasts[0]) + 1
            return TextColumn(bytes(blob[starts[0] : ends[0]]), self.offsets[first : stop + 1] - self.offsets[first])
        offsets = np.zeros(len(rows) + 1, np.uint32)
        np.cumsum(self.offsets[1:][rows] - self.offsets[rows], out=offsets[1:])
        return TextColumn(b"".join([blob[a:b] for a, b in zip(starts, ends, strict=True)]), offsets)

    def part(self, start: int, stop: int) -> TextColumn:
        """The column of rows start..stop; no text is copied."""
        if start == 0 and stop == len(self):
            return self
        if self._picked is not None:
            return TextColumn._of_picked(self._picked.part(start, stop))
        if self._rows is None:
            return TextColumn(self.blob, self.offsets[start : stop + 1])
        part = TextColumn(b"", self.offsets[start : stop + 1] - self.offsets[start])
        part._blob, part._rows = None, self._rows[start:stop]
        return part

    @property
    def is_json_plain(self) -> bool:
        """Whether no row has a byte that JSON escapes: three looks at the whole blob, remembered."""
        if self._is_json_plain is None:
            blob = self.blob
            self._is_json_plain = (
                b'"' not in blob
                and b"\\" not in blob
                and (not blob or int(np.frombuffer(blob, np.uint8).min()) >= _CONTROLS_END)
            )
        return self._is_json_plain

    def may_hold(self, pair: bytes) -> bool:
        """Whether these two bytes stand side by side in a row of the column, or of the one that its rows were taken out
        of: asked once for all bursts of a batch, and remembered."""
        known = self._pairs.get(pair)
        if known is None:
            picked = self._picked
            known = holds_pair(self.blob, pair) if picked is None or picked.tails else picked.source.may_hold(pair)
            self._pairs = {**self._pairs, pair: known}
        return known

    def width(self) -> int | None:
        """The length all rows share, or None when they differ or there is no row; remembered."""
        if self._width == _NOT_ASKED:
            first = self.offsets[:3].tolist()
            # Mostly the first two rows tell.
            if len(first) < 2 or (len(first) == 3 and first[1] - first[0] != first[2] - first[1]):
                self._width = None
            else:
                lengths = self.offsets[1:] - self.offsets[:-1]
                width = first[1] - first[0]
                self._width = width if int(lengths.min()) == int(lengths.max()) else None
        return self._width

    def fixed(self) -> U8 | None:
        """A read-only (n, width) view of the blob when all rows have one length, else None."""
        width = self.width()
        if width is None:
            return None
        n, blob = len(self), self.blob
        # A part of a column begins somewhere in the blob of the whole.
        return np.frombuffer(blob, np.uint8, n * width, int(self.offsets[0]) if width else 0).reshape(n, width)

    def __repr__(self) -> str:
        return f"<TextColumn of {len(self)} rows, {int(self.offsets[-1])} bytes>"


def holds_pair(data: bytes, pair: bytes) -> bool:
    """`pair in data` for two bytes, looked for as a number at even and at odd places: a tenth of the price."""
    wanted = np.uint16(int.from_bytes(pair, "little"))
    for first in range(min(2, len(data))):
        if np.count_nonzero(np.frombuffer(data, "<u2", (len(data) - first) // 2, first) == wanted):
            return True
    return False


class Spans(NamedTuple):
    """Rows as slices of a blob. starts, ends: (n,) uint32."""

    blob: bytes
    starts: U32
    ends: U32


class _Picked(NamedTuple):
    """Rows as slices of another column's text, wherever that is by now. starts, ends: (n,) uint32. tails: what comes
    behind some of them."""

    source: TextColumn
    starts: U32
    ends: U32
    tails: Mapping[int, bytes]

    def rows(self, start: int, stop: int) -> list[bytes]:
        """Rows start..stop, each as its own bytes."""
        source = self.source
        bounds = zip(self.starts[start:stop].tolist(), self.ends[start:stop].tolist(), strict=True)
        if source._place is not None:
            place = source._place
            rows = [place[a:b].tobytes() for a, b in bounds]
        else:
            blob = source.blob
            rows = [blob[a:b] for a, b in bounds]
        for row, tail in self.tails.items():
            if start <= row < stop:
                rows[row - start] += tail
        return rows

    def part(self, start: int, stop: int) -> _Picked:
        """Rows start..stop."""
        tails = {row - start: tail for row, tail in self.tails.items() if start <= row < stop}
        return _Picked(self.source, self.starts[start:stop], self.ends[start:stop], tails)


#: No width.
_NOT_ASKED = -1
_NO_PAIRS: dict[bytes, bool] = {}
#: Rows that are picked keep the text of at most so many times as many rows: a burst of a batch is 1 in 64 or more.
_KEPT_SHARE = 256
#: Below so many rows slices cost less than the array calls.
_FIXED_ROWS_MIN = 32
#: RFC 8259 section 7: control characters, those below, are escaped.
_CONTROLS_END = 0x20
#: Runs of neighbours are copied as one where so many rows share one on average; below, rows are sliced one by one.
_ROWS_PER_RUN_MIN = 16

#: One part of a byte string per row: the same bytes for all, a fixed-width column, or a ragged one.
Piece: TypeAlias = bytes | U8 | TextColumn
Pieces: TypeAlias = tuple[Piece, ...]


def piece_width(piece: Piece) -> int | None:
    """Bytes per row of a piece, or None for a ragged one."""
    if isinstance(piece, bytes):
        return len(piece)
    if isinstance(piece, TextColumn):
        return None
    return int(piece.shape[1])


def pieces_width(pieces: Pieces) -> int | None:
    """Bytes per row if no piece is ragged, else None."""
    total = 0
    for piece in pieces:
        width = piece_width(piece)
        if width is None:
            return None
        total += width
    return total


def pieces_lengths(pieces: Pieces, n: int) -> I64:
    """(n,) int64, bytes of each row."""
    lengths = np.zeros(n, np.int64)
    for piece in pieces:
        if isinstance(piece, TextColumn):
            lengths += piece.lengths()
        else:
            lengths += piece_width(piece) or 0
    return lengths


def fill(pieces: Pieces, start: int, stop: int) -> U8:
    """Rows start..stop of fixed-width pieces: a new, writable (stop - start, width) array.

    Raises TypeError for a ragged piece.
    """
    row = bytearray()
    overlays: list[tuple[int, int, U8]] = []
    for piece in pieces:
        if isinstance(piece, bytes):
            row += piece
        elif isinstance(piece, TextColumn):
            raise TypeError("a ragged piece has no width; join() it")
        else:
            width = int(piece.shape[1])
            overlays.append((len(row), len(row) + width, piece))
            row += bytes(width)
    n, width = stop - start, len(row)
    if not n * width:
        return np.zeros((n, width), np.uint8)
    # A bytearray repeats itself by memcpy: a tenth of what writing constants into an array costs.
    out = np.frombuffer(row * n, np.uint8).reshape(n, width)
    for at, end, column in overlays:
        out[:, at:end] = column[start:stop]
    return out


def row_bytes(pieces: Pieces, row: int) -> bytes:
    """One row of the pieces."""
    return b"".join(
        [
            piece
            if isinstance(piece, bytes)
            else piece.row(row)
            if isinstance(piece, TextColumn)
            else piece[row].tobytes()
            for piece in pieces
        ]
    )


def take_pieces(pieces: Pieces, rows: Rows) -> Pieces:
    """The same pieces for the rows at the given positions, in their order."""
    return tuple(
        [
            piece
            if isinstance(piece, bytes)
            else piece.take(rows)
            if isinstance(piece, TextColumn)
            else piece.take(rows, axis=0)
            for piece in pieces
        ]
    )


def piece_rows(piece: Piece, start: int, stop: int) -> list[bytes]:
    """Rows start..stop of one piece, each as its own bytes."""
    if isinstance(piece, bytes):
        return [piece] * (stop - start)
    if isinstance(piece, TextColumn):
        return piece.rows_of(start, stop)
    return fixed_rows(np.ascontiguousarray(piece[start:stop]))


def fixed_rows(array: U8) -> list[bytes]:
    """Each row of a C-contiguous (n, width) array as its own bytes: one call, a quarter of what slicing costs."""
    n, width = array.shape
    if not width:
        return [b""] * n
    rows: list[bytes] = array.view(f"V{width}").ravel().tolist()
    return rows


def join(pieces: Pieces, start: int, stop: int) -> list[bytes]:
    """Rows start..stop of the pieces, one bytes per row: one tuple of slices per row, joined once."""
    if not pieces:
        return [b""] * (stop - start)
    merged = _merge_fixed(pieces, start, stop)
    if len(merged) == 1:
        return merged[0]
    return list(map(b"".join, zip(*merged, strict=True)))


def join_all(pieces: Pieces, start: int, stop: int) -> bytes:
    """All of these rows in one: `b"".join(join(pieces, start, stop))` with each byte copied once less."""
    merged = _merge_fixed(pieces, start, stop)
    parts = [b""] * (len(merged) * (stop - start))
    for place, column in enumerate(merged):
        parts[place :: len(merged)] = column
    return b"".join(parts)


def _merge_fixed(pieces: Pieces, start: int, stop: int) -> list[list[bytes]]:
    """Neighbouring fixed-width pieces become one 2-D array first, so that the join has fewer parts per row."""
    columns: list[list[bytes]] = []
    run: list[Piece] = []

    def flush() -> None:
        if not run:
            return
        if len(run) == 1:
            columns.append(piece_rows(run[0], start, stop))
        else:
            columns.append(fixed_rows(fill(tuple(run), start, stop)))
        run.clear()

    for piece in pieces:
        if isinstance(piece, TextColumn):
            flush()
            columns.append(piece_rows(piece, start, stop))
        else:
            run.append(piece)
    flush()
    return columns


_HEX = np.frombuffer(b"".join(b"%02x" % value for value in range(256)), np.uint16)
#: The same for two bytes at once, as a little-endian machine reads them: half the look-ups.
_HEX_PAIRS = (_HEX.astype(np.uint32) | _HEX.astype(np.uint32)[:, None] << 16).reshape(-1)


def hex_lower(ids: U8) -> U8:
    """(n, k) bytes -> (n, 2k) lower-case hex digits."""
    n, k = ids.shape
    if k % 2 == 0 and ids.flags.c_contiguous:
        digits = np.take(_HEX_PAIRS, ids.view("<u2"), mode="clip")
    else:
        digits = np.take(_HEX, ids, mode="clip")
    return digits.view(np.uint8).reshape(n, 2 * k)


#: Where the dashes of a UUID's text stand, and where its 32 hex digits go.
_UUID_DASHES = (8, 13, 18, 23)
_UUID_DIGITS = np.array([i for i in range(36) if i not in _UUID_DASHES])


def uuid_text(ids: U8) -> U8:
    """(n, 16) bytes -> (n, 36) canonical lower-case 8-4-4-4-12 text (RFC 9562 section 4)."""
    digits = hex_lower(ids)
    out = np.empty((len(ids), 36), np.uint8)
    out[:, _UUID_DASHES] = ord("-")
    out[:, 0:8] = digits[:, 0:8]
    out[:, 9:13] = digits[:, 8:12]
    out[:, 14:18] = digits[:, 12:16]
    out[:, 19:23] = digits[:, 16:20]
    out[:, 24:36] = digits[:, 20:32]
    return out


def decimal(values: U64 | I64 | U32, width: int) -> U8:
    """(n,) non-negative integers -> (n, width) decimal digits with leading zeros; higher digits are cut off."""
    out = np.empty((len(values), width), np.uint8)
    rest = values.astype(np.uint64)
    ten = np.uint64(10)
    for column in range(width - 1, -1, -1):
        out[:, column] = rest % ten + np.uint64(48)
        rest //= ten
    return out


def _json_unsafe_table() -> bytes:
    unsafe = bytearray(256)
    for value in (*range(0x20), ord('"'), ord("\\")):
        unsafe[value] = 1
    return bytes(unsafe)


_JSON_UNSAFE = _json_unsafe_table()
_NO_CONTROLS = bytes(range(0x20, 0x100))
_JSON_ESCAPES: list[bytes] = []
for _value in range(256):
    if _value in b'"\\':
        _JSON_ESCAPES.append(b"\\" + bytes([_value]))
    elif _value < 0x20:
        _short = {8: b"\\b", 9: b"\\t", 10: b"\\n", 12: b"\\f", 13: b"\\r"}
        _JSON_ESCAPES.append(_short.get(_value, b"\\u%04x" % _value))
    else:
        _JSON_ESCAPES.append(bytes([_value]))


def json_escape(text: bytes) -> bytes:
    """UTF-8 text as the inside of a JSON string (RFC 8259 section 7); non-ASCII stays as it is."""
    if 1 not in text.translate(_JSON_UNSAFE):
        return text
    text = text.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    for value in set(text.translate(None, _NO_CONTROLS)):
        text = text.replace(bytes([value]), _JSON_ESCAPES[value])
    return text


def json_escape_column(column: TextColumn) -> TextColumn:
    """Each row JSON-escaped. A blob with nothing to escape is returned as it is (the usual case); else rows that need
    it are found by one look at the whole blob, and only they are gone through."""
    if column.is_json_plain:
        return column
    unsafe = np.flatnonzero(np.frombuffer(column.blob.translate(_JSON_UNSAFE), np.uint8))
    rows = column.rows()
    # An empty row has no byte: the last row that begins at or before a byte holds it.
    for index in np.unique(np.searchsorted(column.offsets, unsafe, "right") - 1).tolist():
        rows[index] = json_escape(rows[index])
    return TextColumn.from_rows(rows)


_T = TypeVar("_T")


def drained(steps: Generator[None, None, _T]) -> _T:
    """The result of a routine made of steps, for callers that do not mind the time it takes."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: _T = done.value
            return result
