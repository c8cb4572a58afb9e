"""Counters: rows by day, app, plan, group and class, and in each by what they are; always what a recount would say.

    Home moves rows --> touch(page)     the page is to be looked at again: one call per slice, which compares
    settle(pages)   --> tally_pages     whoever asks, or once the page has ended: 65,536 rows in one to two ms
                    --> totals          + what the page is now  - what it was when it was last counted

So counting costs nothing where rows move, and a page is counted about once in its life. Counters, archive and pages
agree because of one rule: **the totals in memory are, for each page in memory, what it is less what the archive says of
it**. A page that leaves memory without an archive stays in them; one that is written to the archive leaves them.

A page whose rows are queued or under way is looked at again by everybody who asks, since holders write channel and
attempts without a move; one whose open rows are all held changes by moves alone.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from gateway.batch import Batch
from gateway.columns import I64, Rows
from gateway.content import Class
from gateway.errors import LocalProtocolError
from gateway.ledger import LedgerPage, State
from gateway.tally import (
    CELL_BITS,
    Cells,
    PageTally,
    TallyKey,
    count_cells,
    day_of,
    departures,
    few_cells,
    row_cells,
)

#: Rows that are counted in one step: one to two milliseconds.
STEP_ROWS = 1 << 16
#: Pages of one step: a page of one row costs some 10 us.
STEP_PAGES = 100
#: Pages of so many rows are counted one by one, at a fifth of the cost of a sort; smaller ones together.
_COUNTED_ROWS_MIN = 1024
_KEY_MASK = (1 << 16) - 1
_CELL_MASK = (1 << CELL_BITS) - 1
#: Above the cell and a page's key while the rows of several pages are counted together.
_PAGE_SHIFT = CELL_BITS + 16
_Totals: TypeAlias = dict[TallyKey, dict[int, int]]
_CLASSES = {class_.name.lower(): int(class_) for class_ in Class}


class Counters:
    """day_offset_s: how much earlier than at UTC a day begins. cells_max: of the totals; beyond it the oldest days of
    pages that are nowhere are forgotten (only without an archive do they grow)."""

    def __init__(self, *, day_offset_s: int = 28_800, cells_max: int = 1_000_000) -> None:
        self.day_offset_s = day_offset_s
        self._cells_max = cells_max
        self._totals: _Totals = {}
        #: Of pages that left memory and are nowhere.
        self._gone: _Totals = {}
        self._n_cells = 0
        #: Pages that may not be as they were counted; and those of them whose rows have all ended.
        self._touched: dict[LedgerPage, None] = {}
        self._ended: dict[LedgerPage, None] = {}
        self.days_forgotten = 0

    # -- what the home tells

    def touch(self, page: LedgerPage) -> None:
        """Rows of the page have changed."""
        if not page.is_touched:
            page.is_touched = True
            self._touched[page] = None

    def ended(self, page: LedgerPage) -> None:
        """The page has no open row."""
        self._ended[page] = None

    def left(self, page: LedgerPage) -> None:
        """The page leaves memory; what it adds stays, in the archive or here."""
        tally = self.settled(page)
        if page.archived_tally is None:
            self._add(self._totals, tally, -1)
            self._add(self._gone, tally, 1)
        self._touched.pop(page, None)
        self._ended.pop(page, None)

    def came_back(self, page: LedgerPage) -> None:
        """The page is in memory again, as it was; its `archived_tally` is what the archive counts for it."""
        page.tally = page.archived_tally
        page.is_touched = False
        self.touch(page)
        if not page.n_open:
            self.ended(page)

    def archived(self, page: LedgerPage, tally: PageTally) -> None:
        """The archive has the page as it was with this tally, and counts it itself."""
        if page.archived_tally is not None:
            self._add(self._totals, page.archived_tally, 1)
        self._add(self._totals, tally, -1)
        page.archived_tally = tally

    # -- counting

    def settle(self, pages: Sequence[LedgerPage]) -> None:
        """The totals are as these pages are now. One step: see `portions`."""
        for page, tally in zip(pages, tally_pages(pages, self.day_offset_s), strict=True):
            if page.tally != tally:
                if page.tally is not None:
                    self._add(self._totals, page.tally, -1)
                self._add(self._totals, tally, 1)
                page.tally = tally
            counts = page.counts
            if page.n_open == counts[State.HELD]:
                page.is_touched = False
                self._touched.pop(page, None)
            self._ended.pop(page, None)
        if self._n_cells > self._cells_max:
            self._forget()

    def settled(self, page: LedgerPage) -> PageTally:
        """What the page adds, as it is now."""
        if page.is_touched or page.tally is None:
            self.settle([page])
        assert page.tally is not None
        return page.tally

    def portions(self, *, only_ended: bool = False) -> Iterator[list[LedgerPage]]:
        """Pages to settle, as many at once as fit a step. The caller may yield to the loop in between."""
        return portions(list(self._ended if only_ended else self._touched))

    def totals(self) -> Mapping[TallyKey, Cells]:
        """What pages in memory add to the archive; everything where there is none. Cells may be negative."""
        return self._totals

    def gone(self) -> Mapping[TallyKey, Cells]:
        """What pages said that left memory and are in no archive."""
        return self._gone

    @property
    def n_cells(self) -> int:
        return self._n_cells

    def _add(self, totals: _Totals, tally: PageTally, sign: int) -> None:
        for key, cells in tally.cells.items():
            known = totals.setdefault(key, {})
            before = len(known)
            for cell, n in cells.items():
                now = known.get(cell, 0) + sign * n
                if now:
                    known[cell] = now
                else:
                    known.pop(cell, None)
            self._n_cells += len(known) - before
            if not known:
                del totals[key]

    def _forget(self) -> None:
        """Of pages that are nowhere, the oldest days go until the limit holds. What pages in memory say is bounded by
        their memory."""
        while self._n_cells > self._cells_max and self._gone:
            oldest = min(key.day for key in self._gone)
            for key in [key for key in self._gone if key.day == oldest]:
                self._n_cells -= len(self._gone.pop(key))
            self.days_forgotten += 1


def portions(pages: Sequence[LedgerPage]) -> Iterator[list[LedgerPage]]:
    """Pages as many at once as are counted in a step."""
    part: list[LedgerPage] = []
    rows = 0
    for page in pages:
        if part and (rows + page.n > STEP_ROWS or len(part) >= STEP_PAGES):
            yield part
            part, rows = [], 0
        part.append(page)
        rows += page.n
    if part:
        yield part


def tally_pages(pages: Sequence[LedgerPage], day_offset_s: int) -> list[PageTally]:
    """What each page's rows are: large pages of one key one by one, of the others all rows by one sort."""
    parts: list[I64] = [np.zeros(0, np.int64)]
    keys: list[tuple[TallyKey, ...]] = []
    tallies: list[dict[TallyKey, dict[int, int]]] = [{} for _ in pages]
    for place, page in enumerate(pages):
        batch = page.batch
        if page.others is not None:
            keys.append(())
            tallies[place] = _few_tally(page, page.others, day_offset_s)
            continue
        found, index = row_keys(batch, day_offset_s)
        if index is None and page.n >= _COUNTED_ROWS_MIN:
            keys.append(())
            tallies[place][found[0]] = count_cells(page)
            continue
        cells = _with_departures(page, 0, page.n, index)
        if place:
            cells |= np.int64(place << _PAGE_SHIFT)
        parts.append(cells)
        keys.append(found)
    codes, counts = np.unique(np.concatenate(parts), return_counts=True)
    for code, n in zip(codes.tolist(), counts.tolist(), strict=True):
        place = code >> _PAGE_SHIFT
        key = keys[place][code >> CELL_BITS & _KEY_MASK]
        tallies[place].setdefault(key, {})[code & _CELL_MASK] = n
    return [
        PageTally(tally, _is_one_task(page.batch) if page.others is None else page.others.is_one_task)
        for page, tally in zip(pages, tallies, strict=True)
    ]


def tally_rows(page: LedgerPage, first: int, stop: int, day_offset_s: int) -> dict[TallyKey, dict[int, int]]:
    """What the rows first..stop of one page are."""
    keys, index = row_keys(page.batch, day_offset_s)
    cells = _with_departures(page, first, stop, index)
    found: dict[TallyKey, dict[int, int]] = {}
    codes, counts = np.unique(cells, return_counts=True)
    for code, n in zip(codes.tolist(), counts.tolist(), strict=True):
        found.setdefault(keys[code >> CELL_BITS], {})[code & _CELL_MASK] = n
    return found


def _with_departures(page: LedgerPage, first: int, stop: int, index: I64 | None) -> I64:
    """The cells of the rows first..stop and of what left a channel for another, with the key of each above it."""
    cells = row_cells(page, first, stop)
    rows, left = departures(page, first, stop)
    if index is not None:
        cells |= index[first:stop] << CELL_BITS
        left |= index[rows] << CELL_BITS
    return np.concatenate([cells, left]) if len(left) else cells


def others_of(page: LedgerPage, rows: Rows, tally: PageTally, day_offset_s: int) -> PageTally:
    """What is left of a tally without these rows of the page, which it has as they are."""
    cells = {key: dict(found) for key, found in tally.cells.items()}
    for key, found in _tally_few(page, rows, day_offset_s).items():
        of_key = cells.get(key, {})
        for cell, n in found.items():
            left = of_key.get(cell, 0) - n
            if left < 0:
                raise LocalProtocolError(
                    f"a page of which a few rows are here counts for less than they: {key}, {cell}"
                )
            if left:
                of_key[cell] = left
            else:
                of_key.pop(cell)
    return tally._replace(cells={key: found for key, found in cells.items() if found})


def _few_tally(page: LedgerPage, others: PageTally, day_offset_s: int) -> dict[TallyKey, dict[int, int]]:
    """What a page of which a few rows are here adds."""
    assert page.here is not None
    cells = {key: dict(found) for key, found in others.cells.items()}
    for key, found in _tally_few(page, page.here.rows, day_offset_s).items():
        of_key = cells.setdefault(key, {})
        for cell, n in found.items():
            of_key[cell] = of_key.get(cell, 0) + n
    return cells


def _tally_few(page: LedgerPage, rows: Rows, day_offset_s: int) -> dict[TallyKey, dict[int, int]]:
    """The same of these rows alone: a loop over a few."""
    cells, left = few_cells(page, rows)
    found: dict[TallyKey, dict[int, int]] = {}
    for row, cell in [*zip(rows.tolist(), cells, strict=True), *left]:
        of_key = found.setdefault(_row_key(page.batch, row, day_offset_s), {})
        of_key[cell] = of_key.get(cell, 0) + 1
    return found


def _row_key(batch: Batch, row: int, day_offset_s: int) -> TallyKey:
    variant, segments = batch.variant_of(row), batch.segments
    group = ""
    if segments:
        group = segments[max(bisect.bisect_right(segments, row, key=lambda one: one.first) - 1, 0)].group
    day = day_of(batch.born_unix_ms, day_offset_s)
    return TallyKey(day, batch.app, variant.plan_id, group, _CLASSES[variant.class_])


def _is_one_task(batch: Batch) -> bool:
    first = batch.segments[0].task_id if batch.segments else b""
    return all(segment.task_id == first for segment in batch.segments)


def row_keys(batch: Batch, day_offset_s: int) -> tuple[tuple[TallyKey, ...], I64 | None]:
    """The keys of a batch, and (n,) which of them each row has; None: there is one."""
    day, app = day_of(batch.born_unix_ms, day_offset_s), batch.app
    kinds: dict[tuple[str, str], int] = {}
    of_variant = [kinds.setdefault((variant.plan_id, variant.class_), len(kinds)) for variant in batch.variants]
    groups: dict[str, int] = {}
    of_segment = [groups.setdefault(segment.group, len(groups)) for segment in batch.segments]
    kind_names, group_names = list(kinds), list(groups) or [""]

    def key(kind: int, group: int) -> TallyKey:
        plan, class_ = kind_names[kind]
        return TallyKey(day, app, plan, group_names[group], _CLASSES[class_])

    pairs: I64 = np.zeros(batch.n, np.int64)
    if batch.variant_index is not None:
        pairs += np.array(of_variant, np.int64)[batch.variant_index] << 16
    if len(groups) > 1:
        pairs += np.repeat(np.array(of_segment, np.int64), [segment.n for segment in batch.segments])
    if not pairs.any():
        return (key(0, 0),), None
    used, index = np.unique(pairs, return_inverse=True)
    return tuple(key(pair >> 16, pair & _KEY_MASK) for pair in used.tolist()), index.astype(np.int64)
