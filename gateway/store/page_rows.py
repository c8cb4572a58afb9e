"""Some rows of an archived page, read without the rest of it: a device that returns needs a few blocks of 1.3 MB.

    PackedParts --read_rows--> RowsOfPage --few_of--> LedgerPage with `here`
                                   |------add_rows--> the same with more rows

What of it changes is written as a record beside the page (page_changes.py), like changes of a page that is here whole.
A page that cannot be taken so is read whole: one of an earlier version or of few rows, with the tasks of many submits,
or of which much was heard.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from gateway.archived_copy import LOGGED, ArchivedCopy
from gateway.batch import Batch
from gateway.columns import Bool, Rows
from gateway.few_rows import FewRows, FewTexts, Here
from gateway.ledger import LedgerPage, State
from gateway.page_history import PageHistory
from gateway.store.packing import NotInBlocks, PackedParts
from gateway.store.page_changes import PAST_COLUMNS, STATE_COLUMNS, PastColumns, logged_rows, past_of
from gateway.store.pages import PAGE_DECODER
from gateway.store.records import BatchHead, decode_head
from gateway.tally import PageTally

#: Smaller pages are written whole, so they are read whole.
ROWS_MIN = 1024
#: Tasks of a page, and entries of its history, that are read for one row: some 0.1 ms.
_SEGMENTS_MAX = 64
_PAST_MAX = 4096
#: Columns of a batch: bytes of an element, and how many of them a row has.
_COLUMNS = {
    "device_ids": ("u1", 16),
    "channels": ("u1", 1),
    "variant_index": ("<u2", 1),
    "target_hashes": ("<u4", 1),
}
#: Where the batch's header and its first column stand among the parts of a page (`store/pages.py`).
_HEAD_PART, _FIRST_COLUMN = 3, 4


class RowsOfPage(NamedTuple):
    """rows: (k,) rising. columns: of the batch, states: of the page, by name, (k, ...). texts: variables by name, with
    the bytes of all rows. past: entries of the history about these rows, in the page's own bytes and in its log.
    bursts: how many there are of all rows, the log's included. tally: what the archive counts for the whole page."""

    rows: Rows
    head: BatchHead
    columns: dict[str, np.ndarray[Any, Any]]
    texts: dict[str, tuple[list[bytes], int]]
    states: dict[str, np.ndarray[Any, Any]]
    is_logged: Bool
    past: PastColumns
    past_logged: list[PastColumns]
    bursts: int
    records: int
    log_bytes: int
    tally: PageTally


def read_rows(parts: PackedParts, rows: Rows, log: Sequence[bytes], tally: PageTally) -> RowsOfPage | None:
    """rows: rising. None for a page that is to be read whole. Raises ValueError for damaged bytes."""
    try:
        (header_bytes, head_bytes) = (parts.whole(1), parts.whole(_HEAD_PART))
        header, head = PAGE_DECODER.decode(header_bytes), decode_head(head_bytes)
    except (struct.error, msgspec.DecodeError, IndexError) as error:
        raise ValueError(f"page header: {error}") from error
    is_whole = header.has_receipt_ms or header.past > _PAST_MAX or len(head.segments) > _SEGMENTS_MAX
    if is_whole or head.n < ROWS_MIN or any(variant.fallback for variant in head.variants):
        return None
    if not len(rows) or int(rows[-1]) >= head.n:
        # Of another batch that had its number.
        return None
    places = {name: _FIRST_COLUMN + place for place, (name, _) in enumerate(head.columns)}
    sizes = dict(head.columns)
    columns = {
        name: _elements(parts, places[name], rows, dtype, width)
        for name, (dtype, width) in _COLUMNS.items()
        if name in places
    }
    texts = {
        name.partition(":")[2]: (_texts(parts, places, name.partition(":")[2], rows), sizes[name])
        for name in places
        if name.startswith("var.blob:")
    }
    at = _FIRST_COLUMN + len(head.columns)
    states = {
        name: _elements(parts, at + place, rows, dtype, 1) for place, (name, dtype) in enumerate(STATE_COLUMNS.items())
    }
    at += len(STATE_COLUMNS)
    past: PastColumns = {name: np.zeros(0, dtype) for name, dtype in PAST_COLUMNS.items()}
    if header.past:
        entries = {
            name: np.frombuffer(parts.whole(at + place), dtype)
            for place, (name, dtype) in enumerate(PAST_COLUMNS.items())
        }
        past = past_of(entries, rows)
    together = b"".join(log)
    logged = logged_rows(memoryview(together), rows, states)
    return RowsOfPage(
        rows,
        head,
        columns,
        texts,
        states,
        logged.is_logged,
        past,
        logged.past,
        len(header.bursts) + logged.bursts,
        logged.records,
        len(together),
        tally,
    )


def rows_in(data: bytes, rows: Rows, log: Sequence[bytes], tally: PageTally) -> RowsOfPage | None:
    """The same of a packed page that is in memory."""
    view = memoryview(data)
    try:
        parts = PackedParts(lambda at, n: view[at : at + n], len(data))
    except NotInBlocks:
        return None
    return read_rows(parts, rows, log, tally)


def _elements(parts: PackedParts, index: int, rows: Rows, dtype: str, width: int) -> np.ndarray[Any, Any]:
    """(k,) or (k, width), writable."""
    size = np.dtype(dtype).itemsize * width
    found = bytearray().join(parts.some(index, row * size, (row + 1) * size) for row in rows.tolist())
    column: np.ndarray[Any, Any] = np.frombuffer(found, dtype)
    return column if width == 1 else column.reshape(len(rows), width)


def _texts(parts: PackedParts, places: dict[str, int], name: str, rows: Rows) -> list[bytes]:
    blob, offsets = places[f"var.blob:{name}"], places[f"var.offsets:{name}"]
    found = []
    for row in rows.tolist():
        start, stop = struct.unpack("<II", parts.some(offsets, 4 * row, 4 * row + 8))
        found.append(parts.some(blob, start, stop))
    return found


# -- as a page


def few_of(found: RowsOfPage, *, now: float, now_unix_ms: int) -> LedgerPage:
    """A page of which these rows are here, without message ids. now, now_unix_ms: one moment on both clocks."""
    head, here = found.head, Here(found.rows)
    columns = {name: here.column(column) for name, column in found.columns.items()}
    batch = Batch(
        head.address,
        head.app,
        now - (now_unix_ms - head.address.unix_ms) / 1000,
        head.n,
        variants=head.variants,
        segments=head.segments,
        variables={name: FewTexts(here, *texts) for name, texts in found.texts.items()},
        **columns,
    )
    page = LedgerPage(batch, here)
    page.slots.fill(-1)
    _put_states(page, found)
    page.archived = ArchivedCopy(page.n, 0, 0, has_texts=bool(found.texts), here=here)
    page.archived.records, page.archived.log_bytes = found.records, found.log_bytes
    page.archived.marks[found.rows[found.is_logged]] = LOGGED
    page.archived.is_durable = True
    page.archived.bursts_before = found.bursts
    _put_past(page, found)
    for cells in found.tally.cells.values():
        for cell, n in cells.items():
            # Departures are not rows.
            if (state := cell >> 4 & 0xF) < len(State):
                page.counts[state] += n
    page.counts[State.QUEUED] -= page.n
    page.n_routed = page.n
    page.saved = page.changes
    return page


def add_rows(page: LedgerPage, found: RowsOfPage) -> None:
    """These rows, none of which is, are here, too."""
    assert page.here is not None
    assert page.archived is not None
    page.here.grow(found.rows)
    batch = page.batch
    for name, column in found.columns.items():
        getattr(batch, name)[found.rows] = column
    batch.variables = {
        name: column.grown(found.rows, found.texts[name][0])
        for name, column in batch.variables.items()
        if isinstance(column, FewTexts)
    }
    page.slots[found.rows] = -1
    _put_states(page, found)
    page.archived.marks[found.rows[found.is_logged]] = LOGGED
    _put_past(page, found)


def _put_states(page: LedgerPage, found: RowsOfPage) -> None:
    for name, column in found.states.items():
        getattr(page, name)[found.rows] = column


def _put_past(page: LedgerPage, found: RowsOfPage) -> None:
    """The history has these entries, too: those of the page's own bytes before those of its log, and both before what
    is nowhere yet."""
    copy, old = page.archived, page.history
    assert copy is not None
    n_own, n_logged = len(found.past["rows"]), sum(len(past["rows"]) for past in found.past_logged)
    if not n_own and not n_logged:
        return
    page.history = joined_past(
        page.n,
        [past_part(old, 0, copy.past), found.past, past_part(old, copy.past, copy.past_logged), *found.past_logged],
        past_part(old, copy.past_logged, None),
        old,
    )
    copy.past += n_own
    copy.past_logged += n_own + n_logged


def past_part(history: PageHistory | None, start: int, stop: int | None) -> PastColumns:
    if history is None:
        return {name: np.zeros(0, dtype) for name, dtype in PAST_COLUMNS.items()}
    return {name: getattr(history, name)[start:stop] for name in PAST_COLUMNS}


def joined_past(
    size: int, parts: Sequence[PastColumns], new: PastColumns, old: PageHistory | None
) -> PageHistory | None:
    """A history of entries that the archive has and of new ones; what the journal has of `old` it has of this one."""
    columns = {name: np.concatenate([part[name] for part in (*parts, new)]) for name in PAST_COLUMNS}
    if not len(columns["rows"]):
        return old
    history = PageHistory(size)
    history.restore(columns["rows"].astype(np.intp), columns["kinds"], columns["channels"], columns["at_ms"])
    if old is not None:
        history.written -= old.n - old.written
        history.records = old.records
    return history


def overlay(whole: LedgerPage, page: LedgerPage) -> None:
    """The page, as the archive has it, is as the page of which a few rows are here; but for its counts."""
    here, copy, mine = page.here, whole.archived, page.archived
    assert here is not None
    assert copy is not None
    assert mine is not None
    rows = here.rows
    for name in STATE_COLUMNS:
        getattr(whole, name)[rows] = getattr(page, name)[rows]
    whole.slots[rows] = page.slots[rows]
    old, history = whole.history, page.history
    is_others = np.ones(0, np.bool_) if old is None else ~np.isin(old.rows, rows)
    n_own = int(np.count_nonzero(is_others[: copy.past]))
    entries = past_part(old, 0, None)
    others = {name: column[is_others] for name, column in entries.items()}
    own = {name: column[:n_own] for name, column in others.items()}
    logged = {name: column[n_own:] for name, column in others.items()}
    whole.history = joined_past(
        whole.n,
        [own, past_part(history, 0, mine.past), logged, past_part(history, mine.past, mine.past_logged)],
        past_part(history, mine.past_logged, None),
        history,
    )
    copy.past_logged = len(others["rows"]) + mine.past_logged
    copy.past = n_own + mine.past
    # Those that the page had when its rows were read; the rest are here.
    whole.bursts = whole.bursts[: mine.bursts_before] + page.bursts
    copy.bursts_logged = mine.bursts_before + mine.bursts_logged
    copy.marks[rows] = mine.marks[rows]
    copy.records, copy.log_bytes, copy.is_durable = mine.records, mine.log_bytes, mine.is_durable


def become_whole(page: LedgerPage, whole: LedgerPage) -> None:
    """All rows of the page are here. whole: what the archive has of it, which is used up."""
    overlay(whole, page)
    here = page.here
    assert here is not None
    batch = page.batch
    for name in ("device_ids", "variant_index", "channels", "target_hashes", "source_rows", "duplicates", "requests"):
        setattr(batch, name, getattr(whole.batch, name))
    batch.variables = whole.batch.variables
    if page.trail is not None:
        page.trail.widen(here.rows)
    if isinstance(page.away, FewRows):
        away = np.zeros(page.n, np.uint8)
        away[here.rows] = page.away[here.rows]
        page.away = away
    for name in (*STATE_COLUMNS, "slots", "history", "bursts", "archived"):
        setattr(page, name, getattr(whole, name))
    page.here = page.others = None
