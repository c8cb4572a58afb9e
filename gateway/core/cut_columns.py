"""Cutting a whole column of texts to a limit: what `truncate.cut` does to one text, as array calls.

Theory of operation: only the beginning of a row that may be over the limit is looked at, as many bytes as the limit can
be worth. A running sum of the costs over all of these beginnings, and one binary search per row, find the byte where
the room ends. A cut there is right when the characters on its two sides never join (`truncate.py`: the sure
boundaries), which two look-ups in a table say; mostly they do not join. The few rows where that is not sure (flags,
emoji that were joined, combining marks, scripts that join letters) go through `truncate.shorten`, one by one.

Rules for authors: rows are valid UTF-8, but a wrong one must end in some text and never in an exception. Plain twin:
`truncate.cut`, row by row (`tests/core/test_cut_columns.py`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import regex  # type: ignore[import-untyped]  # ships no types

from gateway.columns import I32, I64, U8, Bool, Rows, TextColumn, holds_pair
from gateway.core.truncate import (
    COSTS,
    ISOLATES_BEGIN,
    ISOLATES_UTF8,
    SURE_PAIRS,
    UTF8_BYTES,
    WINDOW_BYTES,
    measure,
    plain_end,
    shorten,
    shorten_plain,
)

#: The table of characters ends here. What it leaves out (rare ideographs, old scripts) is left to `shorten`.
_TABLE_END = 0x1FB00
#: Blocks of which each character is asked for, and such of which the first one stands for all: ideographs, syllables.
_ASKED = ((0x0000, 0x3401), (0xA000, 0xAC01), (0xF900, 0x10000), (0x1F000, _TABLE_END))
_ALIKE = ((0x3400, 0xA000), (0xAC00, 0xD7A4))
#: No character that counts is longer; so much is read behind a place where one may begin.
_CHARACTER_BYTES_MAX = 4


def _kinds() -> U8:
    """(_TABLE_END + 1,) uint8: for pair number i of SURE_PAIRS, bit 2i where the character may stand on the left of a
    boundary, bit 2i + 1 where it may on the right. A few milliseconds, once."""
    kinds = np.zeros(_TABLE_END + 1, np.uint8)
    patterns = [regex.compile(f"{pattern}+", regex.V1) for pair in SURE_PAIRS for pattern in pair]
    for first, stop in _ASKED:
        text = "".join(map(chr, range(first, stop)))
        for bit, pattern in enumerate(patterns):
            for found in pattern.finditer(text):
                kinds[first + found.start() : first + found.end()] |= np.uint8(1 << bit)
    for first, stop in _ALIKE:
        kinds[first:stop] = kinds[first]
    return kinds


_KINDS = _kinds()
_COST_TABLES = {unit: costs.astype(np.uint8).tobytes() for unit, costs in COSTS.items()}
#: Unit -> how many bytes one of it can be worth at most.
_BYTES_PER_UNIT = {"code_points": 4, "half_width": 2, "utf8_bytes": 1}


#: With no more bytes than this for each of the beginnings, the blob is looked at as it lies: a slice per row less.
_HEADS_SHARE = 1.2
#: With fewer rows than this, array calls cost more than a loop.
_COLUMN_ROWS_MIN = 32


#: So much before a cut decides where it falls: the window, and the rest of the character in which it begins.
KNOWN_BYTES_MIN = WINDOW_BYTES + 2 * _CHARACTER_BYTES_MAX


class CutRows(NamedTuple):
    """column: every row within the limit. cut: (k,) the rows that were shortened, ascending."""

    column: TextColumn
    cut: Rows


_NONE: Rows = np.zeros(0, np.int64)


def cut_rows(column: TextColumn, limit: int, unit: str, mark: str) -> CutRows:
    """Each row as `truncate.cut` leaves it. unit: one of a field, which no character costs less than 1 of."""
    offsets = column.offsets.astype(np.int64)
    lengths = offsets[1:] - offsets[:-1]
    # No unit counts more than the bytes.
    longer = np.flatnonzero(lengths > limit)
    if not len(longer):
        return CutRows(column, _NONE)
    blob = column.blob
    # One more than the limit shows that a row is over it, and one more decides about the last grapheme.
    most = _BYTES_PER_UNIT[unit] * (limit + 1) + _CHARACTER_BYTES_MAX
    starts = offsets[longer]
    ends = np.minimum(offsets[longer + 1], starts + most)
    raw, begins, stops = blob, starts, ends
    if _HEADS_SHARE * int((ends - starts).sum()) < len(blob):
        raw = b"".join([blob[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)])
        stops = np.cumsum(ends - starts)
        begins = stops - (ends - starts)
    spent = np.zeros(len(raw) + 1, np.int32)
    np.cumsum(np.frombuffer(raw.translate(_COST_TABLES[unit]), np.uint8), dtype=np.int32, out=spent[1:])
    before = spent[begins]
    over = np.flatnonzero(spent[stops] - before > limit)
    if not len(over):
        return CutRows(column, _NONE)
    cut = longer[over]
    room = limit - measure(mark, unit)
    tail = mark.encode() if room >= 0 else b""
    at = begins[over]
    is_sure = np.ones(len(over), np.bool_)
    if room >= 0:
        if unit == UTF8_BYTES:
            at = at + room
        else:
            at = np.searchsorted(spent, before[over] + np.int32(room), "right").astype(np.int64) - 1
        at, is_sure = _settled(_padded(raw), begins[over], at)
        is_sure &= ~_has_isolate(raw, begins[over], stops[over])
    kept_ends = offsets[1:].copy()
    kept_ends[cut] = starts[over] + (at - begins[over])
    bounds = zip(offsets[:-1].tolist(), kept_ends.tolist(), strict=True)
    rows = [blob[start:end] for start, end in bounds]
    for index in cut.tolist():
        rows[index] += tail
    for index in over[~is_sure].tolist():
        head = raw[int(begins[index]) : int(stops[index])].decode(errors="ignore")
        rows[int(longer[index])] = shorten(head, limit, unit, mark).text.encode()
    return CutRows(TextColumn.from_rows(rows), cut)


def shorten_rows(rows: list[bytes], limits: I64, mark: str) -> list[bytes | None]:
    """Each row as `truncate.shorten_plain` leaves it, which is None where nothing is sure: texts that JSON does not
    escape, each longer than its own limit, bytes. limits: (n,) int64."""
    if len(rows) < _COLUMN_ROWS_MIN:
        return [shorten_plain(row, limit, mark) for row, limit in zip(rows, limits.tolist(), strict=True)]
    tail = mark.encode()
    begins = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, rows), np.int64, len(rows)), out=begins[1:])
    rooms = np.maximum(limits - len(tail), 0)
    raw = b"".join(rows)
    at, is_sure = _settled(_padded(raw), begins[:-1], begins[:-1] + rooms)
    is_sure &= limits >= len(tail)
    is_sure &= ~_has_isolate(raw, begins[:-1], begins[1:])
    kept = (at - begins[:-1]).tolist()
    out: list[bytes | None] = [row[:end] + tail for row, end in zip(rows, kept, strict=True)]
    for index in np.flatnonzero(~is_sure).tolist():
        out[index] = shorten_plain(rows[index], int(limits[index]), mark)
    return out


def _has_isolate(raw: bytes, begins: I64, stops: I64) -> Bool:
    """(n,) whether something in these parts may have to be closed. One look at them all shows that mostly none has."""
    if not holds_pair(raw, ISOLATES_BEGIN):
        return np.zeros(len(begins), np.bool_)
    parts = zip(begins.tolist(), stops.tolist(), strict=True)
    return np.fromiter([ISOLATES_UTF8.search(raw, first, stop) is not None for first, stop in parts], np.bool_)


def plain_ends(blob: bytes, stops: I64, at: I64) -> tuple[I64, Bool]:
    """Where texts that lie in a blob end when they are cut at or before these bytes (k,), as `truncate.shorten_plain`
    cuts them, and where that is sure. Texts that JSON does not escape and that isolate nothing; each begins
    `KNOWN_BYTES_MIN` before its cut or earlier, and ends behind it, at its stop.

    No text is copied: it lies among those of all rows.
    """
    begins = at - KNOWN_BYTES_MIN
    ends, is_sure = _settled(np.frombuffer(blob, np.uint8), begins, at)
    for index in np.flatnonzero(~is_sure).tolist():
        end = plain_end(blob, int(begins[index]), int(stops[index]), int(at[index]))
        if end is not None:
            ends[index], is_sure[index] = end, True
    return ends, is_sure


def _padded(raw: bytes) -> U8:
    """With four more bytes, so that what stands behind the end is nothing."""
    return np.frombuffer(raw + bytes(_CHARACTER_BYTES_MAX), np.uint8)


def _settled(data: U8, begins: I64, at: I64) -> tuple[I64, Bool]:
    """The beginnings of the characters that stand at these bytes, none before where its row begins; and which of them
    are sure to be boundaries of graphemes."""
    at = _character_at(data, at, begins)
    is_first = at == begins
    left = _KINDS[_code_points(data, _character_at(data, np.maximum(at - 1, begins), begins))]
    right = _KINDS[_code_points(data, at)] >> 1
    return at, is_first | ((left & right & np.uint8(0x55)) != 0)


def _character_at(data: U8, at: I64, begins: I64) -> I64:
    """Where the character that holds each byte begins."""
    for _ in range(_CHARACTER_BYTES_MAX - 1):
        at = at - ((data[at] & 0xC0) == 0x80)
    return np.maximum(at, begins)


def _code_points(data: U8, at: I64) -> I32:
    """(n,) int32, the character at each place, at most _TABLE_END."""
    first = data[at].astype(np.int32)
    # What a character at the very end reads of the bytes behind it counts for nothing.
    second, third, fourth = ((data.take(at + step, mode="clip") & 0x3F).astype(np.int32) for step in (1, 2, 3))
    value = np.where(first < 0xE0, (first & 0x1F) << 6 | second, (first & 0x0F) << 12 | second << 6 | third)
    value = np.where(first < 0xF0, value, (first & 0x07) << 18 | second << 12 | third << 6 | fourth)
    return np.minimum(np.where(first < 0x80, first, value), _TABLE_END)
