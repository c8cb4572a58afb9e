"""Cutting one text to a limit, so that it still reads well: whole graphemes, and a mark that says it was cut.

A limit is counted in one of four units. All of them are sums over the bytes of the UTF-8 form, so that one table of
256 costs per unit serves one text and a whole column alike:

    unit          ASCII   two bytes and more        used by
    code_points     1        1                       Xiaomi, OPPO ...
    half_width      1        2                       vivo: a Chinese character counts two
    utf8_bytes      1        its bytes               HMS fields
    json_bytes      as json_escape() writes it       every payload limit

Theory of operation: find the last code point that fits (a slice, or a running sum where costs differ), then step back
to the end of a grapheme (UAX 29 extended clusters, `\\X` of the regex package). Clusters are only looked at from a
place near the cut that is surely a boundary: between two characters that never join, whatever stands around them.
What lies far before the cut costs nothing (only a long run of flags is walked through), what lies behind it is never
read.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import regex  # type: ignore[import-untyped]  # ships no types

from gateway.columns import I64, TextColumn, json_escape

#: Ends a text that was cut; counts inside the limit. One character, three bytes, understood everywhere.
MARK = "\u2026"

CODE_POINTS = "code_points"
HALF_WIDTH = "half_width"
UTF8_BYTES = "utf8_bytes"
JSON_BYTES = "json_bytes"


def _costs(ascii_cost: int, lead_cost: int, continuation_cost: int) -> I64:
    costs = np.empty(256, np.int64)
    costs[:0x80] = ascii_cost
    costs[0x80:0xC0] = continuation_cost
    costs[0xC0:] = lead_cost
    return costs


#: Unit -> (256,) int64, what each byte of the UTF-8 form adds to the length.
COSTS: dict[str, I64] = {
    CODE_POINTS: _costs(1, 1, 0),
    HALF_WIDTH: _costs(1, 2, 0),
    UTF8_BYTES: _costs(1, 1, 1),
    JSON_BYTES: np.array([len(json_escape(bytes([value]))) for value in range(256)], np.int64),
}

#: A grapheme of more bytes than this is a curiosity; `shorten_plain` then leaves the text to `shorten`.
WINDOW_BYTES = 192
_GRAPHEME = regex.compile(r"\X")
#: Two neighbours that never share a grapheme. Before such a right one only a prefix sign or a joiner binds (UAX 29
#: rules GB9b, GB11), and before a whole Hangul syllable also single letters (GB6), so there the left one is narrower.
#: Consonants of Indic scripts are left out, because GB9c looks further back than one character.
_SYLLABLE = r"[\p{GCB=LV}\p{GCB=LVT}]"
SURE_PAIRS = (
    (r"[^\p{GCB=Prepend}\p{GCB=ZWJ}]", r"[\p{GCB=Other}--\p{InCB=Consonant}]"),
    (rf"[\p{{GCB=Other}}{_SYLLABLE}]", _SYLLABLE),
)
_BOUNDARY = "|".join(left + right for left, right in SURE_PAIRS)
_BOUNDARY_BEFORE = regex.compile(f"(?r){_BOUNDARY}", regex.V1)


#: What begins a part with a direction of its own, and what ends one (UAX 9 section 2.4). One that a cut has left open
#: would take the mark, and whatever stands behind the text, into its direction: it is closed within the limit.
ISOLATES = regex.compile("[\u2066-\u2068]")
ISOLATES_BEGIN = b"\xe2\x81"
ISOLATES_UTF8 = regex.compile(b"\xe2\x81[\xa6-\xa8]")
CLOSE_ISOLATE = "\u2069"
_ISOLATES_AND_ENDS = regex.compile("[\u2066-\u2069]")
_CLOSING_PARTS = 64


class Cut(NamedTuple):
    text: str
    was_cut: bool


def measure(text: str, unit: str) -> int:
    """The length of the text in the unit. Raises KeyError for an unknown unit."""
    if unit == CODE_POINTS:
        return len(text)
    raw = text.encode()
    if unit == UTF8_BYTES or (unit == JSON_BYTES and json_escape(raw) is raw):
        return len(raw)
    return int(COSTS[unit][np.frombuffer(raw, np.uint8)].sum())


def measure_rows(column: TextColumn, unit: str) -> I64:
    """(n,) int64, the length of each row in the unit."""
    if unit == UTF8_BYTES:
        return column.lengths()
    running = np.zeros(len(column.blob) + 1, np.int64)
    np.cumsum(COSTS[unit][np.frombuffer(column.blob, np.uint8)], out=running[1:])
    ends = running[column.offsets]
    return ends[1:] - ends[:-1]


def cut(text: str, limit: int, unit: str, mark: str = MARK) -> Cut:
    """The text itself where it fits, else its longest beginning of whole graphemes that fits together with the mark.

    A limit too small for the mark gives an empty text. Cost depends on the limit, not on the length of the text.
    """
    if len(text) <= limit and measure(text, unit) <= limit:
        return Cut(text, False)
    return shorten(text, limit, unit, mark)


def shorten(text: str, limit: int, unit: str, mark: str = MARK) -> Cut:
    """`cut` for a text that is known to be over the limit."""
    room = limit - measure(mark, unit)
    if room < 0:
        return Cut("", True)
    end = _grapheme_end(text, _code_points_within(text, room, unit), is_whole=True)
    kept = text[:end]
    if ISOLATES.search(kept) is not None:
        kept = _closed(text, room, unit)
    return Cut(kept + mark, True)


def _closed(text: str, room: int, unit: str) -> str:
    """The longest beginning that fits together with what closes its isolates. Between two characters that begin or end
    one their number is the same, so those parts are tried from behind; of very many the first ones go."""
    cost = measure(CLOSE_ISOLATE, unit)
    stop = _code_points_within(text, room, unit)
    parts, depth = [(0, 0)], 0
    for found in _ISOLATES_AND_ENDS.finditer(text, 0, stop):
        # One that ends none is no matter (UAX 9 section 3.1.2).
        depth = max(0, depth - 1) if found[0] == CLOSE_ISOLATE else depth + 1
        parts.append((found.end(), depth))
    for start, depth in reversed(parts[-_CLOSING_PARTS:]):
        left = room - depth * cost
        end = _grapheme_end(text, min(stop, _code_points_within(text, left, unit)), is_whole=True) if left >= 0 else -1
        if end is not None and end >= start:
            return text[:end] + CLOSE_ISOLATE * depth
        stop = start - 1
    first = ISOLATES.search(text)
    return "" if first is None else text[: first.start()]


def shorten_plain(raw: bytes, limit: int, mark: str = MARK) -> bytes | None:
    """`shorten` in JSON bytes for a UTF-8 text that JSON does not escape anywhere, given and returned as bytes.

    Only a window before the cut is decoded, so it costs a fraction of `shorten`, whatever the length of the text. None
    where the window shows no sure boundary, or isolates may have to be closed: then the whole text has to be looked at.
    """
    tail = mark.encode()
    room = limit - len(tail)
    if room < 0:
        return b""
    if raw.find(ISOLATES_BEGIN, 0, limit) >= 0:
        return None
    end = plain_end(raw, 0, len(raw), room)
    return None if end is None else raw[:end] + tail


def plain_end(raw: bytes, begin: int, stop: int, at: int) -> int | None:
    """The last grapheme boundary at or before the byte `at` of the text raw[begin:stop], by a look at a window before
    it; None where that shows none that is sure."""
    start = max(begin, at - WINDOW_BYTES)
    while start > begin and raw[start] & 0xC0 == 0x80:
        start -= 1
    # A character behind the cut decides whether the last one before it stands alone.
    window = raw[start : min(at + 4, stop)].decode(errors="ignore")
    length = len(raw[start:at].decode(errors="ignore"))
    end = _grapheme_end(window, length, is_whole=start == begin)
    return None if end is None else start + len(window[:end].encode())


def _code_points_within(text: str, room: int, unit: str) -> int:
    """How many code points fit into the room. No character costs less than 1, so the rest is never encoded."""
    head = text[:room]
    if unit == CODE_POINTS:
        return len(head)
    raw = head.encode()
    if unit == HALF_WIDTH:
        fitting = _bytes_within(raw, room, unit)
    else:
        # No byte costs less than 1 here either, and mostly none costs more.
        raw = raw[:room]
        is_plain = unit == UTF8_BYTES or json_escape(raw) is raw
        fitting = len(raw) if is_plain else _bytes_within(raw, room, unit)
    return len(raw[:fitting].decode(errors="ignore"))


def _bytes_within(raw: bytes, room: int, unit: str) -> int:
    """A running sum of the costs; those of a character fall on its first byte or on each, never on later ones only."""
    spent = np.cumsum(COSTS[unit][np.frombuffer(raw, np.uint8)])
    return int(np.searchsorted(spent, room, "right"))


def _grapheme_end(text: str, at: int, *, is_whole: bool) -> int | None:
    """The last grapheme boundary at or before `at` (0 <= at <= len(text)).

    is_whole: the text begins where it begins; else None when no boundary in it is sure.
    """
    if at >= len(text) and is_whole:
        return len(text)
    # The pair may end one behind the cut: then the cut itself is a boundary.
    pair = _BOUNDARY_BEFORE.search(text, 0, at + 1)
    if pair is None and not is_whole:
        return None
    boundary = pair.start() + 1 if pair is not None else 0
    while boundary < at:
        cluster = _GRAPHEME.match(text, boundary)
        if cluster is None or cluster.end() > at:
            break
        boundary = cluster.end()
    return boundary
