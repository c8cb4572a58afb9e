"""Whether the rows of a column are UTF-8, each by itself (RFC 3629, section 4).

Decoding says it at 1.4 ns a byte for Chinese and emoji, and makes a string that nobody wants. As columns of bytes it is
0.5 ns: the bytes that go on with a character are exactly those that the first bytes before them announce,

    0xxxxxxx                      nothing follows
    110xxxxx  10xxxxxx            C0 and C1 are never used
    1110xxxx  10xxxxxx 10xxxxxx   behind E0 not below A0, behind ED not above 9F
    11110xxx  10xxxxxx ...        behind F0 not below 90, behind F4 not above 8F; F5 and above are never used

Rules for authors: as in `columns.py`. The plain twin is `bytes.decode`.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator

import numpy as np

from gateway.columns import Bool, TextColumn, drained

#: A blob is looked at in pieces of about this many bytes: what one look makes of a piece is still in the cache for the
#: next, and the calls cost a tenth of what they do.
_PIECE_BYTES = 1 << 17
#: Some 0.5 ms of Chinese text on a core of a small machine.
_PIECES_PER_STEP = 8
#: Pieces up to that are decoded: sooner done than a dozen array calls.
_DECODED_BYTES_MAX = 1 << 14
#: So are pieces whose beginning is nearly all ASCII, which is decoded by whole words: one byte in so many, or fewer,
#: goes on with a character.
_DECODED_SHARE = 16
_BEGINNING_BYTES = 1 << 12
#: As signed numbers, bytes that go on with a character are those below.
_INSIDE_END = np.int8(-0x40)
#: First bytes of characters of two bytes and more, three and more, four.
_TWO, _THREE, _FOUR = np.uint8(0xC0), np.uint8(0xE0), np.uint8(0xF0)
_NEVER = (0xC0, 0xC1)
_FIRST_MAX = 0xF4
#: First bytes whose second one is bounded more narrowly than 80..BF: to what, and whether from below.
_BOUNDED = ((0xE0, np.uint8(0xA0), True), (0xED, np.uint8(0x9F), False), (0xF4, np.uint8(0x8F), False))
_BOUND_BEHIND_F0 = np.uint8(0x90)


def utf8_good_rows(column: TextColumn) -> Bool:
    """(n,) true where the row is valid UTF-8 by itself. One look at the whole blob when all is well."""
    return drained(utf8_good_rows_in_steps(column))


def utf8_good_rows_in_steps(column: TextColumn) -> Generator[None, None, Bool]:
    """`utf8_good_rows`, interrupted every megabyte.

    The blob being valid is not enough: an offset may cut a sequence in two, so row starts must not be continuation
    bytes either.
    """
    n, blob = len(column), column.blob
    good = np.ones(n, np.bool_)
    for number, (first, stop) in enumerate(_pieces(column)):
        if number % _PIECES_PER_STEP == _PIECES_PER_STEP - 1:
            yield
        if not is_utf8(blob, first, stop):
            return np.fromiter([_decodes(row, 0, len(row)) for row in column.rows()], np.bool_, n)
    data = np.frombuffer(blob, np.uint8)
    if not len(data):
        return good
    offsets = column.offsets.astype(np.int64)
    inside = offsets < len(data)
    cut = np.zeros(n + 1, np.bool_)
    cut[inside] = (data[offsets[inside]] & 0xC0) == 0x80
    # An empty row is whole wherever it stands; a row with bytes is broken when either end cuts a sequence.
    has_bytes = np.diff(offsets) > 0
    good[has_bytes & (cut[:-1] | cut[1:])] = False
    return good


def _pieces(column: TextColumn) -> list[tuple[int, int]]:
    """Pieces of the blob that begin and end where rows do, of about _PIECE_BYTES or one row each."""
    offsets, size = column.offsets, len(column.blob)
    if size <= _PIECE_BYTES:
        return [(0, size)]
    wanted = np.arange(_PIECE_BYTES, size, _PIECE_BYTES)
    cuts = np.unique(offsets[np.searchsorted(offsets, wanted)]).tolist()
    return list(itertools.pairwise([0, *(cut for cut in cuts if 0 < cut < size), size]))


def is_utf8(blob: bytes, first: int, stop: int) -> bool:
    """Whether blob[first:stop] is valid UTF-8."""
    n = stop - first
    if n <= _DECODED_BYTES_MAX:
        return _decodes(blob, first, stop)
    data = np.frombuffer(blob, np.uint8, n, first)
    is_inside = data.view(np.int8) < _INSIDE_END
    if _DECODED_SHARE * np.count_nonzero(is_inside[:_BEGINNING_BYTES]) <= _BEGINNING_BYTES:
        return _decodes(blob, first, stop)
    # The last character is whole; what is not announced by then is nothing.
    last = int(data.max())
    if data[-1] >= _TWO or data[-2] >= _THREE or data[-3] >= _FOUR or last > _FIRST_MAX:
        return False
    is_announced = np.empty(n, np.bool_)
    is_announced[0] = False
    np.greater_equal(data[:-1], _TWO, out=is_announced[1:])
    is_announced[2:] |= data[:-2] >= _THREE
    if last >= _FOUR:
        is_four = data[:-3] >= _FOUR
        is_announced[3:] |= is_four
        if last > _FOUR:
            # Not only emoji: some first bytes of four are others.
            is_four = data[:-3] == _FOUR
        is_four &= data[1:-2] < _BOUND_BEHIND_F0
        if np.count_nonzero(is_four):
            return False
    if np.count_nonzero(np.not_equal(is_announced, is_inside, out=is_inside)):
        return False
    if any(blob.find(value, first, stop) >= 0 for value in _NEVER):
        return False
    for lead, bound, is_lowest in _BOUNDED:
        if blob.find(lead, first, stop) >= 0:
            is_bad = data[1:] < bound if is_lowest else data[1:] > bound
            is_bad &= data[:-1] == np.uint8(lead)
            if np.count_nonzero(is_bad):
                return False
    return True


def _decodes(blob: bytes, first: int, stop: int) -> bool:
    try:
        str(memoryview(blob)[first:stop], "utf-8")
    except UnicodeDecodeError:
        return False
    return True
