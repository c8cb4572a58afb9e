"""Tally: how many rows of a page are what; the words that counters, the archive and reports share.

A row is counted in one *cell*: what it is (channel, state, reason, receipt, whether it was sent, whether notifications
are closed at its device), as one number. A cell belongs to a *key*: whose row it is (day, app, plan, group, class). A
page of 65,536 rows has a handful of keys and some dozens of cells.

    cell   23      16 15       8 7    4 3      2     1            0
           | channel | reason  | state | receipt | is_closed | was_sent |

Beside the cells of rows there are those of departures: rows that a channel had and that went on to another one, with
`WENT_ON` where a state stands, and why. Such a row is in a cell of its own as well, under the channel that it has now.

Rules for authors: cells stand in the archive: a new fact takes a bit above, none is given another meaning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec
import numpy as np

from gateway.columns import I64, U8, Bool, Rows
from gateway.ledger import Flag, LedgerPage, Reason
from gateway.page_history import Kind

#: Bits of a cell; the page's key stands above it while rows are counted.
CELL_BITS = 24
_DAY_S = 86_400
#: In the place of a state: not rows, but departures of rows from that channel.
WENT_ON = 15
_DEPARTURES = {Kind.HANDED_OVER: Reason.HAND_OVER, Kind.FELL_BACK: Reason.FALLBACK}
_ONE, _TWO, _FOUR = np.uint8(1), np.uint16(2), np.uint16(4)


class TallyKey(NamedTuple):
    """Whose rows. day: days since 1970-01-01 where the day begins `day_offset_s` before UTC's; of the submit."""

    day: int
    app: int
    plan: str
    group: str
    class_: int


#: cell -> rows.
Cells = Mapping[int, int]


class PageTally(NamedTuple):
    """What a page adds to the counters; two pages that say the same are equal."""

    cells: Mapping[TallyKey, Cells]
    #: All rows are of one task: what is said of the page is said of the task.
    is_one_task: bool = False


class CellColumns(NamedTuple):
    """Cells taken apart, as columns of k; rows: (k,) int64."""

    channel: U8
    state: U8
    reason: U8
    receipt: U8
    was_sent: Bool
    is_closed: Bool
    rows: I64


def row_cells(page: LedgerPage, start: int, stop: int) -> I64:
    """(k,) the cell of each of the rows start..stop."""
    span = slice(start, stop)
    cells: I64 = page.channel[span].astype(np.int64)
    cells <<= 8
    cells |= page.reason[span]
    cells <<= 4
    cells |= page.state[span]
    cells <<= 2
    cells |= page.receipt[span]
    cells <<= 2
    cells |= (page.flags[span] & np.uint8(Flag.NOTIFICATION_CLOSED)) << 1
    cells |= page.attempts[span] > 0
    return cells


def few_cells(page: LedgerPage, rows: Rows) -> tuple[list[int], list[tuple[int, int]]]:
    """The cell of each of a few rows, and row and cell of each of their departures. What `row_cells` and `departures`
    say of a span."""
    closed = np.uint8(Flag.NOTIFICATION_CLOSED)
    cells = page.channel[rows].astype(np.int64) << 16 | page.reason[rows].astype(np.int64) << 8
    cells |= page.state[rows] << np.uint16(4) | page.receipt[rows] << np.uint16(2)
    cells |= (page.flags[rows] & closed) << 1 | (page.attempts[rows] > 0)
    left: list[tuple[int, int]] = []
    if page.history is not None:
        at, codes = departures(page, 0, page.n)
        left = [pair for pair in zip(at.tolist(), codes.tolist(), strict=True) if pair[0] in rows]
    return cells.tolist(), left


def departures(page: LedgerPage, start: int, stop: int) -> tuple[Rows, I64]:
    """Of the rows start..stop: those that left a channel for another, and the cell of each departure, each once."""
    history = page.history
    if history is None:
        return np.zeros(0, np.intp), np.zeros(0, np.int64)
    found = []
    for kind, reason in _DEPARTURES.items():
        which = (history.kinds == kind) & (history.rows >= start) & (history.rows < stop)
        cells = history.channels[which].astype(np.int64) << 16 | int(reason) << 8 | WENT_ON << 4
        found.append(history.rows[which].astype(np.int64) << CELL_BITS | cells)
    codes = np.unique(np.concatenate(found))
    return (codes >> CELL_BITS).astype(np.intp), codes & ((1 << CELL_BITS) - 1)


def went_on(parts: Iterable[Cells]) -> dict[int, int]:
    """Departures by channel."""
    found: dict[int, int] = {}
    for cells in parts:
        for cell, n in cells.items():
            if cell >> 4 & 0xF == WENT_ON:
                found[cell >> 16] = found.get(cell >> 16, 0) + n
    return found


def rows_in(cells: Cells) -> int:
    """How many rows are counted there."""
    return sum(n for cell, n in cells.items() if cell >> 4 & 0xF != WENT_ON)


def count_cells(page: LedgerPage) -> dict[int, int]:
    """How many rows of the page are in each cell, and departures: what sorting `row_cells` of all would say.

    Most rows have no reason: then what is left of a cell is 16 bits, which are counted instead of sorted.
    """
    codes = page.channel.astype(np.uint16)
    codes <<= _FOUR
    codes |= page.state
    codes <<= _TWO
    codes |= page.receipt
    codes <<= _TWO
    codes |= (page.flags & np.uint8(Flag.NOTIFICATION_CLOSED)) << _ONE
    codes |= (page.attempts != 0).view(np.uint8)
    if np.count_nonzero(page.reason):
        has_reason = page.reason != 0
        cells = row_cells(page, 0, page.n)[has_reason]
        found = dict(zip(*(each.tolist() for each in np.unique(cells, return_counts=True)), strict=True))
        codes = codes[~has_reason]
    else:
        found = {}
    counts = np.bincount(codes)
    present = counts.nonzero()[0]
    for code, n in zip(present.tolist(), counts[present].tolist(), strict=True):
        found[code >> 8 << 16 | code & 0xFF] = n
    if page.history is not None:
        left = np.unique(departures(page, 0, page.n)[1], return_counts=True)
        found.update(zip(*(each.tolist() for each in left), strict=True))
    return found


def take_apart(cells: I64, rows: I64) -> CellColumns:
    return CellColumns(
        (cells >> 16).astype(np.uint8),
        (cells >> 4 & 0xF).astype(np.uint8),
        (cells >> 8 & 0xFF).astype(np.uint8),
        (cells >> 2 & 0x3).astype(np.uint8),
        (cells & 1).astype(np.bool_),
        (cells >> 1 & 1).astype(np.bool_),
        rows,
    )


def columns_of(cells: Cells) -> CellColumns:
    """The cells of one key as columns, without departures."""
    codes = np.fromiter(cells.keys(), np.int64, len(cells))
    is_row = codes >> 4 & 0xF != WENT_ON
    return take_apart(codes[is_row], np.fromiter(cells.values(), np.int64, len(cells))[is_row])


def day_of(unix_ms: int, day_offset_s: int) -> int:
    return (unix_ms // 1000 + day_offset_s) // _DAY_S


def day_starts_unix_ms(day: int, day_offset_s: int) -> int:
    return (day * _DAY_S - day_offset_s) * 1000


def add_tallies(tallies: Iterable[PageTally], days: range) -> dict[TallyKey, dict[int, int]]:
    """What several pages add up to on these days."""
    return add_keys((tally.cells for tally in tallies), days)


def add_keys(parts: Iterable[Mapping[TallyKey, Cells]], days: range) -> dict[TallyKey, dict[int, int]]:
    """The sum of several by key, of these days; what comes to nothing is left out."""
    summed: dict[TallyKey, dict[int, int]] = {}
    for part in parts:
        for key, cells in part.items():
            if key.day in days:
                known = summed.setdefault(key, {})
                for cell, n in cells.items():
                    known[cell] = known.get(cell, 0) + n
    kept = {key: {cell: n for cell, n in cells.items() if n} for key, cells in summed.items()}
    return {key: cells for key, cells in kept.items() if cells}


# -- as bytes, beside an archived page


class _Stored(msgspec.Struct, array_like=True):
    is_one_task: bool
    keys: list[tuple[int, int, str, str, int]]
    cells: list[dict[int, int]]


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(_Stored)


def encode_tally(tally: PageTally) -> bytes:
    keys = [(key.day, key.app, key.plan, key.group, key.class_) for key in tally.cells]
    return _ENCODER.encode(_Stored(tally.is_one_task, keys, [dict(cells) for cells in tally.cells.values()]))


def decode_tally(data: bytes) -> PageTally:
    """Raises ValueError for bytes that `encode_tally` did not make."""
    try:
        stored = _DECODER.decode(data)
    except msgspec.DecodeError as error:
        raise ValueError(f"tally: {error}") from error
    keys = [TallyKey(*key) for key in stored.keys]
    return PageTally(dict(zip(keys, stored.cells, strict=True)), stored.is_one_task)
